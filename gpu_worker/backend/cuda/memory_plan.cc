#include "gpu_worker/backend/cuda/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tandem::gpu_worker::cuda {
namespace {

// The CUDA context, kernels and instantiated graphs take 0.5 to 1 GB of a data-center GPU beside
// what is allocated; on small devices no more than a sixteenth is kept back.
constexpr size_t kReserveBytesMax = size_t{1} << 30;
constexpr int64_t kPageTokens = 64;

}  // namespace

absl::StatusOr<int64_t> PlanKvPages(const MemoryNeeds& needs, size_t free_bytes,
                                    const std::string& device_name) {
  const size_t usable = free_bytes - std::min(kReserveBytesMax, free_bytes / 16);
  const size_t fixed = needs.weight_bytes + needs.activation_bytes;
  const int64_t fitting =
      usable > fixed ? static_cast<int64_t>((usable - fixed) / needs.kv_page_bytes) : 0;
  const int64_t wanted = needs.kv_pages > 0 ? needs.kv_pages : 1;
  if (fitting < wanted) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "expected ", GibText(fixed + wanted * needs.kv_page_bytes), " of memory on ", device_name,
        " (weights ", GibText(needs.weight_bytes), ", ", needs.rows_max, " rows ",
        GibText(needs.activation_bytes), ", KV cache of ", wanted * kPageTokens, " tokens ",
        GibText(wanted * needs.kv_page_bytes), "), found ", GibText(usable),
        "; lower --kv-tokens or --rows-max, or take a smaller --linear format"));
  }
  if (needs.kv_pages > 0) return needs.kv_pages;
  return std::clamp<int64_t>(fitting, 1, std::max<int64_t>(1, needs.kv_pages_max));
}

}  // namespace tandem::gpu_worker::cuda
