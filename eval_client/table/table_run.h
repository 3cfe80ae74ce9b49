// The measuring part of a table: every planned run, one cluster after another, resumable at the
// question where it stopped.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "eval_client/suite_run.h"
#include "eval_client/table/table_options.h"
#include "eval_client/table/table_plan.h"

namespace tandem::eval {

// What one suite of one planned run is asked with; `address` is the cluster's or the baseline's.
SuiteRunOptions OptionsOf(const TableOptions& options, const PlannedRun& run,
                          const std::string& suite, const EndpointOptions& endpoint);

// True when every question of that suite is answered, or failed in a way that will not change (a
// prompt too long for the model, say).
bool IsFinished(const PlannedRun& run, const std::string& suite);

// Loads every suite once, so that missing data is said before the first cluster starts.
absl::Status CheckSuites(const TableOptions& options);

// Runs what is not finished. When a cluster breaks off, or questions fail that need not, it is
// started again twice and the run goes on where it was. CANCELLED when the user stops.
absl::Status MeasureTable(const std::string& tandem, const TableOptions& options,
                          const TablePlan& plan, const std::string& command_line);

}  // namespace tandem::eval
