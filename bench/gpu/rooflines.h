// What the device can do at most, measured in the same run as the kernels that are held against it.
#pragma once

#include <cstdint>
#include <optional>

#include "bench/gpu/device_data.h"

namespace tandem::bench {

struct GpuRooflines {
  double copy_gb_s = 0;                // of a large copy, bytes read and written counted
  std::optional<double> bf16_tflop_s;  // cuBLASLt, square; absent where it is not linked
};

// quick: buffers and matrices so small that nothing is measured, only tried.
GpuRooflines MeasureRooflines(const cuda::DeviceProperties& properties, cuda::Stream stream,
                              bool quick);

// Microseconds of one bf16 product of [n, n] matrices by the vendor's library; nothing where the
// program was built without it.
std::optional<double> VendorProductUs(int64_t n, DeviceData* data);

}  // namespace tandem::bench
