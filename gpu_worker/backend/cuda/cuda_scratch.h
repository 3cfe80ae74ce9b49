// CudaScratch: the device memory of one forward pass that no caller sees: results between two
// kernels, partial sums, what travels to and from the host. Shared by both slots where the stream's
// order allows it, one per slot where copies run beside.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/cuda_weights.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/device_arena.h"
#include "gpu_worker/backend/cuda/step_buffers.h"

namespace tandem::gpu_worker::cuda {

// Sizes that are the same for all layers. vocab: the rank's share.
struct ScratchShape {
  StepShape step;
  Storage storage = Storage::kBf16;
  Kernels kernels = Kernels::kPortable;
  int64_t hidden = 0, vocab = 0, experts = 0, experts_per_row = 0;
  int64_t q_kv_stride = 0, gate_up_stride = 0;  // the widest of CudaPair's
  // Of rows that fp8 products read: as a norm leaves them, and between two products of a layer.
  // 0: none.
  int64_t normed_fp8_cols = 0, inner_fp8_cols = 0;
  int64_t logit_rows_max = 0;
  size_t linear_workspace_bytes = 0;
  // Of several ranks: the widest row that is gathered, the widest part of one, and how many.
  int64_t gathered_cols_max = 0, part_cols_max = 0;
  int ranks = 1;
  bool absorbed = true;  // rows of the decode kernel exist
};

// Of one slot, on the device.
struct SlotScratch {
  void* wire = nullptr;             // [rows, hidden]
  float* routed = nullptr;          // [rows, hidden] f32
  uint32_t* expert_ids = nullptr;   // [rows, experts_per_row]
  float* expert_weights = nullptr;  // [rows, experts_per_row] f32
  uint32_t* forced_ids = nullptr;   // [rows, experts_per_row]
};

// Quantized rows (Fp8Rows of linear.h) to be written; null: none.
struct Fp8Scratch {
  uint8_t* codes = nullptr;
  float* scales = nullptr;
};

struct CudaScratch {
  void* q_kv = nullptr;               // [rows, q_kv_stride]: q_a's, or q's, and kv_a's outputs
  void* gate_up = nullptr;            // [rows, gate_up_stride]
  Fp8Scratch normed;                  // of normed_fp8_cols
  Fp8Scratch inner;                   // of inner_fp8_cols
  void* delta = nullptr;              // [rows, hidden]
  void* latent_q = nullptr;           // [rows, heads, kv_row]
  void* latent_out = nullptr;         // [rows, heads, latent]
  float* router_logits = nullptr;     // [rows, experts] f32
  uint32_t* logit_row_ids = nullptr;  // [logit_rows_max]
  void* logit_rows = nullptr;         // [logit_rows_max, hidden]
  float* logits = nullptr;            // [logit_rows_max, vocab] f32
  void* workspace = nullptr;          // of the linear, decode and prefill kernels, one at a time
  size_t workspace_bytes = 0;
  // Of several ranks: this one's part, all parts, and whole rows made of them.
  void* part = nullptr;      // [rows, part_cols_max]
  void* gathered = nullptr;  // [ranks, rows, part_cols_max]
  void* whole = nullptr;     // [rows, gathered_cols_max]
  SlotScratch slots[kStepSlots];
};

// Takes everything from `arena`, which may only be counting.
CudaScratch TakeScratch(const ScratchShape& shape, DeviceArena& arena);

}  // namespace tandem::gpu_worker::cuda
