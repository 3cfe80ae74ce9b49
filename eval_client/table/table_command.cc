#include "eval_client/table/table_command.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "eval_client/run.h"
#include "eval_client/suite_run.h"
#include "eval_client/table/table_data.h"
#include "eval_client/table/table_plan.h"
#include "eval_client/table/table_render.h"
#include "eval_client/table/table_run.h"
#include "lib/base/child_process.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "lib/base/text_file.h"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;

constexpr char kProgram[] = "tandem-eval table";

// Only the rows named, in the table's order.
absl::StatusOr<std::vector<RowPlan>> ChooseRows(std::vector<RowPlan> rows,
                                                const std::vector<std::string>& names) {
  if (names.empty()) return rows;
  for (const std::string& name : names) {
    const auto named = [&](const RowPlan& row) { return row.name == name; };
    if (std::any_of(rows.begin(), rows.end(), named)) continue;
    std::string there;
    for (const RowPlan& row : rows) absl::StrAppend(&there, there.empty() ? "" : ", ", row.name);
    return absl::NotFoundError(
        absl::StrCat("expected a row among ", there, ", found '", name, "'"));
  }
  std::erase_if(rows, [&](const RowPlan& row) {
    return std::find(names.begin(), names.end(), row.name) == names.end();
  });
  return rows;
}

// The folder's plan is this one: written now, or found there by --resume.
absl::Status OpenFolder(const TablePlan& plan, const TableOptions& options) {
  const std::string path = plan.out + "/plan.json";
  const std::string now = PlanToJson(plan, options);
  if (fs::exists(path)) {
    if (!options.resume) {
      return absl::FailedPreconditionError(
          absl::StrCat("expected no earlier table in ", plan.out,
                       ", found one; add --resume or name another --out"));
    }
    return CheckSamePlan(base::ReadTextOrEmpty(path), now);
  }
  if (options.resume) {
    return absl::NotFoundError(absl::StrCat("expected a table to resume, found no ", path));
  }
  std::error_code error;
  fs::create_directories(plan.out, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot create ", plan.out, ": ", error.message()));
  }
  return base::ReplaceFile(path, now);
}

absl::StatusOr<TablePlan> Prepare(const std::string& tandem, const TableOptions& options) {
  if (options.model.empty()) return absl::InvalidArgumentError("expected --model, found none");
  if (options.resume && options.out.empty()) {
    return absl::InvalidArgumentError("--resume needs --out with the folder of the table");
  }
  TANDEM_RETURN_IF_ERROR(CheckSuites(options));
  TANDEM_ASSIGN_OR_RETURN(std::vector<RowPlan> rows,
                          PlanRows(tandem, options.recipes, {options.model, options.row_models}));
  TANDEM_ASSIGN_OR_RETURN(rows, ChooseRows(std::move(rows), options.rows));
  const std::string out = options.out.empty()
                              ? absl::StrCat("eval_runs/table-", UtcTime("%Y%m%d-%H%M%S"))
                              : options.out;
  TablePlan plan = MakeTablePlan(std::move(rows), options, out);
  if (plan.runs.empty()) {
    return absl::InvalidArgumentError("none of the rows is of a dataset among the suites");
  }
  TANDEM_RETURN_IF_ERROR(OpenFolder(plan, options));
  return plan;
}

absl::Status WriteTable(const TablePlan& plan, const TableOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const TableData data, CollectTable(plan, options));
  const std::string markdown = TableMarkdown(data), json = TableJson(data);
  TANDEM_RETURN_IF_ERROR(base::ReplaceFile(plan.out + "/table.md", markdown));
  TANDEM_RETURN_IF_ERROR(base::ReplaceFile(plan.out + "/table.json", json));
  TANDEM_RETURN_IF_ERROR(base::ReplaceFile(plan.out + "/table.html", TablePage(data)));
  std::fputs(options.json ? json.c_str() : markdown.c_str(), stdout);
  std::fflush(stdout);
  std::fprintf(stderr, "%s: wrote %s/table.md, table.json and table.html\n", kProgram,
               plan.out.c_str());
  return absl::OkStatus();
}

}  // namespace

int MakeTable(const TableOptions& options, const std::string& command_line) {
  const std::string tandem = absl::StrCat(base::OwnFolder(), "/tandem");
  const absl::StatusOr<TablePlan> plan = Prepare(tandem, options);
  if (!plan.ok()) return base::CannotStart(kProgram, plan.status());
  absl::Status status = MeasureTable(tandem, options, *plan, command_line);
  if (status.ok()) status = WriteTable(*plan, options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n%s: what was answered is kept; go on with --resume --out %s\n",
               kProgram, std::string(status.message()).c_str(), kProgram, plan->out.c_str());
  return absl::IsCancelled(status) ? kExitInterrupted : base::kExitFailed;
}

}  // namespace tandem::eval
