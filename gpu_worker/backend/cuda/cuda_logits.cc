// From the last hidden rows to logits.
#include "gpu_worker/backend/cuda/cuda_forward.h"

namespace tandem::gpu_worker::cuda {

RowLogits& CudaBackend::ComputeLogits(std::span<const LogitRow> rows) {
  EndSegment();
  const int64_t count = static_cast<int64_t>(rows.size()), hidden = config_.hidden_size;
  const ShardRange own = weights_.vocab_split.of(rank_);
  TANDEM_CHECK_LE(count, info_.logit_rows_max);
  logits_->SetRows(count);
  if (count == 0) return *logits_;
  Do("logits", -1, [=, this](Stream stream) {
    for (int64_t i = 0; i < count; ++i) {
      const auto* from = static_cast<const std::byte*>(AsCuda(*rows[i].x).data());
      CopyOnDevice(static_cast<std::byte*>(scratch_.logit_rows) + i * hidden * BytesOf(storage_),
                   from + rows[i].row * hidden * BytesOf(storage_), hidden * BytesOf(storage_),
                   stream);
    }
    RmsNorm({.storage = storage_,
             .x = scratch_.logit_rows,
             .x_stride = hidden,
             .weight = weights_.final_norm,
             .eps = static_cast<float>(config_.rms_norm_eps),
             .cols = hidden,
             .rows = count,
             .out = scratch_.logit_rows,
             .out_stride = hidden},
            stream);
    if (own.empty()) return;
    cuda::Linear(LinearOf(weights_.head, scratch_.logit_rows, hidden, count, scratch_.logits,
                          own.size(), Storage::kF32),
                 stream);
  });
  return *logits_;
}

}  // namespace tandem::gpu_worker::cuda
