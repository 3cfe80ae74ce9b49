// Progress of a run on stderr: one line that rewrites itself on a terminal, a plain line every five
// seconds elsewhere.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace tandem::eval {

struct ProgressState {
  int64_t done = 0;
  int64_t total = 0;
  int64_t correct = 0;  // of those answered in this session
  int64_t answered = 0;
  int64_t failed = 0;
  absl::Duration elapsed;
};

// "[=====>    ] 412/1000  8.1/s  81.3 % right  2 failed  1m12s left"; the bar only when
// `bar_columns` > 0.
std::string ProgressLine(const ProgressState& state, int bar_columns);

class Progress {
 public:
  explicit Progress(bool terminal) : terminal_(terminal) {}
  // Writes when it is time to.
  void Update(const ProgressState& state);
  // The last state, and the cursor on a new line.
  void Finish(const ProgressState& state);

 private:
  void Write(const ProgressState& state);

  const bool terminal_;
  absl::Duration written_at_ = absl::ZeroDuration();
};

}  // namespace tandem::eval
