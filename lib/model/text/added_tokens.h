// Added tokens (<｜User｜>, <|im_end|>, ...): found in the text before anything else, longest match
// first, and never split.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"

namespace tandem::text {

struct AddedToken {
  int32_t id = -1;
  std::string content;      // raw UTF-8, not byte-level
  bool special = false;     // left out by Decode(skip_special)
  bool normalized = false;  // searched in a second pass, after all tokens that are not
  bool lstrip = false;      // the match takes the white space before it
  bool rstrip = false;      // and after it
};

// A stretch of text: ordinary when id < 0, else the added token `id`.
struct Segment {
  std::string_view text;
  int32_t id;
};

class AddedTokens {
 public:
  // InvalidArgument for an empty or over-long content, or one content under two ids.
  absl::Status Add(AddedToken token);

  // Cuts `text` (well-formed UTF-8) into segments in order, as views into it.
  std::vector<Segment> Split(std::string_view text) const;

  // The id whose content is exactly `content`, or -1.
  int32_t Find(std::string_view content) const;

  const std::vector<AddedToken>& all() const { return tokens_; }

 private:
  // A trie over bytes: one pass of "not normalized" tokens, one of the others.
  struct Trie {
    absl::flat_hash_map<uint64_t, uint32_t> child;  // node << 8 | byte
    std::vector<int32_t> token_at = {-1};           // by node: index into tokens_
    bool starts[256] = {};
  };
  int32_t LongestAt(const Trie& trie, std::string_view text) const;
  void Cut(const Trie& trie, const Segment& segment, std::vector<Segment>* out) const;

  std::vector<AddedToken> tokens_;
  Trie tries_[2];  // [normalized]
};

}  // namespace tandem::text
