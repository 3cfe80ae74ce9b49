// Memory for measuring: an aligned mapping whose pages are huge, or are kept small on purpose, and
// all of which exist before the first measurement.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"

namespace tandem::bench {

enum class Pages { kHuge, kSmall };

class PagedMemory {
 public:
  // RESOURCE_EXHAUSTED when the system has no `bytes` to give. Every page is written once.
  static absl::StatusOr<PagedMemory> Create(int64_t bytes, Pages pages);
  PagedMemory() = default;
  PagedMemory(PagedMemory&& other) noexcept { *this = std::move(other); }
  PagedMemory& operator=(PagedMemory&& other) noexcept;
  ~PagedMemory();

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  std::span<const std::byte> span() const { return {data_, static_cast<size_t>(size_)}; }

 private:
  std::byte* mapping_ = nullptr;
  int64_t mapped_ = 0;
  std::byte* data_ = nullptr;  // aligned to a huge page
  int64_t size_ = 0;
};

// Bytes of this process that lie on huge pages (AnonHugePages of /proc/self/smaps_rollup); whether
// advice was followed is for the kernel to say. -1 when it does not.
int64_t HugePageBytes();

}  // namespace tandem::bench
