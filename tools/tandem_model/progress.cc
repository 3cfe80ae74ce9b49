#include "tools/tandem_model/progress.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "absl/strings/str_format.h"
#include "lib/base/text.h"

namespace tandem {
namespace {

constexpr absl::Duration kBarPeriod = absl::Milliseconds(100);
constexpr absl::Duration kLinePeriod = absl::Seconds(5);
constexpr int kBarCells = 30;

}  // namespace

Progress::Progress(std::string what, const base::Clock& clock)
    : what_(std::move(what)),
      clock_(clock),
      on_terminal_(isatty(STDERR_FILENO) == 1),
      start_(clock.Monotonic()),
      next_(start_ + (on_terminal_ ? absl::ZeroDuration() : kLinePeriod)) {}

Progress::~Progress() {
  if (on_terminal_ && drawn_) std::cerr << std::endl;
}

void Progress::Update(int64_t bytes_done, int64_t bytes_total) {
  const absl::Duration now = clock_.Monotonic();
  if (now < next_ && !(on_terminal_ && bytes_done == bytes_total)) return;
  next_ = now + (on_terminal_ ? kBarPeriod : kLinePeriod);
  drawn_ = true;
  const double share =
      bytes_total == 0 ? 1.0 : static_cast<double>(bytes_done) / static_cast<double>(bytes_total);
  const double seconds = std::max(absl::ToDoubleSeconds(now - start_), 1e-3);
  const std::string figures = absl::StrFormat(
      "%3.0f %%  %s of %s, %.0f MB/s", 100.0 * share, base::HumanBytes(bytes_done),
      base::HumanBytes(bytes_total), static_cast<double>(bytes_done) / seconds / 1e6);
  if (!on_terminal_) {
    std::cerr << what_ << ": " << figures << std::endl;
    return;
  }
  const int full = static_cast<int>(share * kBarCells);
  std::cerr << "\r" << what_ << " [" << std::string(full, '#') << std::string(kBarCells - full, '.')
            << "] " << figures << "\x1b[K" << std::flush;
}

}  // namespace tandem
