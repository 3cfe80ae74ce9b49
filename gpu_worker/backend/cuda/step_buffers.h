// StepBuffers: what a step's kernels read besides activations: token ids, rope tables, cache slots,
// page tables, lengths, the plan of the decode kernel. One pinned and one device allocation a slot,
// at addresses that never change, so that graphs captured with them can be replayed for any later
// step; one copy a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"
#include "gpu_worker/backend/host/rope.h"

namespace tandem::gpu_worker::cuda {

struct StepShape {
  MlaShape mla;
  int64_t rows_max = 0;
  int64_t pages_per_sequence_max = 0;
  int multiprocessors = 1;
  size_t shared_bytes_max = 0;  // of a thread block

  int64_t tokens_max() const { return pages_per_sequence_max * kPageTokens; }
};

// Consecutive rows that the decode kernel takes; rows of prompts among them have length 0. All
// rows, padding too, in a step without prompts.
struct DecodeRange {
  int64_t begin = 0, rows = 0;
};

class StepBuffers {
 public:
  // Bytes of one, pinned and on the device each.
  static size_t BytesFor(const StepShape& shape);
  static absl::StatusOr<StepBuffers> Create(const StepShape& shape);

  // Fills the buffers from `step` and copies them on `stream`. The rows behind step.rows(), up to
  // `rows_padded`, are padding: token 0, no cache slot, no keys. All rows that are not `decode`
  // segments get length 0. Waits until the copy of the last Upload has been made.
  void Upload(const StepBatch& step, int64_t rows_padded, const Rope& rope, Stream stream);

  // Of the last Upload; pointers are to device memory.
  DecodeRange decode() const { return decode_; }
  const uint32_t* ids() const { return At<uint32_t>(ids_); }
  const float* cos() const { return At<float>(cos_); }
  const float* sin() const { return At<float>(sin_); }
  const int64_t* slots() const { return At<int64_t>(slots_); }
  const int32_t* lengths() const { return At<int32_t>(lengths_); }
  const void* plan() const { return At<int32_t>(plan_); }
  int64_t page_table_stride() const { return shape_.pages_per_sequence_max; }
  const int32_t* pages_of_row(int64_t row) const {
    return At<int32_t>(pages_) + row * page_table_stride();
  }

 private:
  explicit StepBuffers(const StepShape& shape);
  template <typename T>
  const T* At(size_t offset) const {
    return reinterpret_cast<const T*>(device_.as<unsigned char>() + offset);
  }
  template <typename T>
  T* Host(size_t offset) const {
    return reinterpret_cast<T*>(pinned_.as<unsigned char>() + offset);
  }
  void FillRows(const StepBatch& step, int64_t rows_padded, const Rope& rope);
  void FillSegments(const StepBatch& step, int64_t rows_padded);

  StepShape shape_;
  size_t ids_ = 0, cos_ = 0, sin_ = 0, slots_ = 0, lengths_ = 0, plan_ = 0, pages_ = 0, bytes_ = 0;
  PinnedMemory pinned_;
  DeviceMemory device_;
  OwnedEvent copied_;
  bool copying_ = false;
  DecodeRange decode_;
  int64_t table_rows_ = 0;  // page tables lie in rows below
};

}  // namespace tandem::gpu_worker::cuda
