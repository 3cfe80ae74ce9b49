#include "eval_client/run.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "eval_client/report/table.h"
#include "eval_client/report/tally.h"
#include "eval_client/run_folder.h"
#include "eval_client/suite_run.h"
#include "eval_client/suites/quiz.h"
#include "eval_client/suites/suite.h"
#include "lib/base/program.h"

namespace tandem::eval {
namespace {

constexpr char kProgram[] = "tandem-eval";

// The options of one suite among several.
SuiteOptions OptionsOf(const RunOptions& options, const std::string& name) {
  SuiteOptions suite = options.suite;
  suite.name = name;
  if (suite.data.empty() && name == "quiz") suite.data = kQuizDataDefault;
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

int RunOneSuite(const RunOptions& options, const std::string& name, const std::string& out,
                const std::string& command_line) {
  const bool several = options.suites.size() > 1;
  const SuiteRunOptions run_options = {.suite = OptionsOf(options, name),
                                       .endpoint = options.endpoint,
                                       .asking = MakeAskingOptions(options),
                                       .out = out,
                                       .resume = options.resume && (!several || HasRun(out)),
                                       .ready_wait_s = options.ready_wait_s,
                                       .command_line = command_line};
  const auto run = SuiteRun::Open(run_options);
  if (absl::IsCancelled(run.status())) return kExitInterrupted;
  if (!run.ok()) return base::CannotStart(kProgram, run.status());
  const absl::Status status = (*run)->Ask();
  if (status.ok()) return Conclude(options, (*run)->folder());
  std::fprintf(stderr, "%s: %s\n", kProgram, std::string(status.message()).c_str());
  SayHowToResume((*run)->folder(), options, command_line);
  return absl::IsCancelled(status) ? kExitInterrupted : base::kExitFailed;
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
