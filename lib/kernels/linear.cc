#include "lib/kernels/linear.h"

#include <vector>

#include "lib/kernels/kernel_table.h"

namespace tandem::kernels {
namespace {

// Room for a widened tile of rows, kept per thread.
float* TileScratch(int64_t cols) {
  thread_local std::vector<float> scratch;
  const size_t needed = static_cast<size_t>((cols + 15) / 16 * 16 * kLinearTileRowsMax);
  if (scratch.size() < needed) scratch.resize(needed);
  return scratch.data();
}

}  // namespace

void LinearBf16(const LinearArgs& args) { ActiveTable().linear_bf16(args, TileScratch(args.cols)); }

void LinearF32(const LinearArgs& args) { ActiveTable().linear_f32(args, nullptr); }

float DotF32(const float* a, const float* b, int64_t n) { return ActiveTable().dot_f32(a, b, n); }

}  // namespace tandem::kernels
