#include "coordinator/kv/page_allocator.h"

#include "lib/base/check.h"

namespace tandem::coordinator {

PageAllocator::PageAllocator(uint32_t pages) : used_(pages, false) {
  free_.reserve(pages);
  for (uint32_t page = pages; page > 0; --page) free_.push_back(page - 1);
}

std::optional<std::vector<uint32_t>> PageAllocator::Allocate(uint32_t count) {
  if (count > free_.size()) return std::nullopt;
  std::vector<uint32_t> out;
  out.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t page = free_.back();
    free_.pop_back();
    TANDEM_CHECK(!used_[page]);
    used_[page] = true;
    out.push_back(page);
  }
  return out;
}

void PageAllocator::Free(const std::vector<uint32_t>& pages) {
  for (const uint32_t page : pages) {
    TANDEM_CHECK_LT(page, used_.size());
    TANDEM_CHECK(used_[page]);
    used_[page] = false;
    free_.push_back(page);
  }
}

void PageAllocator::CheckIntegrity() const {
  std::vector<bool> seen(used_.size(), false);
  for (const uint32_t page : free_) {
    TANDEM_CHECK(!used_[page]);
    TANDEM_CHECK(!seen[page]);
    seen[page] = true;
  }
  for (size_t page = 0; page < used_.size(); ++page)
    TANDEM_CHECK_NE(bool{used_[page]}, bool{seen[page]});
}

}  // namespace tandem::coordinator
