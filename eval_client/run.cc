#include "eval_client/run.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "eval_client/client/ask_all.h"
#include "eval_client/client/grpc_client.h"
#include "eval_client/report/progress.h"
#include "eval_client/report/table.h"
#include "eval_client/report/tally.h"
#include "eval_client/run_folder.h"
#include "eval_client/suites/suite.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

constexpr char kProgram[] = "tandem-eval";
constexpr char kQuizData[] = "models/quiz/quiz_test.jsonl";
constexpr absl::Duration kStopGrace = absl::Seconds(2);
// When so many questions per thread fail in a row, each after all its attempts, the server is gone
// and the rest would only fail too.
constexpr int kFailedRoundsMax = 3;

std::string DataPath(const RunOptions& options) {
  return options.data.empty() && options.suite == "quiz" ? kQuizData : options.data;
}

std::string UtcTime(const char* format) {
  return absl::FormatTime(format, absl::Now(), absl::UTCTimeZone());
}

std::string OutFolder(const RunOptions& options) {
  if (!options.out.empty()) return options.out;
  return absl::StrCat("eval_runs/", options.suite, "-", UtcTime("%Y%m%d-%H%M%S"));
}

AskOptions MakeAskOptions(const RunOptions& options) {
  AskOptions ask;
  ask.temperature = options.temperature;
  ask.max_tokens = options.max_tokens;
  ask.timeout = absl::Seconds(options.question_timeout_s);
  return ask;
}

// Polls until the model is ready. CANCELLED when the user stops waiting; FAILED_PRECONDITION or
// UNAVAILABLE after `wait_max`.
absl::StatusOr<inference::v1::ModelInfo> WaitUntilReady(GrpcClient& client,
                                                        const std::string& endpoint,
                                                        absl::Duration wait_max) {
  const absl::Duration end = base::RealClock().Monotonic() + wait_max;
  while (true) {
    auto info = client.GetModelInfo(absl::Seconds(2));
    if (info.ok() && info->ready()) return info;
    const std::string found = info.ok() ? absl::StrCat("not ready: ", info->not_ready_reason())
                                        : std::string(info.status().message());
    if (base::RealClock().Monotonic() >= end) {
      return absl::FailedPreconditionError(
          absl::StrFormat("expected a ready model at %s within %s, found: %s", endpoint,
                          absl::FormatDuration(wait_max), found));
    }
    if (base::WaitForStop(absl::Milliseconds(200))) return absl::CancelledError("interrupted");
  }
}

Manifest MakeManifest(const RunOptions& options, const Suite& suite,
                      const inference::v1::ModelInfo& model, const std::string& command_line) {
  Manifest manifest;
  manifest.tool_version = base::VersionString();
  manifest.suite = suite.name();
  manifest.data_path = DataPath(options);
  manifest.data_sha256 = suite.data_digest();
  manifest.prompts_sha256 = PromptsDigest(suite.questions());
  manifest.questions = static_cast<int64_t>(suite.questions().size());
  manifest.headline_parser = ParserName(suite.headline_parser());
  manifest.endpoint = options.endpoint;
  manifest.model = model;
  manifest.temperature = options.temperature;
  manifest.max_tokens = options.max_tokens;
  manifest.seed = options.seed;
  manifest.concurrency = options.concurrency;
  DescribeHost(&manifest);
  Session session;
  session.command_line = command_line;
  session.started = UtcTime("%Y-%m-%dT%H:%M:%SZ");
  manifest.sessions.push_back(session);
  return manifest;
}

// The asking part of one session.
class Asking {
 public:
  Asking(const RunOptions& options, const Suite& suite, GrpcClient& client, RunFolder& folder)
      : options_(options),
        ask_options_(MakeAskOptions(options)),
        parser_(suite.headline_parser()),
        client_(client),
        folder_(folder),
        progress_(isatty(STDERR_FILENO) == 1),
        started_(base::RealClock().Monotonic()) {
    for (const Question& question : suite.questions()) {
      if (!folder.IsAnswered(question.id)) open_.push_back(&question);
    }
    state_.total = static_cast<int64_t>(suite.questions().size());
    state_.done = state_.total - static_cast<int64_t>(open_.size());
  }

  absl::Status Run() {
    const absl::Status status =
        AskAll(open_.size(), options_.concurrency, kStopGrace,
               {.ask = [this](size_t index) { return Ask(*open_[index]); },
                .on_answer = [this](size_t index,
                                    const Answer& answer) { return Store(*open_[index], answer); },
                .on_tick = [this] { progress_.Update(CurrentState()); },
                .stop_requested = [] { return base::StopRequested(); },
                .cancel_running = [this] { client_.CancelAll(); }});
    progress_.Finish(CurrentState());
    const auto model = client_.GetModelInfo(absl::Seconds(2));
    if (model.ok() && model->digest() == folder_.manifest().model.digest())
      folder_.SetModel(*model);
    Session& session = folder_.session();
    session.wall_s = absl::ToDoubleSeconds(base::RealClock().Monotonic() - started_);
    session.ended = UtcTime("%Y-%m-%dT%H:%M:%SZ");
    session.outcome = status.ok() ? "finished" : "interrupted";
    const absl::Status saved = folder_.SaveManifest();
    return status.ok() ? saved : status;
  }

