#include "eval_client/table/table_run.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "eval_client/suites/quiz.h"
#include "eval_client/table/cluster.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

constexpr int kAttemptsMax = 3;

std::vector<std::string> OpenSuites(const PlannedRun& run) {
  std::vector<std::string> open;
  for (const std::string& suite : run.suites) {
    if (!IsFinished(run, suite)) open.push_back(suite);
  }
  return open;
}

// What asking again cannot change; anything else may have been a cluster that broke off.
bool WillFailAgain(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsOutOfRange(status) ||
         absl::IsUnimplemented(status);
}

// Questions that have no answer but may get one.
int64_t OpenQuestions(const std::vector<Record>& latest, int64_t questions) {
  int64_t settled = 0;
  for (const Record& record : latest) {
    if (record.answer.status.ok() || WillFailAgain(record.answer.status)) ++settled;
  }
  return questions - settled;
}

class Measuring {
 public:
  Measuring(std::string tandem, const TableOptions& options, std::string command_line)
      : tandem_(std::move(tandem)), options_(options), command_line_(std::move(command_line)) {}

  // All open suites of one run, started again when it breaks off.
  absl::Status Measure(const PlannedRun& run) {
    absl::Status status;
    for (int attempt = 1; attempt <= kAttemptsMax; ++attempt) {
      status = MeasureOnce(run);
      if (status.ok() || absl::IsCancelled(status)) return status;
      // What is wrong with data, recipe or options stays wrong.
      if (absl::IsInvalidArgument(status) || absl::IsNotFound(status)) return status;
      base::LogWarning("table_run_broke_off", {{"run", run.label},
                                               {"attempt", attempt},
                                               {"of", kAttemptsMax},
                                               {"status", status.ToString()}});
    }
    return status;
  }

 private:
  absl::Status MeasureOnce(const PlannedRun& run) {
    EndpointOptions endpoint = options_.baseline;
    std::unique_ptr<Cluster> cluster;
    if (run.row != nullptr) {
      TANDEM_ASSIGN_OR_RETURN(cluster,
                              Cluster::Start(tandem_, *run.row, options_.up_arguments, run.folder,
                                             absl::Seconds(options_.ready_wait_s)));
      endpoint = {.address = cluster->address()};
    }
    for (const std::string& suite : OpenSuites(run)) {
      SuiteRunOptions run_options = OptionsOf(options_, run, suite, endpoint);
      run_options.command_line = command_line_;
      TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<SuiteRun> suite_run,
                              SuiteRun::Open(run_options));
      TANDEM_RETURN_IF_ERROR(suite_run->Ask());
      const RunFolder& folder = suite_run->folder();
      const int64_t open =
          OpenQuestions(LatestRecords(folder.records()), folder.manifest().questions);
      if (open > 0) {
        return absl::UnavailableError(absl::StrCat(open, " questions of ", suite, " failed"));
      }
    }
    return absl::OkStatus();
  }

  const std::string tandem_;
  const TableOptions& options_;
  const std::string command_line_;
};

}  // namespace

SuiteRunOptions OptionsOf(const TableOptions& options, const PlannedRun& run,
                          const std::string& suite, const EndpointOptions& endpoint) {
  SuiteRunOptions out;
  out.suite.name = suite;
  out.suite.data = options.data.empty() && suite == "quiz" ? kQuizDataDefault : options.data;
  out.suite.limit = options.limit;
  out.suite.samples = options.samples;
  out.suite.shots = options.shots;
  const auto variant = options.variants.find(suite);
  if (variant != options.variants.end()) out.suite.variant = variant->second;
  out.endpoint = endpoint;
  out.asking.seed = run.seed;
  out.asking.concurrency = options.concurrency;
  out.asking.ask.timeout = absl::Seconds(options.question_timeout_s);
  if (options.max_tokens) out.suite.max_tokens = out.asking.ask.max_tokens = *options.max_tokens;
  if (options.temperature) {
    out.suite.temperature = out.asking.ask.temperature = *options.temperature;
  }
  out.out = absl::StrCat(run.folder, "/", suite);
  out.resume = HasRun(out.out);
  out.ready_wait_s = options.ready_wait_s;
  return out;
}

bool IsFinished(const PlannedRun& run, const std::string& suite) {
  const std::string folder = absl::StrCat(run.folder, "/", suite);
  if (!HasRun(folder)) return false;
  const absl::StatusOr<StoredRun> stored = ReadRun(folder);
  return stored.ok() && OpenQuestions(stored->records, stored->manifest.questions) == 0;
}

absl::Status CheckSuites(const TableOptions& options) {
  for (const std::string& suite : options.suites) {
    TANDEM_RETURN_IF_ERROR(LoadSuite(OptionsOf(options, {}, suite, {}).suite).status());
  }
  return absl::OkStatus();
}

absl::Status MeasureTable(const std::string& tandem, const TableOptions& options,
                          const TablePlan& plan, const std::string& command_line) {
  Measuring measuring(tandem, options, command_line);
  size_t number = 0;
  for (const PlannedRun& run : plan.runs) {
    ++number;
    const std::vector<std::string> open = OpenSuites(run);
    std::fprintf(
        stderr, "tandem-eval: run %zu of %zu: %s%s\n", number, plan.runs.size(), run.label.c_str(),
        open.empty() ? ", done before" : absl::StrCat(", ", absl::StrJoin(open, " and ")).c_str());
    if (open.empty()) continue;
    const absl::Status status = measuring.Measure(run);
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat(run.label, ": ", std::string(status.message())));
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::eval
