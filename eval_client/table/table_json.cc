#include <string>

#include "absl/strings/str_replace.h"
#include "eval_client/table/result_page.h"
#include "eval_client/table/table_render.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

using Json = nlohmann::ordered_json;

Json IntervalJson(const Interval& interval) { return Json::array({interval.low, interval.high}); }

Json ComparisonJson(const std::optional<Comparison>& comparison) {
  if (!comparison) return nullptr;
  const Comparison& c = *comparison;
  Json json = {{"questions", c.paired.compared()},
               {"both_right", c.paired.both},
               {"flips_to_right", c.paired.only_this},
               {"flips_to_wrong", c.paired.only_reference},
               {"neither_right", c.paired.neither},
               {"left_out", c.paired.left_out},
               {"difference", c.paired.difference()},
               {"difference_interval", IntervalJson(c.difference_interval)},
               {"p", c.p},
               {"p_holm", c.p_holm},
               {"detectable", c.detectable},
               {"letters", nullptr}};
  if (c.letters) {
    json["letters"] = {{"questions", c.letters->questions},
                       {"divergence", c.letters->divergence},
                       {"divergence_interval", IntervalJson(c.letters->divergence_interval)},
                       {"same_best", c.letters->same_best},
                       {"same_best_interval", IntervalJson(c.letters->same_best_interval)}};
  }
  return json;
}

Json ScoreJson(const Score& score) {
  const Counts& counts = score.counts;
  return {{"answered", counts.answered()},
          {"correct", counts.correct},
          {"share", counts.percent() / 100.0},
          {"interval", IntervalJson(score.interval)},
          {"wrong", counts.wrong},
          {"unparsed", counts.unparsed},
          {"truncated", counts.truncated},
          {"failed", counts.failed},
          {"percent_by_parser", score.by_parser},
          {"letter_questions", score.letter_questions},
          {"letter_percent", score.letter_percent},
          {"questions_per_s", score.questions_per_s},
          {"generated_tokens_per_s", score.generated_per_s},
          {"prompt_tokens_per_s", score.prompt_per_s},
          {"seconds_per_question", score.seconds_per_question},
          {"manifest", Json::parse(ManifestToJson(score.manifest))}};
}

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kReference:
      return "reference";
    case Verdict::kWorse:
      return "worse";
    case Verdict::kBetter:
      return "better";
    default:
      return "no_difference_seen";
  }
}

Json RowJson(const TableSection& section, const TableRow& row) {
  const PublishedRow& published = row.plan.published;
  return {{"name", row.plan.name},
          {"row", published.row},
          {"published",
           {{"model", published.model},
            {"cpu_weight_format", published.cpu_weight_format},
            {"cpu_kernel", published.cpu_kernel},
            {"gpu_weight_format", published.gpu_weight_format},
            {"gemm_kernel", published.gemm_kernel},
            {"mla_kernel", published.mla_kernel},
            {"siliconflow", published.baseline_score},
            {"ktrans_point", published.score}}},
          {"recipe", row.plan.recipe},
          {"recipe_digest", row.plan.recipe_digest},
          {"weights_digest", row.plan.weights_digest},
          {"expert_types", row.plan.expert_types},
          {"linear_formats", row.plan.linear_formats},
          {"attention", row.plan.attention},
          {"score", ScoreJson(row.score)},
          {"to_reference", ComparisonJson(row.to_reference)},
          {"to_baseline", ComparisonJson(row.to_baseline)},
          {"verdict", VerdictName(row.verdict)},
          {"sentence", VerdictSentence(section, row)}};
}

Json SectionJson(const TableSection& section) {
  Json json = {{"dataset", section.dataset},
               {"suite", section.suite},
               {"parser", section.parser},
               {"reference", section.reference},
               {"rows", Json::array()},
               {"baseline", section.baseline ? ScoreJson(*section.baseline) : Json()},
               {"noise", ComparisonJson(section.noise)}};
  for (const TableRow& row : section.rows) json["rows"].push_back(RowJson(section, row));
  return json;
}

Json DataJson(const TableData& data) {
  Json json = {{"tool_version", data.tool_version}, {"made", data.made},
               {"model", data.options.model},       {"baseline_name", data.options.baseline_name},
               {"seed", data.options.seed},         {"sections", Json::array()}};
  for (const TableSection& section : data.sections)
    json["sections"].push_back(SectionJson(section));
  return json;
}

}  // namespace

std::string TableJson(const TableData& data) {
  return DataJson(data).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string TablePage(const TableData& data) {
  // "</script>" or "<!--" in a model's name must not end the element that holds the data.
  const std::string json = absl::StrReplaceAll(
      DataJson(data).dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace),
      {{"<", "\\u003c"}, {">", "\\u003e"}, {"&", "\\u0026"}});
  return absl::StrReplaceAll(std::string(ResultPageTemplate()), {{"@TABLE_JSON@", json}});
}

}  // namespace tandem::eval
