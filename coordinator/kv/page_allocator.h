// PageAllocator: which KV pages of a GPU worker are free. Only numbers; the memory is the worker's.
// A page given out twice would mix two conversations, so each transfer is checked and a mistake
// ends the process.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace tandem::coordinator {

class PageAllocator {
 public:
  explicit PageAllocator(uint32_t pages);

  uint32_t pages() const { return static_cast<uint32_t>(used_.size()); }
  uint32_t pages_free() const { return static_cast<uint32_t>(free_.size()); }

  // `count` pages, or nothing (and no change) when fewer are free.
  std::optional<std::vector<uint32_t>> Allocate(uint32_t count);
  // CHECKs that each page is in use.
  void Free(const std::vector<uint32_t>& pages);

  // CHECKs that free list and use marks agree: every page is exactly one of the two.
  void CheckIntegrity() const;

 private:
  std::vector<uint32_t>
      free_;  // a stack: pages used last are used first, while caches may still hold them
  std::vector<bool> used_;
};

}  // namespace tandem::coordinator
