#include "eval_client/report/progress.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tandem::eval {
namespace {

constexpr int kBarColumns = 30;
constexpr absl::Duration kPlainInterval = absl::Seconds(5);

std::string Bar(const ProgressState& state, int columns) {
  const int64_t total = std::max<int64_t>(state.total, 1);
  const int filled = static_cast<int>(columns * std::min(state.done, total) / total);
  return absl::StrCat("[", std::string(filled, '='), std::string(columns - filled, ' '), "] ");
}

}  // namespace

std::string ProgressLine(const ProgressState& state, int bar_columns) {
  const double elapsed_s = std::max(1e-3, absl::ToDoubleSeconds(state.elapsed));
  const double per_s = static_cast<double>(state.answered + state.failed) / elapsed_s;
  std::string line = bar_columns > 0 ? Bar(state, bar_columns) : "";
  absl::StrAppendFormat(&line, "%d/%d  %.1f/s", state.done, state.total, per_s);
  if (state.answered > 0) {
    absl::StrAppendFormat(&line, "  %.1f %% right", 100.0 * state.correct / state.answered);
  }
  if (state.failed > 0) absl::StrAppend(&line, "  ", state.failed, " failed");
  if (per_s > 0.0 && state.done < state.total) {
    const auto left_s = static_cast<int64_t>((state.total - state.done) / per_s + 0.5);
    absl::StrAppend(&line, "  ", absl::FormatDuration(absl::Seconds(left_s)), " left");
  }
  return line;
}

void Progress::Update(const ProgressState& state) {
  if (terminal_ || state.elapsed - written_at_ >= kPlainInterval) Write(state);
}

void Progress::Finish(const ProgressState& state) {
  Write(state);
  if (terminal_) std::fputc('\n', stderr);
}

void Progress::Write(const ProgressState& state) {
  written_at_ = state.elapsed;
  // \r starts the line anew, \033[K clears what the last one left behind.
  const std::string line = ProgressLine(state, terminal_ ? kBarColumns : 0);
  std::fputs((terminal_ ? absl::StrCat("\r", line, "\033[K") : absl::StrCat(line, "\n")).c_str(),
             stderr);
  std::fflush(stderr);
}

}  // namespace tandem::eval
