#include "eval_client/run.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "eval_client/asking.h"
#include "eval_client/client/endpoint.h"
#include "eval_client/report/table.h"
#include "eval_client/report/tally.h"
#include "eval_client/run_folder.h"
#include "eval_client/suites/suite.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/base/program.h"

namespace tandem::eval {
namespace {

constexpr char kProgram[] = "tandem-eval";
constexpr char kQuizData[] = "models/quiz/quiz_test.jsonl";

std::string UtcTime(const char* format) {
  return absl::FormatTime(format, absl::Now(), absl::UTCTimeZone());
}

// The options of one suite among several.
SuiteOptions OptionsOf(const RunOptions& options, const std::string& name) {
  SuiteOptions suite = options.suite;
  suite.name = name;
  if (suite.data.empty() && name == "quiz") suite.data = kQuizData;
  return suite;
}

AskingOptions MakeAskingOptions(const RunOptions& options) {
  AskingOptions asking;
  asking.ask.temperature = options.temperature;
  asking.ask.max_tokens = options.max_tokens;
  asking.ask.timeout = absl::Seconds(options.question_timeout_s);
  asking.seed = options.seed;
  asking.concurrency = options.concurrency;
  asking.letters = options.letters;
  return asking;
}

// Polls until the model is ready. CANCELLED when the user stops waiting; FAILED_PRECONDITION or
// UNAVAILABLE after `wait_max`.
absl::StatusOr<inference::v1::ModelInfo> WaitUntilReady(const Endpoint& endpoint,
                                                        const std::string& address,
                                                        absl::Duration wait_max) {
  const absl::Duration end = base::RealClock().Monotonic() + wait_max;
  while (true) {
    auto info = endpoint.info(absl::Seconds(2));
    if (info.ok() && info->ready()) return info;
    const std::string found = info.ok() ? absl::StrCat("not ready: ", info->not_ready_reason())
                                        : std::string(info.status().message());
    if (base::RealClock().Monotonic() >= end) {
      return absl::FailedPreconditionError(
          absl::StrFormat("expected a ready model at %s within %s, found: %s", address,
                          absl::FormatDuration(wait_max), found));
    }
    if (base::WaitForStop(absl::Milliseconds(200))) return absl::CancelledError("interrupted");
  }
}

Manifest MakeManifest(const RunOptions& options, const Suite& suite, const std::string& data,
                      const inference::v1::ModelInfo& model, const std::string& command_line) {
  Manifest manifest;
  manifest.tool_version = base::VersionString();
  manifest.suite = suite.name();
  manifest.data_path = data;
  manifest.data_sha256 = suite.data_digest();
  manifest.prompts_sha256 = PromptsDigest(suite.questions());
  manifest.questions = static_cast<int64_t>(suite.questions().size());
  manifest.headline_parser = ParserName(suite.headline_parser());
  manifest.endpoint = options.endpoint.address;
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

int AskAndConclude(const RunOptions& options, const Suite& suite, const Endpoint& endpoint,
                   RunFolder& folder, const std::string& command_line) {
  const AskingOptions asking = MakeAskingOptions(options);
  const absl::Status status = Asking(asking, suite, endpoint, folder).Run();
  if (status.ok()) return Conclude(options, folder);
  std::fprintf(stderr, "%s: %s\n", kProgram, std::string(status.message()).c_str());
  SayHowToResume(folder, options, command_line);
  return absl::IsCancelled(status) ? kExitInterrupted : base::kExitFailed;
}

bool HasRun(const std::string& folder) {
  return std::filesystem::exists(folder + "/manifest.json");
}

int RunOneSuite(const RunOptions& options, const std::string& name, const std::string& out,
                const std::string& command_line) {
  const SuiteOptions suite_options = OptionsOf(options, name);
  if (suite_options.data.empty()) {
    return base::CannotStart(
        kProgram, absl::InvalidArgumentError(absl::StrCat("the suite ", name, " needs --data")));
  }
  auto suite = LoadSuite(suite_options);
  if (!suite.ok()) return base::CannotStart(kProgram, suite.status());
  const Endpoint endpoint = MakeEndpoint(options.endpoint);
  auto model =
      WaitUntilReady(endpoint, options.endpoint.address, absl::Seconds(options.ready_wait_s));
  if (absl::IsCancelled(model.status())) return kExitInterrupted;
  if (!model.ok()) return base::CannotStart(kProgram, model.status());
  const bool several = options.suites.size() > 1;
  auto folder =
      RunFolder::Open(out, options.resume && (!several || HasRun(out)),
                      MakeManifest(options, **suite, suite_options.data, *model, command_line));
  if (!folder.ok()) return base::CannotStart(kProgram, folder.status());
  base::LogInfo("eval_started", {{"suite", name},
                                 {"questions", (*suite)->questions().size()},
                                 {"model", model->name()},
                                 {"folder", folder->path()}});
  return AskAndConclude(options, **suite, endpoint, *folder, command_line);
}

}  // namespace

std::string SuiteFolder(const std::string& out, const std::string& suite, bool several) {
  return several ? absl::StrCat(out, "/", suite) : out;
}

int RunSuites(const RunOptions& options, const std::string& command_line) {
  if (options.resume && options.out.empty()) {
    return base::CannotStart(
        kProgram, absl::InvalidArgumentError("--resume needs --out with the folder of the run"));
  }
  const bool several = options.suites.size() > 1;
  const std::string out = !options.out.empty()
                              ? options.out
                              : absl::StrCat("eval_runs/", several ? "suites" : options.suites[0],
                                             "-", UtcTime("%Y%m%d-%H%M%S"));
  int exit_code = 0;
  for (const std::string& name : options.suites) {
    const int code = RunOneSuite(options, name, SuiteFolder(out, name, several), command_line);
    if (code == kExitInterrupted) return code;
    if (exit_code == 0) exit_code = code;
  }
  return exit_code;
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
