#include "gpu_worker/backend/host/host_linear.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "gpu_worker/backend/host/bf16.h"
#include "gpu_worker/backend/host/load_rows.h"
#include "gpu_worker/backend/host/output_shares.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/linear.h"

namespace tandem::gpu_worker {
namespace {

void RoundRows(int64_t rows, int64_t count, float* y, int64_t y_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < count; ++i) y[r * y_stride + i] = RoundBf16(y[r * y_stride + i]);
  }
}

}  // namespace

void PackBf16(const float* x, int64_t x_stride, int64_t rows, int64_t cols, uint16_t* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* src = x + r * x_stride;
    uint16_t* dst = out + r * cols;
    for (int64_t i = 0; i < cols; ++i) dst[i] = Bf16Bits(src[i]);
  }
}

HostLinear::HostLinear(Precision precision, int64_t outputs, int64_t inputs,
                       const std::function<void(int64_t, float*)>& row)
    : precision_(precision), outputs_(outputs), inputs_(inputs) {
  TANDEM_CHECK_GT(outputs, 0);
  TANDEM_CHECK_GT(inputs, 0);
  if (precision == Precision::kF32) {
    f32_.resize(outputs * inputs);
    for (int64_t i = 0; i < outputs; ++i) row(i, f32_.data() + i * inputs);
    return;
  }
  bf16_.resize(outputs * inputs);
  std::vector<float> values(inputs);
  for (int64_t i = 0; i < outputs; ++i) {
    row(i, values.data());
    PackBf16(values.data(), inputs, 1, inputs, bf16_.data() + i * inputs);
  }
}

HostLinear HostLinear::FromMatrix(Precision precision, const Matrix& matrix) {
  return HostLinear(precision, matrix.rows(), matrix.cols(),
                    [&](int64_t i, float* dst) { DequantizeMatrixRow(matrix, i, dst); });
}

absl::StatusOr<HostLinear> HostLinear::Create(Precision precision, const LinearFormat& format,
                                              const Matrix& matrix, base::ThreadPool& pool,
                                              const ShardRange* own) {
  TANDEM_CHECK(format.kernel == LinearKernel::kNative || precision == Precision::kBf16);
  const ShardRange wanted = own == nullptr ? ShardRange{0, matrix.rows()} : *own;
  if (wanted.empty()) return HostLinear();
  if (format.kernel == LinearKernel::kNative) {
    return HostLinear(precision, wanted.size(), matrix.cols(), [&](int64_t i, float* dst) {
      DequantizeMatrixRow(matrix, wanted.begin + i, dst);
    });
  }
  // Neither the format's blocks nor those of an fp8 file are cut.
  const int64_t file_block = std::max<int64_t>(matrix.fp8_block_rows, 1);
  const int64_t block = std::lcm(ShardNeedsOf(format).block, file_block);
  const ShardRange held = HeldRange(wanted, block, matrix.rows());
  HostLinear linear;
  linear.outputs_ = wanted.size();
  linear.inputs_ = matrix.cols();
  linear.held_ = held.size();
  linear.skip_ = wanted.begin - held.begin;
  TANDEM_RETURN_IF_ERROR(linear.MakeFormat(format, RowsOf(matrix, held.begin, held.end), pool));
  return linear;
}

absl::Status HostLinear::MakeFormat(const LinearFormat& format, const Matrix& matrix,
                                    base::ThreadPool& pool) {
  switch (format.kernel) {
    case LinearKernel::kNative:
      break;
    case LinearKernel::kOneDnn: {
      const HostLinear bf16 = FromMatrix(Precision::kBf16, matrix);
      TANDEM_ASSIGN_OR_RETURN(
          onednn_, kernels::OneDnnLinear::Create(bf16.bf16_.data(), bf16.outputs_, bf16.inputs_));
      return absl::OkStatus();
    }
    case LinearKernel::kStored: {
      TANDEM_ASSIGN_OR_RETURN(stored_, StoredLinear::Create(matrix, pool));
      return absl::OkStatus();
    }
    case LinearKernel::kFp8: {
      TANDEM_ASSIGN_OR_RETURN(fp8_, Fp8Linear::Create(matrix, pool));
      return absl::OkStatus();
    }
    case LinearKernel::kMarlin8:
    case LinearKernel::kMarlin4: {
      const int bits = format.kernel == LinearKernel::kMarlin8 ? 8 : 4;
      TANDEM_ASSIGN_OR_RETURN(
          marlin_, MarlinLinear::Create({.bits = bits, .group = format.group}, matrix, pool));
      return absl::OkStatus();
    }
  }
  base::CheckFailed(__FILE__, __LINE__, "a kernel that is none of the above");
}

