#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "eval_client/table/table_render.h"

namespace tandem::eval {
namespace {

constexpr size_t kColumns = 118;

// `text` in lines of at most kColumns, the later ones behind `indent`. Ends in a line end.
std::string Wrapped(const std::string& text, const std::string& indent = "") {
  std::string out, line;
  for (const absl::string_view word : absl::StrSplit(text, ' ')) {
    if (!line.empty() && line.size() + 1 + word.size() > kColumns) {
      out += line + "\n";
      line = indent + std::string(word);
    } else {
      absl::StrAppend(&line, line.empty() ? "" : " ", word);
    }
  }
  return out + line + "\n";
}

std::string Bullet(const std::string& text) { return Wrapped("- " + text, "  "); }

std::string Line(const std::vector<std::string>& cells) {
  std::vector<std::string> escaped;
  for (const std::string& cell : cells) {
    escaped.push_back(absl::StrReplaceAll(cell, {{"|", "\\|"}, {"\n", " "}}));
  }
  return absl::StrCat("| ", absl::StrJoin(escaped, " | "), " |\n");
}

std::string Percent(const Score& score) {
  return absl::StrFormat("%.1f (%.1f to %.1f)", score.counts.percent(), 100.0 * score.interval.low,
                         100.0 * score.interval.high);
}

std::string LettersCell(const TableRow& row) {
  if (!row.to_reference || !row.to_reference->letters) return "";
  const LetterComparison& letters = *row.to_reference->letters;
  return absl::StrFormat("%.3g, %.1f %%", letters.divergence,
                         100.0 * letters.same_best / static_cast<double>(letters.questions));
}

std::string FlipsCell(const std::optional<Comparison>& comparison) {
  if (!comparison) return "";
  return absl::StrFormat("-%d +%d", comparison->paired.only_reference,
                         comparison->paired.only_this);
}

std::string PCell(const std::optional<Comparison>& comparison) {
  return comparison ? absl::StrFormat("%.2g", comparison->p_holm) : "";
}

// The published table has figures for its datasets alone; GSM8K and HumanEval stand there as "tbd".
std::string PublishedCell(const TableSection& section, const TableRow& row) {
  if (section.suite == "gsm8k" || section.suite == "humaneval") return "tbd / tbd";
  return absl::StrCat(row.plan.published.baseline_score, " / ", row.plan.published.score);
}

std::string RowLine(const TableSection& section, const TableRow& row) {
  const PublishedRow& published = row.plan.published;
  return Line(
      {absl::StrCat(published.row), published.cpu_weight_format, published.cpu_kernel,
       published.gpu_weight_format, published.gemm_kernel, published.mla_kernel,
       section.baseline ? absl::StrFormat("%.1f", section.baseline->counts.percent()) : "",
       Percent(row.score), FlipsCell(row.to_reference), PCell(row.to_reference), LettersCell(row),
       PCell(row.to_baseline), absl::StrFormat("%.1f", row.score.generated_per_s),
       absl::StrFormat("%.2f", row.score.seconds_per_question), PublishedCell(section, row)});
}

// What went wrong apart from wrong answers; nothing when nothing did.
std::string TroubleLine(const TableRow& row) {
  const Counts& counts = row.score.counts;
  if (counts.unparsed + counts.truncated + counts.failed == 0) return "";
  return Bullet(absl::StrFormat("%s: %d unreadable, %d cut off, %d failed of %d questions",
                                row.plan.name, counts.unparsed, counts.truncated, counts.failed,
                                counts.answered() + counts.failed));
}

std::string NoiseLine(const TableSection& section) {
  if (!section.noise) return "";
  const Paired& paired = section.noise->paired;
  return Bullet(absl::StrFormat(
      "noise: %s against itself under another seed: %d of %d answers flipped (-%d +%d), p = "
      "%.2g",
      section.reference, paired.flips(), paired.compared(), paired.only_reference, paired.only_this,
      section.noise->p));
}

std::string SectionMarkdown(const TableSection& section, const TableOptions& options) {
  const std::string baseline = section.baseline ? options.baseline_name : "Baseline";
  const Manifest& manifest = section.rows.front().score.manifest;
  std::string text = absl::StrFormat("## %s rows, suite %s (%d questions)\n\n", section.dataset,
                                     section.suite, manifest.questions);
  const std::vector<std::string> head = {
      "#",
      "CPU Weight Format",
      "CPU Kernel",
      "GPU Weight Format",
      "GEMM Kernel",
      "MLA Kernel",
      baseline,
      "Tandem (95 % interval)",
      absl::StrCat("flips vs ", section.reference),
      "p (Holm)",
      "letters: KL, same best",
      absl::StrCat("p vs ", baseline),
      "tokens/s",
      "s/question",
      absl::StrCat("published on ", section.dataset, ": Siliconflow / Ktrans")};
  text += Line(head) + Line(std::vector<std::string>(head.size(), "---"));
  for (const TableRow& row : section.rows) text += RowLine(section, row);
  text += "\n";
  for (const TableRow& row : section.rows) {
    text += Bullet(absl::StrCat(row.plan.name, ": ", VerdictSentence(section, row)));
  }
  text += NoiseLine(section);
  for (const TableRow& row : section.rows) text += TroubleLine(row);
  return text + "\n";
}

}  // namespace

std::string TableMarkdown(const TableData& data) {
  if (data.sections.empty()) return "";
  const Manifest& manifest = data.sections.front().rows.front().score.manifest;
  std::string text = absl::StrCat("# Result table: ", manifest.model.name(), "\n\n");
  text += Wrapped(absl::StrFormat(
      "Tandem %s, %s, on %s (%d cores). Temperature and token limits as each suite has them unless "
      "given, seed %d. Intervals at 95 %%: Wilson's for scores, bootstrap for differences. p: "
      "McNemar's exact test, corrected within each table by Holm.",
      data.tool_version, data.made, manifest.host_cpu, manifest.host_cores, data.options.seed));
  text += "\n";
  for (const TableSection& section : data.sections) text += SectionMarkdown(section, data.options);
  return text;
}

}  // namespace tandem::eval
