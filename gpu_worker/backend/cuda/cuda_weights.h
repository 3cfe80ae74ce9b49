// CudaWeights: everything of a model but the routed experts, packed for the kernels and copied into
// one allocation on the device, whose size is known before a weight is read. A rank of several has
// its share of the outputs (shard_plan.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear.h"
#include "gpu_worker/backend/host/linear_format.h"
#include "gpu_worker/backend/shard/shard_plan.h"
#include "lib/base/thread_pool.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker::cuda {

// What the weights are made for.
struct CudaFormats {
  Precision precision = Precision::kBf16;
  AttentionKernel attention = AttentionKernel::kFlash;
  bool prefill_unabsorbed = true;  // prompts need keys per head as well as absorbed ones
  LinearFormat linear;
  std::map<std::string, LinearFormat> linear_of;  // by module path; others have `linear`

  LinearFormat FormatOf(const std::string& module) const {
    const auto found = linear_of.find(module);
    return found == linear_of.end() ? linear : found->second;
  }
  Storage storage() const { return precision == Precision::kF32 ? Storage::kF32 : Storage::kBf16; }
};

// The device's name for a format. INVALID_ARGUMENT for those that are the host's alone (onednn,
// stored) and for quantized ones in f32 precision.
absl::StatusOr<WeightFormat> DeviceFormat(const LinearFormat& format, Precision precision);

inline bool IsFp8(const DeviceMatrix& w) {
  return w.outputs > 0 && w.format.kind == WeightKind::kFp8;
}

// Two linear layers of the same inputs, their outputs side by side in rows of `stride` values: the
// first's from 0 on, the second's from second_begin on. One product where the formats agree, else
// two. A matrix of no outputs is absent.
struct CudaPair {
  DeviceMatrix both;           // the first's outputs, padding, the second's
  DeviceMatrix first, second;  // where there is no `both`
  int64_t second_begin = 0, stride = 0;

  // Whether one of the products reads fp8 rows.
  bool ReadsFp8() const { return IsFp8(both) || IsFp8(first) || IsFp8(second); }
};

struct CudaFfn {
  CudaPair gate_up;
  DeviceMatrix down;
  Split inter, hidden;  // outputs of gate and up, of down
};

struct CudaLayer {
  const float* attention_norm = nullptr;  // [hidden]
  const float* ffn_norm = nullptr;        // [hidden]
  CudaPair q_kv_a;                        // q_a and kv_a; of models that have no q_a, q and kv_a
  DeviceMatrix q_b;                       // outputs 0: absent, as q_a is
  const float* q_a_norm = nullptr;        // [q_lora]
  const float* kv_a_norm = nullptr;       // [kv_lora]
  DeviceMatrix absorb;                    // batch = heads: [kv_lora, nope], flash only
  DeviceMatrix key_up;                    // batch = heads: [nope, kv_lora], where keys are rebuilt
  DeviceMatrix value_up;                  // batch = heads: [v, kv_lora]
  DeviceMatrix o;
  Split o_split;
  std::optional<CudaFfn> dense, shared;
  DeviceMatrix router;                 // [experts, hidden] f32; rank 0 alone
  const float* router_bias = nullptr;  // [experts] or null
};

struct CudaWeights {
  DeviceMemory memory;  // all that follows points into it
  size_t bytes = 0;     // of it
  // [vocab, hidden] bf16, or f32 in f32 precision; of several ranks each has columns of its own.
  const void* embedding = nullptr;
  Split embedding_split;
  std::vector<CudaLayer> layers;
  const float* final_norm = nullptr;
  DeviceMatrix head;  // [vocab, hidden]
  Split vocab_split;
};

// One rank of a plan.
struct CudaShard {
  const ShardPlan* plan = nullptr;
  int rank = 0;
};

// The shapes of what will be loaded and `bytes`, without memory. Errors are those of DeviceFormat;
// UNIMPLEMENTED where a rank's share of an fp8 layer does not begin with a block of scales.
absl::StatusOr<CudaWeights> CudaWeightShapes(const ModelConfig& config, const CudaFormats& formats,
                                             const CudaShard& shard);

// Packs on `pool`, copies on `stream`; rank 0 logs a line a layer. RESOURCE_EXHAUSTED when the
// device has no room; DATA_LOSS names a weight that cannot be used.
absl::StatusOr<CudaWeights> LoadCudaWeights(const ModelWeights& weights, const CudaFormats& formats,
                                            const CudaShard& shard, base::ThreadPool& pool,
                                            Stream stream);

}  // namespace tandem::gpu_worker::cuda
