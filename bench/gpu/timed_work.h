// One measured row: a kernel at a shape, launched from a CUDA graph over buffers that take turns.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "bench/gpu/device_data.h"

namespace tandem::bench {

struct GpuWork {
  std::string operation, format, kernels, shape;
  int64_t rows = 0;
  // Of one launch: bytes of device memory that have to be moved, each once; operations, a
  // multiplication and an addition counted as two; and whether the tensor cores' fp8 rate applies.
  double bytes = 0, flops = 0;
  bool fp8_products = false;
  int copies = 2;  // buffers
  std::function<void(int copy)> launch;
  // ||out - reference|| / ||reference|| of copy 0's output after a launch; NaN: not compared. A
  // value that is not finite is an error of the kernel.
  std::function<double()> error;
};

struct Timing {
  double us_median = 0, us_best = 0;  // of one launch
  double us_warm_median = 0;          // with one buffer: what the L2 cache holds is found there
  int replays = 0, launches = 0;      // graphs timed, launches in each
};

struct TimingOptions {
  int replays = 21;
  int launches_min = 20;  // of a graph
  // Of buffers: the smallest shape needs 160 of them to be three times 60 MB.
  int copies_max = 256;
};

// Warms up, captures, replays. The stream is the data's.
Timing TimeWork(const GpuWork& work, cuda::Stream stream, const TimingOptions& options);

// ||a - b|| / ||b||; infinity when a value of `a` is not finite.
double RelativeDistance(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace tandem::bench
