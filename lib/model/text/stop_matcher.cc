#include "lib/model/text/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace tandem {
namespace {

// The length of the longest end of `text` that is a proper beginning of `stop`.
size_t PendingBytes(std::string_view text, std::string_view stop) {
  size_t n = std::min(text.size(), stop.size() - 1);
  while (n > 0 && text.substr(text.size() - n) != stop.substr(0, n)) --n;
  return n;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

StopResult StopMatcher::Push(std::string_view chunk) {
  if (matched_ >= 0) return {"", matched_};
  held_ += chunk;
  size_t first = std::string::npos, pending = 0;
  for (size_t i = 0; i < stops_.size(); ++i) {
    const std::string& stop = stops_[i];
    if (stop.empty()) continue;
    const size_t at = held_.find(stop);
    const bool better = at < first || (at == first && at != std::string::npos &&
                                       stop.size() > stops_[static_cast<size_t>(matched_)].size());
    if (better) {
      first = at;
      matched_ = static_cast<int>(i);
    }
    pending = std::max(pending, PendingBytes(held_, stop));
  }
  const size_t let_through = matched_ >= 0 ? first : held_.size() - pending;
  StopResult result{held_.substr(0, let_through), matched_};
  held_.erase(0, matched_ >= 0 ? held_.size() : let_through);
  return result;
}

std::string StopMatcher::Finish() { return std::exchange(held_, ""); }

}  // namespace tandem
