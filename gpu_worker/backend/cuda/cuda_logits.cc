// From the last hidden rows to logits in host memory.
#include "gpu_worker/backend/cuda/cuda_forward.h"

namespace tandem::gpu_worker::cuda {

void CudaBackend::Logits(std::span<const LogitRow> rows, std::vector<float>* logits) {
  EndSegment();
  const int64_t count = static_cast<int64_t>(rows.size()), hidden = config_.hidden_size;
  const ShardRange own = weights_.vocab_split.of(rank_);
  TANDEM_CHECK_LE(count, info_.logit_rows_max);
  if (count == 0) return;
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
  logits->resize(count * config_.vocab_size);
  if (own.size() == config_.vocab_size) {
    CopyToHost(logits->data(), scratch_.logits, logits->size() * sizeof(float), stream_.get());
  } else {
    for (int64_t i = 0; i < count; ++i) {
      CopyToHost(logits->data() + i * config_.vocab_size + own.begin,
                 scratch_.logits + i * own.size(), own.size() * sizeof(float), stream_.get());
    }
  }
  Synchronize(stream_.get());
}

}  // namespace tandem::gpu_worker::cuda
