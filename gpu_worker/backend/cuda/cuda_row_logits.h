// CudaRowLogits: logits in device memory, and the little of them that goes to the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/device_arena.h"
#include "gpu_worker/backend/row_logits.h"
#include "gpu_worker/backend/shard/shard_plan.h"

namespace tandem::gpu_worker::cuda {

struct RowLogitsShape {
  int64_t rows_max = 0;
  int64_t vocab = 0;
  ShardRange own;  // the ids that are here
};

class CudaRowLogits : public RowLogits {
 public:
  // Device memory of one, beside the logits themselves.
  static size_t DeviceBytesFor(const RowLogitsShape& shape);
  // logits [rows_max, own.size()] f32 on the device, which the caller keeps and fills on `stream`.
  static absl::StatusOr<std::unique_ptr<CudaRowLogits>> Create(const RowLogitsShape& shape,
                                                               const float* logits, Stream stream);

  // How many rows there are now, at most rows_max.
  void SetRows(int64_t rows);

  // Each waits for its answer. What comes back lands in pinned memory; many places or rows come in
  // several copies.
  void Best(int64_t k, BestLogits* best) override;
  void WeightSums(std::span<const WeightSumAsk> asks, std::vector<uint64_t>* sums) override;
  void At(std::span<const LogitPlace> places, std::vector<float>* values) override;
  void Rows(std::span<const int64_t> rows, std::vector<float>* logits) override;

 private:
  CudaRowLogits(const RowLogitsShape& shape, const float* logits, Stream stream)
      : shape_(shape), logits_(logits), stream_(stream) {}

  // On the device.
  struct Places {
    void *questions = nullptr, *answers = nullptr, *workspace = nullptr;
  };
  static Places TakeFrom(DeviceArena& arena, const RowLogitsShape& shape);
  void SumsOf(std::span<const WeightSumAsk> asks, uint64_t* sums);
  void ValuesAt(std::span<const LogitPlace> places, float* values);

  const RowLogitsShape shape_;
  const float* const logits_;
  const Stream stream_;
  int64_t rows_ = 0;
  DeviceMemory device_;  // of the places
  Places places_;
  PinnedMemory sent_, received_;
};

}  // namespace tandem::gpu_worker::cuda
