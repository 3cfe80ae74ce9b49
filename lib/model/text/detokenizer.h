// Token ids to text while they are generated: a character split over several tokens is held back
// until it is whole, so that a stream never carries half of one. The pushes joined, with Finish(),
// equal Tokenizer::Decode of all ids.
#pragma once

#include <cstdint>
#include <string>

#include "lib/model/text/tokenizer.h"

namespace tandem {

// One per sequence; not thread-safe.
class Detokenizer {
 public:
  // `tokenizer` must outlive this object.
  explicit Detokenizer(const Tokenizer* tokenizer, bool skip_special = false)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // The characters that `id` completes, perhaps none. Bytes that can no longer become a character
  // come out as U+FFFD. An id the vocabulary does not have (a padding row of the output matrix)
  // adds no bytes, as in the reference decoder.
  std::string Push(int32_t id);

  // What is held back, as U+FFFD, or "". After it the object is as new.
  std::string Finish();

  size_t held_bytes() const { return held_.size(); }

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string held_;  // at most 3 bytes between calls
};

}  // namespace tandem
