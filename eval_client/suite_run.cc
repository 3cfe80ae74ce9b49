#include "eval_client/suite_run.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/suites/code_judge.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

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

Manifest MakeManifest(const SuiteRunOptions& options, const Suite& suite,
                      const inference::v1::ModelInfo& model) {
  Manifest manifest;
  manifest.tool_version = base::VersionString();
  manifest.suite = suite.name();
  manifest.variant = options.suite.variant;
  manifest.shots = options.suite.shots;
  manifest.samples = options.suite.samples;
  manifest.data_path = options.suite.data;
  manifest.data_sha256 = suite.data_digest();
  manifest.prompts_sha256 = PromptsDigest(suite.questions());
  manifest.questions = static_cast<int64_t>(suite.questions().size());
  manifest.headline_parser = ParserName(suite.headline_parser());
  manifest.endpoint = options.endpoint.address;
  manifest.model = model;
  manifest.temperature = options.asking.ask.temperature;
  manifest.max_tokens = options.asking.ask.max_tokens;
  manifest.seed = options.asking.seed;
  manifest.concurrency = options.asking.concurrency;
  DescribeHost(&manifest);
  Session session;
  session.command_line = options.command_line;
  session.started = UtcTime("%Y-%m-%dT%H:%M:%SZ");
  manifest.sessions.push_back(session);
  return manifest;
}

}  // namespace

bool HasRun(const std::string& folder) {
  return std::filesystem::exists(folder + "/manifest.json");
}

absl::StatusOr<std::unique_ptr<SuiteRun>> SuiteRun::Open(const SuiteRunOptions& options) {
  if (options.suite.data.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the suite ", options.suite.name, " needs --data"));
  }
  std::unique_ptr<SuiteRun> run(new SuiteRun(options));
  TANDEM_ASSIGN_OR_RETURN(run->suite_, LoadSuite(options.suite));
  if (NeedsCodeJudge(*run->suite_)) {
    TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<CodeJudge> judge, CodeJudge::Create());
    run->options_.asking.run_code = [judge](const Question& question, const std::string& answer) {
      return judge->Verdict(question, answer);
    };
  }
  run->endpoint_ = MakeEndpoint(options.endpoint);
  TANDEM_ASSIGN_OR_RETURN(const inference::v1::ModelInfo model,
                          WaitUntilReady(run->endpoint_, options.endpoint.address,
                                         absl::Seconds(options.ready_wait_s)));
  TANDEM_ASSIGN_OR_RETURN(
      RunFolder folder,
      RunFolder::Open(options.out, options.resume, MakeManifest(options, *run->suite_, model)));
  run->folder_ = std::make_unique<RunFolder>(std::move(folder));
  base::LogInfo("eval_started", {{"suite", options.suite.name},
                                 {"questions", run->suite_->questions().size()},
                                 {"model", model.name()},
                                 {"folder", options.out}});
  return run;
}

absl::Status SuiteRun::Ask() { return Asking(options_.asking, *suite_, endpoint_, *folder_).Run(); }

}  // namespace tandem::eval
