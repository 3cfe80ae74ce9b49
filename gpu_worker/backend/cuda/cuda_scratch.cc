#include "gpu_worker/backend/cuda/cuda_scratch.h"

#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/linear/pack.h"

namespace tandem::gpu_worker::cuda {
namespace {

Fp8Scratch TakeFp8(int64_t rows, int64_t cols, DeviceArena& arena) {
  if (cols == 0) return {};
  const int64_t runs = (cols + kFp8ScaleBlock - 1) / kFp8ScaleBlock;
  Fp8Scratch s;
  s.codes = arena.Take<uint8_t>(rows * runs * kFp8ScaleBlock);
  s.scales = arena.Take<float>(rows * runs);
  return s;
}

}  // namespace

CudaScratch TakeScratch(const ScratchShape& shape, DeviceArena& arena) {
  const int64_t rows = shape.step.rows_max, value_bytes = BytesOf(shape.storage);
  const MlaShape& mla = shape.step.mla;
  CudaScratch s;
  s.q_kv = arena.Take(rows * shape.q_kv_stride * value_bytes);
  s.gate_up = arena.Take(rows * shape.gate_up_stride * value_bytes);
  s.normed = TakeFp8(rows, shape.normed_fp8_cols, arena);
  s.inner = TakeFp8(rows, shape.inner_fp8_cols, arena);
  s.delta = arena.Take(rows * shape.hidden * value_bytes);
  if (shape.absorbed) {
    s.latent_q = arena.Take(rows * mla.heads * mla.key() * value_bytes);
    s.latent_out = arena.Take(rows * mla.heads * mla.latent * value_bytes);
  }
  s.router_logits = arena.Take<float>(rows * shape.experts);
  s.logit_row_ids = arena.Take<uint32_t>(shape.logit_rows_max);
  s.logit_rows = arena.Take(shape.logit_rows_max * shape.hidden * value_bytes);
  s.logits = arena.Take<float>(shape.logit_rows_max * shape.vocab);
  s.workspace_bytes = std::max(
      {shape.linear_workspace_bytes, PrefillWorkspaceBytes(mla, shape.storage, rows),
       DecodeWorkspaceBytes(mla, rows, shape.step.tokens_max(), shape.step.multiprocessors)});
  s.workspace = arena.Take(s.workspace_bytes);
  if (shape.ranks > 1) {
    s.part = arena.Take(rows * shape.part_cols_max * value_bytes);
    s.gathered = arena.Take(shape.ranks * rows * shape.part_cols_max * value_bytes);
    s.whole = arena.Take(rows * shape.gathered_cols_max * value_bytes);
  }
  for (SlotScratch& slot : s.slots) {
    slot.wire = arena.Take(rows * shape.hidden * value_bytes);
    slot.routed = arena.Take<float>(rows * shape.hidden);
    slot.expert_ids = arena.Take<uint32_t>(rows * shape.experts_per_row);
    slot.expert_weights = arena.Take<float>(rows * shape.experts_per_row);
    slot.forced_ids = arena.Take<uint32_t>(rows * shape.experts_per_row);
  }
  return s;
}

}  // namespace tandem::gpu_worker::cuda
