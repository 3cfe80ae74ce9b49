// AskAll: many questions at once, in order of asking, with an orderly stop. Knows nothing of gRPC
// or files.
#pragma once

#include <cstddef>
#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "eval_client/client/answer.h"

namespace tandem::eval {

struct AskAllHooks {
  // Asks question `index` and waits for its answer; called from several threads.
  std::function<Answer(size_t index)> ask;
  // One call at a time. An error ends the run: what cannot be recorded need not be asked.
  std::function<absl::Status(size_t index, const Answer& answer)> on_answer;
  // Called about every 100 ms from the calling thread, never while on_answer runs.
  std::function<void()> on_tick;
  // True once the user wants to stop; looked at every tick.
  std::function<bool()> stop_requested;
  // Makes the running `ask` calls return soon, with CANCELLED; called at most once.
  std::function<void()> cancel_running;
};

// Asks questions 0 to count - 1, `concurrency` at a time (at least 1, CHECKed), handing them out in
// order. When a stop is requested no further one is asked; those running get `stop_grace` to finish
// and are then cancelled, and a cancelled question is not reported to on_answer. OK: all were
// asked. CANCELLED: stopped. Otherwise the first error of on_answer.
absl::Status AskAll(size_t count, int concurrency, absl::Duration stop_grace,
                    const AskAllHooks& hooks);

}  // namespace tandem::eval
