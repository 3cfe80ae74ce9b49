// HostLinear: one linear layer's weights in the precision of the worker, and y = x W^T over all
// threads. Whatever type the file holds is converted once, at load.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/host/fp8_linear.h"
#include "gpu_worker/backend/host/linear_format.h"
#include "gpu_worker/backend/host/marlin_linear.h"
#include "gpu_worker/backend/host/stored_linear.h"
#include "gpu_worker/backend/shard/shard_plan.h"
#include "lib/base/thread_pool.h"
#include "lib/kernels/onednn_linear.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker {

// Scratch for packing inputs, one per backend; grows to the largest layer.
struct LinearScratch {
  std::vector<uint16_t> x;        // [rows, cols] bf16
  kernels::MatrixInput stored_x;  // of layers in the file's format
  Fp8Inputs fp8_x;
  std::vector<float> held_y;  // [rows, held outputs] of layers that hold more than they give
};

class HostLinear {
 public:
  HostLinear() = default;
  // Weights [outputs, inputs] filled by `row(i, dst)` for each output i, in f32; rounded to bf16 in
  // bf16 precision.
  HostLinear(Precision precision, int64_t outputs, int64_t inputs,
             const std::function<void(int64_t, float*)>& row);
  static HostLinear FromMatrix(Precision precision, const Matrix& matrix);

  // A layer in any format; other than native ones need bf16 precision and are for Apply and
  // ApplyUnrounded alone: ReadRow and ApplyRange are bugs then. Errors are those of Create in
  // stored_linear.h and its like, and of OneDnnLinear::Create.
  // `own`: these outputs alone, with the bits that they have in the whole layer; the rows they need
  // are read and no others. Null: all of them. An empty range makes an empty layer.
  static absl::StatusOr<HostLinear> Create(Precision precision, const LinearFormat& format,
                                           const Matrix& matrix, base::ThreadPool& pool,
                                           const ShardRange* own = nullptr);

  int64_t outputs() const { return outputs_; }
  int64_t inputs() const { return inputs_; }
  bool empty() const { return outputs_ == 0; }
  int64_t size_bytes() const;
  void ReadRow(int64_t i, float* dst) const;  // weights of output i as f32 [inputs]

  // y[r * y_stride + i] for all outputs i and rows r, rounded to bf16 in bf16 precision. x: [rows]
  // rows of `inputs` values, x_stride apart. Splits outputs over the pool.
  void Apply(base::ThreadPool& pool, LinearScratch& scratch, const float* x, int64_t x_stride,
             int64_t rows, float* y, int64_t y_stride) const;
  // The same, keeping the f32 sums (logits, router).
  void ApplyUnrounded(base::ThreadPool& pool, LinearScratch& scratch, const float* x,
                      int64_t x_stride, int64_t rows, float* y, int64_t y_stride) const;
  // The same for outputs [begin, end) on the calling thread; y is indexed from `begin`. `round`:
  // false keeps f32 sums.
  void ApplyRange(const void* packed_x, int64_t x_stride, int64_t rows, int64_t begin, int64_t end,
                  bool round, float* y, int64_t y_stride) const;

 private:
  bool IsNative() const {
    return onednn_ == nullptr && stored_ == nullptr && fp8_ == nullptr && marlin_ == nullptr;
  }
  absl::Status MakeFormat(const LinearFormat& format, const Matrix& matrix, base::ThreadPool& pool);
  // f32 sums of all held outputs, in a format that is not native.
  void ApplyFormat(base::ThreadPool& pool, LinearScratch& scratch, const float* x, int64_t x_stride,
                   int64_t rows, float* y, int64_t y_stride) const;
  void ApplyAll(base::ThreadPool& pool, LinearScratch& scratch, const float* x, int64_t x_stride,
                int64_t rows, bool round, float* y, int64_t y_stride) const;

  Precision precision_ = Precision::kBf16;
  int64_t outputs_ = 0, inputs_ = 0;
  // Outputs [skip_, skip_ + outputs_) of the held_ that the format has are this layer's.
  int64_t held_ = 0, skip_ = 0;
  std::vector<uint16_t> bf16_;  // [outputs, inputs], bf16 precision; empty unless native
  std::unique_ptr<kernels::OneDnnLinear> onednn_;
  std::unique_ptr<StoredLinear> stored_;
  std::unique_ptr<Fp8Linear> fp8_;
  std::unique_ptr<MarlinLinear> marlin_;
  std::vector<float> f32_;  // [outputs, inputs], f32 precision
};

// Packs rows of f32 values that are bf16 numbers; x_stride apart, packed contiguously. Exact.
void PackBf16(const float* x, int64_t x_stride, int64_t rows, int64_t cols, uint16_t* out);

}  // namespace tandem::gpu_worker
