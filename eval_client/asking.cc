#include "eval_client/asking.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "eval_client/client/ask_all.h"
#include "lib/base/check.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

constexpr absl::Duration kStopGrace = absl::Seconds(2);
// When so many questions per thread fail in a row, each after all its attempts, the server is gone
// and the rest would only fail too.
constexpr int kFailedRoundsMax = 3;

}  // namespace

Asking::Asking(const AskingOptions& options, const Suite& suite, const Endpoint& endpoint,
               RunFolder& folder)
    : options_(options),
      parser_(suite.headline_parser()),
      endpoint_(endpoint),
      folder_(folder),
      progress_(isatty(STDERR_FILENO) == 1),
      started_(base::RealClock().Monotonic()) {
  for (const Question& question : suite.questions()) {
    if (!folder.IsAnswered(question.id)) open_.push_back(&question);
  }
  state_.total = static_cast<int64_t>(suite.questions().size());
  state_.done = state_.total - static_cast<int64_t>(open_.size());
}

absl::Status Asking::Run() {
  const absl::Status status =
      AskAll(open_.size(), options_.concurrency, kStopGrace,
             {.ask = [this](size_t index) { return Ask(*open_[index]); },
              .on_answer = [this](size_t index,
                                  const Answer& answer) { return Store(*open_[index], answer); },
              .on_tick = [this] { progress_.Update(CurrentState()); },
              .stop_requested = [] { return base::StopRequested(); },
              .cancel_running = [this] { endpoint_.cancel_all(); }});
  progress_.Finish(CurrentState());
  EndSession(status);
  const absl::Status saved = folder_.SaveManifest();
  return status.ok() ? saved : status;
}

void Asking::EndSession(const absl::Status& status) {
  // A server tells its kernels only once it has worked.
  const auto model = endpoint_.info(absl::Seconds(2));
  if (model.ok() && model->digest() == folder_.manifest().model.digest()) folder_.SetModel(*model);
  Session& session = folder_.session();
  session.wall_s = absl::ToDoubleSeconds(base::RealClock().Monotonic() - started_);
  session.ended = UtcTime("%Y-%m-%dT%H:%M:%SZ");
  session.outcome = status.ok() ? "finished" : "interrupted";
}

Answer Asking::Ask(const Question& question) const {
  AskOptions ask = options_.ask;
  ask.continue_text = question.form == PromptForm::kText;
  ask.stop = question.stop;
  if (question.max_tokens > 0) ask.max_tokens = question.max_tokens;
  if (question.temperature) ask.temperature = *question.temperature;
  if (options_.letters && question.kind == AnswerKind::kLetter) ask.letters = question.letters;
  Answer answer = endpoint_.ask(absl::StrCat("eval-", question.id), question.prompt,
                                QuestionSeed(options_.seed, question.id), ask);
  if (!answer.status.ok() || question.kind != AnswerKind::kCode) return answer;
  TANDEM_CHECK(options_.run_code != nullptr);
  absl::StatusOr<std::string> verdict = options_.run_code(question, answer.text);
  if (verdict.ok()) {
    answer.verdict = *std::move(verdict);
  } else {
    answer.status = verdict.status();
  }
  return answer;
}

absl::Status Asking::Store(const Question& question, const Answer& answer) {
  const Record record = {.id = question.id,
                         .subject = question.subject,
                         .gold = question.gold,
                         .kind = question.kind,
                         .letters = question.letters,
                         .seed = QuestionSeed(options_.seed, question.id),
                         .answer = answer,
                         .verdict = answer.verdict,
                         .letter_logprobs = answer.letter_logprobs};
  TANDEM_RETURN_IF_ERROR(folder_.Append(record));
  Count(Judge(record, parser_));
  if (answer.status.ok()) {
    failed_in_a_row_ = 0;
    return absl::OkStatus();
  }
  base::LogWarning(
      "question_failed",
      {{"id", question.id}, {"attempts", answer.attempts}, {"status", answer.status.ToString()}});
  if (++failed_in_a_row_ < kFailedRoundsMax * options_.concurrency) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(failed_in_a_row_, " questions in a row failed"));
}

void Asking::Count(Outcome outcome) {
  ++state_.done;
  ++(outcome == Outcome::kFailed ? state_.failed : state_.answered);
  if (outcome == Outcome::kCorrect) ++state_.correct;
}

ProgressState Asking::CurrentState() {
  state_.elapsed = base::RealClock().Monotonic() - started_;
  return state_;
}

}  // namespace tandem::eval
