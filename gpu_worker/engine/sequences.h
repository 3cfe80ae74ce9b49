// Sequences: what the worker remembers between steps: each sequence's tokens, sampling and page
// table, and which pages are taken. Page numbers are the coordinator's; the worker only proves that
// no page serves two sequences.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "proto/sampling.pb.h"

namespace tandem::gpu_worker {

struct Sequence {
  uint64_t id = 0;
  sampling::v1::SamplingParams sampling;
  int64_t prompt_tokens = 0;
  std::vector<uint32_t> tokens;  // fed so far, by position
  std::vector<uint32_t> pages;   // page table
  // Logits after the last token, kept while prompt log probabilities are asked for chunk by chunk;
  // else empty.
  std::vector<float> last_logits;  // [vocab]
  absl::Status
      failure;  // not OK: a slice failed, the cached keys are incomplete, nothing more is computed
};

class Sequences {
 public:
  explicit Sequences(int64_t kv_pages) : page_taken_(kv_pages, false) {}

  int64_t kv_pages() const { return static_cast<int64_t>(page_taken_.size()); }
  int64_t pages_used() const { return pages_used_; }
  size_t size() const { return by_id_.size(); }
  bool IsTaken(uint32_t page) const { return page_taken_[page]; }

  // Null when unknown. Pointers stay valid until the sequence is released.
  Sequence* Find(uint64_t id);
  const Sequence* Find(uint64_t id) const;

  // CHECKs that the id is new.
  Sequence& Start(uint64_t id, sampling::v1::SamplingParams sampling, int64_t prompt_tokens);
  // CHECKs that the page is in range and free.
  void AppendPage(Sequence& sequence, uint32_t page);
  // Frees the sequence's pages; unknown ids are ignored, so that releasing twice is harmless.
  void Release(uint64_t id);
  void Clear();

 private:
  absl::flat_hash_map<uint64_t, std::unique_ptr<Sequence>> by_id_;
  std::vector<bool> page_taken_;  // [kv_pages]
  int64_t pages_used_ = 0;
};

}  // namespace tandem::gpu_worker
