// Stop strings in a stream of text chunks whose borders fall anywhere: text is let through only
// when it can no longer be the beginning of a stop string, so that no part of one ever reaches the
// client.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tandem {

struct StopResult {
  std::string text;  // safe to send
  int matched =
      -1;  // index of the stop string found, -1 for none; after a match nothing more comes out
};

// One per sequence; not thread-safe. Time per chunk is O((held + chunk) * number of stops * length
// of the longest).
class StopMatcher {
 public:
  // Empty strings are ignored (they would match everywhere); their indices still count.
  explicit StopMatcher(std::vector<std::string> stops);

  // The match that begins first wins, and of those at one place the longest complete one; the text
  // before it comes out. A match that ends in this chunk is reported at once, without waiting for a
  // longer stop string with the same beginning.
  StopResult Push(std::string_view chunk);

  // The text held back, because the stream ended before a stop string did.
  std::string Finish();

  int matched() const { return matched_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  int matched_ = -1;
};

}  // namespace tandem
