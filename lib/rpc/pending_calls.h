// PendingCalls: what a transport remembers of calls that have no answer yet. Taking a call out is
// the right to end it, so each ends once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "lib/rpc/transport.h"

namespace tandem::rpc {

struct PendingCall {
  Transport::Done done;
  absl::Time due;
  absl::Duration timeout;
  uint64_t connection = 0;  // which of the transport's connections it went out on
};

// Not thread-safe.
class PendingCalls {
 public:
  size_t size() const { return calls_.size(); }

  // True when the call is due before `wake_at()` was: whoever waits for that has to be woken.
  bool Add(uint64_t call_id, PendingCall call) {
    const bool earlier = call.due < wake_at_;
    wake_at_ = std::min(wake_at_, call.due);
    calls_.emplace(call_id, std::move(call));
    return earlier;
  }

  // Nothing for an answer that is late or was never asked for.
  std::optional<PendingCall> Take(uint64_t call_id) {
    const auto found = calls_.find(call_id);
    if (found == calls_.end()) return std::nullopt;
    PendingCall call = std::move(found->second);
    calls_.erase(found);
    return call;
  }

  // Calls due at `now`; moves wake_at.
  std::vector<PendingCall> TakeLate(absl::Time now) {
    wake_at_ = absl::InfiniteFuture();
    return TakeIf([&](const PendingCall& call) {
      if (call.due <= now) return true;
      wake_at_ = std::min(wake_at_, call.due);
      return false;
    });
  }

  std::vector<PendingCall> TakeOf(uint64_t connection) {
    return TakeIf([&](const PendingCall& call) { return call.connection == connection; });
  }
  std::vector<PendingCall> TakeAll() {
    return TakeIf([](const PendingCall&) { return true; });
  }

  // When to call TakeLate again. May be too early, since calls mostly have the same timeout: a new
  // one is rarely due before the one waited for, and an ended one is not worth looking for the
  // next.
  absl::Time wake_at() const { return wake_at_; }

 private:
  template <typename Condition>
  std::vector<PendingCall> TakeIf(const Condition& condition) {
    std::vector<PendingCall> taken;
    for (auto it = calls_.begin(); it != calls_.end();) {
      if (condition(it->second)) {
        taken.push_back(std::move(it->second));
        it = calls_.erase(it);
      } else {
        ++it;
      }
    }
    return taken;
  }

  std::map<uint64_t, PendingCall> calls_;
  absl::Time wake_at_ = absl::InfiniteFuture();
};

}  // namespace tandem::rpc