 private:
  Answer Ask(const Question& question) {
    AskOptions ask = ask_options_;
    ask.continue_text = question.form == PromptForm::kText;
    ask.stop = question.stop;
    if (question.max_tokens > 0) ask.max_tokens = question.max_tokens;
    if (question.temperature) ask.temperature = *question.temperature;
    return client_.Ask(absl::StrCat("eval-", question.id), question.prompt,
                       QuestionSeed(options_.seed, question.id), ask);
  }

  absl::Status Store(const Question& question, const Answer& answer) {
    const Record record = {.id = question.id,
                           .subject = question.subject,
                           .gold = question.gold,
                           .kind = question.kind,
                           .letters = question.letters,
                           .seed = QuestionSeed(options_.seed, question.id),
                           .answer = answer};
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

  void Count(Outcome outcome) {
    ++state_.done;
    ++(outcome == Outcome::kFailed ? state_.failed : state_.answered);
    if (outcome == Outcome::kCorrect) ++state_.correct;
  }

  ProgressState CurrentState() {
    state_.elapsed = base::RealClock().Monotonic() - started_;
    return state_;
  }

  const RunOptions& options_;
  const AskOptions ask_options_;
  const AnswerParser parser_;
  GrpcClient& client_;
  RunFolder& folder_;
  Progress progress_;
  const absl::Duration started_;
  std::vector<const Question*> open_;
  ProgressState state_;
  int failed_in_a_row_ = 0;
};

void SayHowToResume(const RunFolder& folder, const RunOptions& options,
                    const std::string& command_line) {
  std::string command = command_line;
  if (options.out.empty()) absl::StrAppend(&command, " --out ", folder.path());
  if (!options.resume) command += " --resume";
  std::fprintf(stderr, "%s: the journal in %s keeps what was answered; go on with\n  %s\n",
               kProgram, folder.path().c_str(), command.c_str());
}

int Conclude(const RunOptions& options, const RunFolder& folder) {
  const std::vector<Record> records = LatestRecords(folder.records());
  const std::string text = options.json ? RenderJson(folder.manifest(), records)
                                        : RenderTable(folder.manifest(), records);
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
  const bool any_failed = std::any_of(records.begin(), records.end(),
                                      [](const Record& r) { return !r.answer.status.ok(); });
  if (any_failed) return base::kExitFailed;
  const double percent = HeadlinePercent(folder.manifest(), records);
  if (percent >= options.fail_under_percent) return 0;
  std::fprintf(stderr, "%s: expected at least %.2f %% correct, found %.2f %%\n", kProgram,
               options.fail_under_percent, percent);
  return kExitBelowThreshold;
}

int AskAndConclude(const RunOptions& options, const Suite& suite, GrpcClient& client,
                   RunFolder& folder, const std::string& command_line) {
  const absl::Status status = Asking(options, suite, client, folder).Run();
  if (status.ok()) return Conclude(options, folder);
  std::fprintf(stderr, "%s: %s\n", kProgram, std::string(status.message()).c_str());
  SayHowToResume(folder, options, command_line);
  return absl::IsCancelled(status) ? kExitInterrupted : base::kExitFailed;
}

}  // namespace

int RunSuite(const RunOptions& options, const std::string& command_line) {
  if (options.resume && options.out.empty()) {
    return base::CannotStart(
        kProgram, absl::InvalidArgumentError("--resume needs --out with the folder of the run"));
  }
  if (DataPath(options).empty()) {
    return base::CannotStart(kProgram, absl::InvalidArgumentError(absl::StrCat(
                                           "the suite ", options.suite, " needs --data")));
  }
  auto suite =
      LoadSuite({.name = options.suite, .data = DataPath(options), .limit = options.limit});
  if (!suite.ok()) return base::CannotStart(kProgram, suite.status());
  GrpcClient client(options.endpoint);
  auto model = WaitUntilReady(client, options.endpoint, absl::Seconds(options.ready_wait_s));
  if (absl::IsCancelled(model.status())) return kExitInterrupted;
  if (!model.ok()) return base::CannotStart(kProgram, model.status());
  auto folder = RunFolder::Open(OutFolder(options), options.resume,
                                MakeManifest(options, **suite, *model, command_line));
  if (!folder.ok()) return base::CannotStart(kProgram, folder.status());
  base::LogInfo("eval_started", {{"suite", options.suite},
                                 {"questions", (*suite)->questions().size()},
                                 {"model", model->name()},
                                 {"folder", folder->path()}});
  return AskAndConclude(options, **suite, client, *folder, command_line);
}

int ReportRun(const ReportOptions& options) {
  auto run = ReadRun(options.folder);
  if (!run.ok()) return base::CannotStart(kProgram, run.status());
  std::string text = options.json ? RenderJson(run->manifest, run->records)
                                  : RenderTable(run->manifest, run->records);
  if (!options.baseline.empty()) {
    auto baseline = ReadRun(options.baseline);
    if (!baseline.ok()) return base::CannotStart(kProgram, baseline.status());
    auto comparison =
        RenderComparison(run->manifest, run->records, baseline->manifest, baseline->records);
    if (!comparison.ok()) return base::CannotStart(kProgram, comparison.status());
    absl::StrAppend(&text, "\n", *comparison);
  }
  std::fputs(text.c_str(), stdout);
  return 0;
}

}  // namespace tandem::eval
