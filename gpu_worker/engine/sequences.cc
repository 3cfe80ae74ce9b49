#include "gpu_worker/engine/sequences.h"

#include <algorithm>
#include <utility>

#include "lib/base/check.h"

namespace tandem::gpu_worker {

Sequence* Sequences::Find(uint64_t id) {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : it->second.get();
}

const Sequence* Sequences::Find(uint64_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : it->second.get();
}

Sequence& Sequences::Start(uint64_t id, sampling::v1::SamplingParams sampling,
                           int64_t prompt_tokens) {
  const auto [it, added] = by_id_.try_emplace(id, std::make_unique<Sequence>());
  TANDEM_CHECK(added);
  it->second->id = id;
  it->second->sampling = std::move(sampling);
  it->second->prompt_tokens = prompt_tokens;
  return *it->second;
}

void Sequences::AppendPage(Sequence& sequence, uint32_t page) {
  TANDEM_CHECK_LT(page, page_taken_.size());
  TANDEM_CHECK(!page_taken_[page]);
  page_taken_[page] = true;
  ++pages_used_;
  sequence.pages.push_back(page);
}

void Sequences::Release(uint64_t id) {
  const auto it = by_id_.find(id);
  if (it == by_id_.end()) return;
  for (const uint32_t page : it->second->pages) page_taken_[page] = false;
  pages_used_ -= static_cast<int64_t>(it->second->pages.size());
  by_id_.erase(it);
}

void Sequences::Clear() {
  by_id_.clear();
  std::fill(page_taken_.begin(), page_taken_.end(), false);
  pages_used_ = 0;
}

}  // namespace tandem::gpu_worker
