#include "bench/gpu/rooflines.h"

#include "bench/gpu/timed_work.h"

namespace tandem::bench {

GpuRooflines MeasureRooflines(const cuda::DeviceProperties& properties, cuda::Stream stream,
                              bool quick) {
  GpuRooflines rooflines;
  DeviceData data(properties, stream, 1, 1);
  const int64_t values = quick ? 1 << 12 : int64_t{1} << 29;  // 1 GiB of bf16
  GpuWork copy;
  const auto* from = data.Bf16(values);
  auto* to = static_cast<uint16_t*>(data.Bytes(values * 2));
  copy.copies = 1;
  copy.launch = [&](int) { cuda::CopyOnDevice(to, from, values * 2, stream); };
  const Timing timing = TimeWork(copy, stream, {.replays = 9, .launches_min = 4});
  rooflines.copy_gb_s = 2 * 2 * static_cast<double>(values) / timing.us_median / 1e3;
  const int64_t n = quick ? 64 : 8192;
  if (const auto us = VendorProductUs(n, &data)) {
    rooflines.bf16_tflop_s = 2.0 * n * n * n / *us / 1e6;
  }
  return rooflines;
}

}  // namespace tandem::bench
