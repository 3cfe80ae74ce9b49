// MemoryPlan: what a GPU worker will take of its device's memory, worked out before anything is
// allocated, and the sentence for people when it is too much.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"

namespace tandem::gpu_worker::cuda {

// "79.65 GiB" whatever the size: messages compare sizes of which one may just not fit.
inline std::string GibText(size_t bytes) {
  return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / (1 << 30));
}

struct MemoryNeeds {
  size_t weight_bytes = 0;
  size_t activation_bytes = 0;  // for rows_max rows: activations, scratch, step buffers
  size_t kv_page_bytes = 0;     // one page in all layers
  int64_t kv_pages = 0;         // asked for; 0: as many as fit
  int64_t kv_pages_max = 0;     // of use: the model's context
  int64_t rows_max = 0;         // for the message
};

// The number of KV pages, at least 1. RESOURCE_EXHAUSTED when not all fits into `free_bytes` less a
// reserve for the driver and graphs.
absl::StatusOr<int64_t> PlanKvPages(const MemoryNeeds& needs, size_t free_bytes,
                                    const std::string& device_name);

}  // namespace tandem::gpu_worker::cuda
