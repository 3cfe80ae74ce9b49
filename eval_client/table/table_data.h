// TableData: everything the result table says, computed from stored runs and nothing else.
// Markdown, JSON and the page render this, so they cannot disagree.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "eval_client/report/compare.h"
#include "eval_client/report/manifest.h"
#include "eval_client/report/tally.h"
#include "eval_client/run_folder.h"
#include "eval_client/table/table_options.h"
#include "eval_client/table/table_plan.h"

namespace tandem::eval {

// One run over one suite, judged.
struct Score {
  Counts counts;
  Interval interval;                        // Wilson, 95 %, of the share right
  std::map<std::string, double> by_parser;  // percent right under every parser
  // Percent right when the most likely letter counts as the answer, over `letter_questions`: no
  // sampling, hence no noise of its own.
  double letter_percent = 0.0;
  int64_t letter_questions = 0;
  double questions_per_s = 0.0, generated_per_s = 0.0, prompt_per_s = 0.0;
  double seconds_per_question = 0.0;  // from asking to the whole answer, mean
  Manifest manifest;
};

// What a comparison says in words.
enum class Verdict { kReference, kWorse, kBetter, kNoDifferenceSeen };

struct TableRow {
  RowPlan plan;
  Score score;
  std::optional<Comparison> to_reference;  // none in the reference row itself
  std::optional<Comparison> to_baseline;
  Verdict verdict = Verdict::kReference;  // by the corrected p value at 5 %
};

// The rows of one dataset of the published table, asked one suite.
struct TableSection {
  std::string dataset;  // "mmlu"
  std::string suite;    // "quiz"
  std::string parser;   // whose scores are shown
  std::vector<TableRow> rows;
  std::string reference;  // name of the row the others are compared with: the first
  std::optional<Score> baseline;
  std::optional<Comparison> noise;  // the first row again under another seed, against itself
};

struct TableData {
  TableOptions options;
  std::string tool_version;
  std::string made;  // time, UTC
  std::vector<TableSection> sections;
};

// Reads every finished run of the plan. NOT_FOUND names a run that is missing.
absl::StatusOr<TableData> CollectTable(const TablePlan& plan, const TableOptions& options);

// One sentence about a row: how it compares with the reference and how sure that is.
std::string VerdictSentence(const TableSection& section, const TableRow& row);

}  // namespace tandem::eval
