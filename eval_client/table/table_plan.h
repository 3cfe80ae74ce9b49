// TablePlan: every run a table needs and where each is kept, as a pure function of rows and
// options. What is measured first, what a resumed table may reuse and what compares with what
// follow from it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "eval_client/table/row_plan.h"
#include "eval_client/table/table_options.h"

namespace tandem::eval {

// One cluster's worth of work, or the baseline's.
struct PlannedRun {
  std::string label;             // "mmlu-1", "mmlu-1 again", or the baseline's name
  const RowPlan* row = nullptr;  // null: the baseline
  std::vector<std::string> suites;
  uint64_t seed = 0;
  std::string folder;  // holds one folder per suite
};

struct TablePlan {
  std::vector<RowPlan> rows;
  std::vector<PlannedRun> runs;  // in order of running; they point into `rows`
  std::string out;

  TablePlan() = default;
  TablePlan(const TablePlan&) = delete;  // because of those pointers
  TablePlan& operator=(const TablePlan&) = delete;
  TablePlan(TablePlan&&) = default;
  TablePlan& operator=(TablePlan&&) = default;
};

// A suite named as a row's dataset is asked of the rows of that dataset. Any other suite stands in
// for all of them when no dataset is among the suites, so a small quiz fills the whole table; next
// to a dataset it is asked of the rows of the first one, as the published table leaves those suites
// open without naming a row.
std::vector<std::string> SuitesOfRow(const std::vector<std::string>& suites,
                                     const PublishedRow& row);

TablePlan MakeTablePlan(std::vector<RowPlan> rows, const TableOptions& options,
                        const std::string& out);

// What must be the same for a table to be resumed, as JSON, one key a line.
std::string PlanToJson(const TablePlan& plan, const TableOptions& options);

// FAILED_PRECONDITION names the first key that differs.
absl::Status CheckSamePlan(const std::string& earlier_json, const std::string& now_json);

}  // namespace tandem::eval
