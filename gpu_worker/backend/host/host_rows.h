// Activations of the host backend: f32 memory whose values are bf16 numbers in bf16 precision.
// Keeping one storage type makes each operation one piece of code; linear layers pack their input
// to bf16, which is then exact.
#pragma once

#include <cstdint>
#include <vector>

#include "gpu_worker/backend/backend.h"

namespace tandem::gpu_worker {

class HostRows : public DeviceRows {
 public:
  HostRows(int64_t rows_max, int64_t cols)
      : cols_(cols), values_(static_cast<size_t>(rows_max * cols)) {}
  int64_t cols() const { return cols_; }
  float* row(int64_t r) { return values_.data() + r * cols_; }
  const float* row(int64_t r) const { return values_.data() + r * cols_; }

 private:
  int64_t cols_;
  std::vector<float> values_;  // [rows_max, cols]
};

inline HostRows& AsHost(DeviceRows& rows) { return static_cast<HostRows&>(rows); }
inline const HostRows& AsHost(const DeviceRows& rows) { return static_cast<const HostRows&>(rows); }

}  // namespace tandem::gpu_worker
