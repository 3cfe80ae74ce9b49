// LinearProblem: a random linear layer for tests, computed on the device and by lib/kernels. Input
// rows are apart by a gap of NaN, output rows by a gap that must stay as it is, and the workspace
// is as small as it may be and full of NaN.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/cuda/kernels/linear/hopper_fp8.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {

inline constexpr WeightFormat kEveryFormat[] = {{WeightKind::kF32},      {WeightKind::kBf16},
                                                {WeightKind::kFp8},      {WeightKind::kInt8, 128},
                                                {WeightKind::kInt8, 64}, {WeightKind::kInt4, 128},
                                                {WeightKind::kInt4, 64}};

struct LinearShape {
  int64_t outputs = 0, inputs = 0, rows = 0, batch = 1;
};

class LinearProblem {
 public:
  // Inputs are normal, bf16 numbers.
  LinearProblem(const WeightFormat& format, const LinearShape& shape, uint64_t seed);

  std::string Name() const;

  // [batch, rows, outputs]: what the host's kernels make of it, f32.
  std::vector<float> OnHost() const;
  // In float64 on the numbers that the format has, and the sum of the magnitudes of the products.
  struct Exact {
    std::vector<double> sums, magnitudes;
  };
  Exact InDouble() const;

  // [batch, rows, outputs] from the device; rows [first, first + count) of each matrix alone.
  std::vector<float> Run(Kernels kernels, int64_t first, int64_t count) const;
  std::vector<float> Run(Kernels kernels) const { return Run(kernels, 0, shape_.rows); }

  Storage x_storage = Storage::kBf16;  // f32 for f32 weights
  Storage y_storage = Storage::kF32;
  int64_t x_gap = 8, y_gap = 3;  // values between rows
  bool allow_batch_dependent = false;
  // Parts that LinearPortable, called by itself, is to cut the inputs into; 0: Linear's choice. Not
  // for f32 weights, and only for inputs in multiples of 8 that LinearPortable can read as they
  // are.
  int64_t splits = 0;
  bool quantized = false;  // fp8, batch 1: Linear is given codes and scales instead of rows
  // A plan that LinearHopperFp8 is to go by; none: Linear's.
  std::optional<HopperFp8Plan> hopper_plan;
  int runs = 1;  // one after another in the same workspace; the last one counts

  float& Input(int64_t b, int64_t row, int64_t k) {
    return x_[(b * shape_.rows + row) * shape_.inputs + k];
  }

 private:
  struct HostMatrix;
  HostMatrix OfHost(int64_t b) const;
  DeviceMatrix Upload(DeviceForTest& device) const;
  Fp8Rows Quantize(const LinearArgs& args, DeviceForTest& device) const;
  void RunSplit(const LinearArgs& args, DeviceForTest& device) const;
  std::vector<float> Collect(const LinearArgs& args, DeviceForTest& device) const;
  std::vector<float> Weights(int64_t b) const;  // that the format has, [outputs, inputs]

  WeightFormat format_;
  LinearShape shape_;
  std::vector<float> weights_;  // [batch, outputs, inputs]
  std::vector<float> x_;        // [batch, rows, inputs]
};

}  // namespace tandem::gpu_worker::cuda
