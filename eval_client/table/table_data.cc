#include "eval_client/table/table_data.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/stats/letters.h"
#include "eval_client/suite_run.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

constexpr double kLevel = 0.05;

Score ScoreOf(const StoredRun& run) {
  Score score;
  score.manifest = run.manifest;
  score.counts = CountOutcomes(run.records, HeadlineParser(run.manifest)).total;
  score.interval = WilsonInterval95(score.counts.correct, score.counts.answered());
  const AnswerKind kind = run.records.empty() ? AnswerKind::kLetter : run.records[0].kind;
  for (const AnswerParser parser : ParsersFor(kind)) {
    score.by_parser[ParserName(parser)] = CountOutcomes(run.records, parser).total.percent();
  }
  int64_t right = 0;
  absl::Duration waited;
  for (const Record& record : run.records) {
    waited += record.answer.wall;
    if (record.letter_logprobs.empty()) continue;
    ++score.letter_questions;
    const char best = static_cast<char>('A' + BestLetter(record.letter_logprobs));
    if (record.gold == std::string(1, best)) ++right;
  }
  if (score.letter_questions > 0) {
    score.letter_percent = 100.0 * static_cast<double>(right) / score.letter_questions;
  }
  const Speed speed = TotalSpeed(run.manifest);
  score.questions_per_s = speed.per_second(speed.asked);
  score.generated_per_s = speed.per_second(speed.completion_tokens);
  score.prompt_per_s = speed.per_second(speed.prompt_tokens);
  if (!run.records.empty()) {
    score.seconds_per_question =
        absl::ToDoubleSeconds(waited) / static_cast<double>(run.records.size());
  }
  return score;
}

Verdict VerdictOf(const Comparison& comparison) {
  if (comparison.p_holm >= kLevel) return Verdict::kNoDifferenceSeen;
  return comparison.paired.difference() < 0 ? Verdict::kWorse : Verdict::kBetter;
}

// The stored runs of one section.
struct SectionRuns {
  std::vector<std::pair<const RowPlan*, StoredRun>> rows;
  std::optional<StoredRun> again, baseline;
};

absl::StatusOr<TableSection> MakeSection(const std::string& dataset, const std::string& suite,
                                         const SectionRuns& runs) {
  TableSection section;
  section.dataset = dataset;
  section.suite = suite;
  const StoredRun& reference = runs.rows.front().second;
  const AnswerParser parser = HeadlineParser(reference.manifest);
  section.parser = ParserName(parser);
  section.reference = runs.rows.front().first->name;
  std::vector<Comparison*> family, baseline_family;
  section.rows.reserve(runs.rows.size());  // the families point into it
  for (const auto& [plan, run] : runs.rows) {
    TANDEM_RETURN_IF_ERROR(CheckSameQuestions(run.manifest, reference.manifest));
    TableRow& row = section.rows.emplace_back();
    row.plan = *plan;
    row.score = ScoreOf(run);
    if (section.rows.size() > 1) {
      row.to_reference = Compare(run.records, reference.records, parser);
      family.push_back(&*row.to_reference);
    }
    if (runs.baseline) {
      TANDEM_RETURN_IF_ERROR(CheckSameQuestions(run.manifest, runs.baseline->manifest));
      row.to_baseline = Compare(run.records, runs.baseline->records, parser);
      baseline_family.push_back(&*row.to_baseline);
    }
  }
  CorrectFamily(family);
  CorrectFamily(baseline_family);
  for (TableRow& row : section.rows) {
    if (row.to_reference) row.verdict = VerdictOf(*row.to_reference);
  }
  if (runs.again) section.noise = Compare(runs.again->records, reference.records, parser);
  if (runs.baseline) section.baseline = ScoreOf(*runs.baseline);
  return section;
}

// Runs of a section, in the plan's order.
absl::StatusOr<SectionRuns> ReadSection(const TablePlan& plan, const std::string& dataset,
                                        const std::string& suite) {
  SectionRuns runs;
  for (const PlannedRun& run : plan.runs) {
    if (std::find(run.suites.begin(), run.suites.end(), suite) == run.suites.end()) continue;
    if (run.row != nullptr && run.row->published.dataset != dataset) continue;
    absl::StatusOr<StoredRun> stored = ReadRun(absl::StrCat(run.folder, "/", suite));
    if (!stored.ok()) {
      return absl::NotFoundError(
          absl::StrCat(run.label, " ", suite, ": ", std::string(stored.status().message())));
    }
    if (run.row == nullptr) {
      runs.baseline = *std::move(stored);
    } else if (run.label != run.row->name) {
      runs.again = *std::move(stored);
    } else {
      runs.rows.emplace_back(run.row, *std::move(stored));
    }
  }
  return runs;
}

std::vector<std::string> DatasetsOf(const TablePlan& plan) {
  std::vector<std::string> datasets;
  for (const RowPlan& row : plan.rows) {
    if (std::find(datasets.begin(), datasets.end(), row.published.dataset) == datasets.end()) {
      datasets.push_back(row.published.dataset);
    }
  }
  return datasets;
}

}  // namespace

absl::StatusOr<TableData> CollectTable(const TablePlan& plan, const TableOptions& options) {
  TableData data;
  data.options = options;
  data.tool_version = base::VersionString();
  data.made = UtcTime("%Y-%m-%dT%H:%M:%SZ");
  for (const std::string& dataset : DatasetsOf(plan)) {
    for (const std::string& suite : options.suites) {
      TANDEM_ASSIGN_OR_RETURN(const SectionRuns runs, ReadSection(plan, dataset, suite));
      if (runs.rows.empty()) continue;
      TANDEM_ASSIGN_OR_RETURN(TableSection section, MakeSection(dataset, suite, runs));
      data.sections.push_back(std::move(section));
    }
  }
  return data;
}

std::string VerdictSentence(const TableSection& section, const TableRow& row) {
  if (!row.to_reference) return "the row the others are compared with";
  const Comparison& c = *row.to_reference;
  const std::string figures = absl::StrFormat(
      "%+.1f points (%+.1f to %+.1f) on %d questions, flips to wrong %d and to right %d, p = %.2g "
      "after Holm's correction",
      100.0 * c.paired.difference(), 100.0 * c.difference_interval.low,
      100.0 * c.difference_interval.high, c.paired.compared(), c.paired.only_reference,
      c.paired.only_this, c.p_holm);
  switch (row.verdict) {
    case Verdict::kWorse:
      return absl::StrCat("answers worse than ", section.reference, ": ", figures);
    case Verdict::kBetter:
      return absl::StrCat("answers better than ", section.reference, ": ", figures);
    default:
      return absl::StrFormat(
          "no difference from %s seen: %s; a true one of %.1f points would be found 4 times in 5",
          section.reference, figures, 100.0 * c.detectable);
  }
}

}  // namespace tandem::eval
