// Shapes of the CUDA backend that follow from a model, its formats and a rank: how much scratch
// there must be, and what the router's kernel is asked. Pure; memory is planned with it before
// anything is allocated.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/cuda_scratch.h"
#include "gpu_worker/backend/cuda/cuda_weights.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "gpu_worker/backend/shard/shard_plan.h"
#include "lib/model/config.h"

namespace tandem::gpu_worker::cuda {

struct ShapeInputs {
  const ModelConfig* config = nullptr;
  const CudaWeights* weights = nullptr;  // shapes are enough
  const ShardPlan* plan = nullptr;
  int rank = 0;
  Storage storage = Storage::kBf16;
  AttentionKernel attention = AttentionKernel::kFlash;
  Kernels kernels = Kernels::kPortable;
  int64_t kv_pages = 0;  // 0: not known yet
  int64_t rows_max = 0, logit_rows_max = 0;
  const DeviceProperties* device = nullptr;
};

ScratchShape ScratchShapeOf(const ShapeInputs& in);

// Whether a product of the layer reads the norm's rows in fp8.
bool ReadsFp8(const CudaLayer& layer, NormSite site);

// What Route is asked for this model; rows and places are left open.
RouteArgs RouteShapeOf(const ModelConfig& config);

}  // namespace tandem::gpu_worker::cuda