int64_t HostLinear::size_bytes() const {
  if (stored_ != nullptr) return stored_->size_bytes();
  if (fp8_ != nullptr) return fp8_->size_bytes();
  if (marlin_ != nullptr) return marlin_->size_bytes();
  const int64_t value_bytes = precision_ == Precision::kF32 ? sizeof(float) : sizeof(uint16_t);
  return (onednn_ != nullptr ? held_ : outputs_) * inputs_ * value_bytes;
}

void HostLinear::ReadRow(int64_t i, float* dst) const {
  TANDEM_CHECK(i >= 0 && i < outputs_ && IsNative());
  if (precision_ == Precision::kF32) {
    std::memcpy(dst, f32_.data() + i * inputs_, inputs_ * sizeof(float));
    return;
  }
  for (int64_t k = 0; k < inputs_; ++k) dst[k] = Bf16Value(bf16_[i * inputs_ + k]);
}

void HostLinear::ApplyRange(const void* packed_x, int64_t x_stride, int64_t rows, int64_t begin,
                            int64_t end, bool round, float* y, int64_t y_stride) const {
  const int64_t count = end - begin;
  kernels::LinearArgs args{.x = packed_x,
                           .x_stride = x_stride,
                           .y = y,
                           .y_stride = y_stride,
                           .rows = rows,
                           .cols = inputs_,
                           .n_begin = 0,
                           .n_end = count};
  if (precision_ == Precision::kF32) {
    args.w = f32_.data() + begin * inputs_;
    kernels::LinearF32(args);
    return;
  }
  TANDEM_CHECK(IsNative());
  args.w = bf16_.data() + begin * inputs_;
  kernels::LinearBf16(args);
  if (round) RoundRows(rows, count, y, y_stride);
}

void HostLinear::ApplyFormat(base::ThreadPool& pool, LinearScratch& scratch, const float* x,
                             int64_t x_stride, int64_t rows, float* y, int64_t y_stride) const {
  if (stored_ != nullptr) {
    return stored_->Apply(pool, scratch.stored_x, x, x_stride, rows, y, y_stride);
  }
  if (fp8_ != nullptr) {
    return fp8_->Apply(pool, scratch.fp8_x, x, x_stride, rows, y, y_stride);
  }
  scratch.x.resize(std::max<size_t>(scratch.x.size(), rows * inputs_));
  PackBf16(x, x_stride, rows, inputs_, scratch.x.data());
  if (marlin_ != nullptr) return marlin_->Apply(pool, scratch.x.data(), rows, y, y_stride);
  pool.ParallelFor(onednn_->slices(), 1, [&](int64_t begin, int64_t end) {
    onednn_->Run(scratch.x.data(), inputs_, rows, begin, end, y, y_stride);
  });
}

void HostLinear::ApplyAll(base::ThreadPool& pool, LinearScratch& scratch, const float* x,
                          int64_t x_stride, int64_t rows, bool round, float* y,
                          int64_t y_stride) const {
  if (rows == 0 || empty()) return;
  if (!IsNative()) {
    if (held_ == outputs_) {
      ApplyFormat(pool, scratch, x, x_stride, rows, y, y_stride);
    } else {
      scratch.held_y.resize(std::max<size_t>(scratch.held_y.size(), rows * held_));
      ApplyFormat(pool, scratch, x, x_stride, rows, scratch.held_y.data(), held_);
      for (int64_t r = 0; r < rows; ++r) {
        std::copy_n(scratch.held_y.data() + r * held_ + skip_, outputs_, y + r * y_stride);
      }
    }
    if (round) RoundRows(rows, outputs_, y, y_stride);
    return;
  }
  const void* packed = x;
  if (precision_ == Precision::kBf16) {
    scratch.x.resize(std::max<size_t>(scratch.x.size(), rows * inputs_));
    PackBf16(x, x_stride, rows, inputs_, scratch.x.data());
    packed = scratch.x.data();
    x_stride = inputs_;
  }
  pool.ParallelFor(outputs_, kOutputGrain, [&](int64_t begin, int64_t end) {
    ApplyRange(packed, x_stride, rows, begin, end, round, y + begin, y_stride);
  });
}

void HostLinear::Apply(base::ThreadPool& pool, LinearScratch& scratch, const float* x,
                       int64_t x_stride, int64_t rows, float* y, int64_t y_stride) const {
  ApplyAll(pool, scratch, x, x_stride, rows, /*round=*/true, y, y_stride);
}

void HostLinear::ApplyUnrounded(base::ThreadPool& pool, LinearScratch& scratch, const float* x,
                                int64_t x_stride, int64_t rows, float* y, int64_t y_stride) const {
  ApplyAll(pool, scratch, x, x_stride, rows, /*round=*/false, y, y_stride);
}

}  // namespace tandem::gpu_worker
