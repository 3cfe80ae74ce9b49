// The kernels at the shapes that matter (DeepSeek-V3: hidden 7168, 128 heads, latent 512, rope 64;
// one of eight GPUs has 16 heads), each as work to be timed. `quick`: the same code at shapes that
// an emulator manages.
#pragma once

#include <functional>
#include <vector>

#include "bench/gpu/timed_work.h"

namespace tandem::bench {

// Makes its buffers in `data`, which must live as long as the work.
struct GpuCase {
  std::string name;  // operation/format/shape/rows/kernels: what --only is searched in
  std::function<GpuWork(DeviceData* data)> make;
};

using Kernels = cuda::Kernels;
std::string NameOf(Kernels kernels);

// `kernels`: those to time beside each other.
std::vector<GpuCase> LinearCases(const std::vector<Kernels>& kernels, bool quick);
std::vector<GpuCase> AttentionCases(const std::vector<Kernels>& kernels, bool quick);
std::vector<GpuCase> RowCases(bool quick);
// A layer's hot experts from their rows to the sums; the error is the distance from the bits of the
// processor's kernels.
std::vector<GpuCase> ExpertCases(bool quick);

}  // namespace tandem::bench
