#include "eval_client/report/table.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/report/compare.h"
#include "eval_client/report/tally.h"
#include "eval_client/stats/wilson.h"
#include "lib/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

using Json = nlohmann::ordered_json;

// The suite's own parser first.
std::vector<AnswerParser> ParsersToShow(const Manifest& manifest,
                                        const std::vector<Record>& records) {
  std::vector<AnswerParser> parsers = ParsersFor(records);
  std::stable_partition(parsers.begin(), parsers.end(),
                        [&](AnswerParser p) { return p == HeadlineParser(manifest); });
  return parsers;
}

size_t NameWidth(const Tally& tally) {
  size_t width = std::string("total (first_char)").size();
  for (const auto& [subject, counts] : tally.subjects) width = std::max(width, subject.size());
  return width;
}

std::string Row(const std::string& name, size_t width, const Counts& counts) {
  const Interval interval = WilsonInterval95(counts.correct, counts.answered());
  return absl::StrFormat("%-*s %6d %8d %6.1f   %5.1f .. %5.1f %6d %9d %10d %7d\n",
                         static_cast<int>(width), name, counts.answered(), counts.correct,
                         counts.percent(), 100.0 * interval.low, 100.0 * interval.high,
                         counts.wrong, counts.unparsed, counts.truncated, counts.failed);
}

std::string Head(const Manifest& manifest) {
  const auto& model = manifest.model;
  return absl::StrFormat(
      "suite %s, %d questions   model %s (%s)   experts %s, %s, attention %s\n"
      "temperature %g, at most %d tokens, seed %d   %d CPU and %d GPU workers   digest %s\n",
      manifest.suite, manifest.questions, model.name(), model.model_type(), model.expert_formats(),
      model.precision(), model.attention(), manifest.temperature, manifest.max_tokens,
      manifest.seed, model.cpu_workers_ready(), model.gpu_workers_ready(),
      model.digest().substr(0, 16));
}

std::string SpeedLine(const Manifest& manifest) {
  const Speed speed = TotalSpeed(manifest);
  return absl::StrFormat(
      "%d questions in %.1f s: %.2f questions/s, %.1f generated tokens/s, %.1f prompt tokens/s, "
      "%d at a time\n",
      speed.asked, speed.wall_s, speed.per_second(speed.asked),
      speed.per_second(speed.completion_tokens), speed.per_second(speed.prompt_tokens),
      manifest.concurrency);
}

std::string Warnings(const Manifest& manifest, size_t recorded, const Counts& total) {
  std::string warnings;
  if (total.failed > 0) {
    absl::StrAppendFormat(&warnings,
                          "%d questions failed and are in no score; --resume asks them again\n",
                          total.failed);
  }
  if (static_cast<int64_t>(recorded) < manifest.questions) {
    absl::StrAppendFormat(&warnings, "%d of %d questions were not asked\n",
                          manifest.questions - static_cast<int64_t>(recorded), manifest.questions);
  }
  if (total.truncated > 0) {
    absl::StrAppendFormat(&warnings, "%d answers were cut off at %d tokens and are not right\n",
                          total.truncated, manifest.max_tokens);
  }
  return warnings;
}

Json CountsToJson(const Counts& counts) {
  const Interval interval = WilsonInterval95(counts.correct, counts.answered());
  return {{"answered", counts.answered()},
          {"correct", counts.correct},
          {"percent", counts.percent()},
          {"percent_low95", 100.0 * interval.low},
          {"percent_high95", 100.0 * interval.high},
          {"wrong", counts.wrong},
          {"unparsed", counts.unparsed},
          {"truncated", counts.truncated},
          {"failed", counts.failed}};
}

std::string LetterLines(const LetterComparison& letters) {
  return absl::StrFormat(
      "letters' probabilities: mean divergence %.4g nats (%.4g to %.4g), same most likely letter "
      "in "
      "%d of %d (%.1f to %.1f %%)\n",
      letters.divergence, letters.divergence_interval.low, letters.divergence_interval.high,
      letters.same_best, letters.questions, 100.0 * letters.same_best_interval.low,
      100.0 * letters.same_best_interval.high);
}

// Shares of tasks, not of answers; in percent by k. Empty unless tasks were answered several times.
std::map<int64_t, double> PassAtKPercents(const std::vector<Record>& records) {
  std::map<int64_t, double> percents;
  if (records.empty() || records.front().kind != AnswerKind::kCode) return percents;
  for (const int64_t k : {1, 5, 10, 100}) {  // those that are published
    if (const auto share = MeanPassAtK(records, k)) percents[k] = 100.0 * *share;
  }
  return percents;
}

std::string PassAtKLine(const std::vector<Record>& records) {
  const auto percents = PassAtKPercents(records);
  if (percents.size() < 2) return "";
  std::string line = "Of the tasks";
  for (const auto& [k, percent] : percents) {
    absl::StrAppendFormat(&line, ", pass@%d %.1f %%", k, percent);
  }
  return line +
         " (estimated without bias); answers to one task are alike, so the intervals above are too "
         "narrow\n";
}

}  // namespace

double HeadlinePercent(const Manifest& manifest, const std::vector<Record>& records) {
  return CountOutcomes(records, HeadlineParser(manifest)).total.percent();
}

std::string RenderTable(const Manifest& manifest, const std::vector<Record>& records) {
  const AnswerParser headline = HeadlineParser(manifest);
  const Tally tally = CountOutcomes(records, headline);
  const size_t width = NameWidth(tally);
  std::string table = Head(manifest) + "\n";
  absl::StrAppendFormat(&table, "%-*s %6s %8s %6s   %14s %6s %9s %10s %7s\n",
                        static_cast<int>(width), "subject", "n", "correct", "%", "95 % interval",
                        "wrong", "unparsed", "truncated", "failed");
  for (const auto& [subject, counts] : tally.subjects) table += Row(subject, width, counts);
  table += std::string(width + 73, '-') + "\n";
  for (AnswerParser parser : ParsersToShow(manifest, records)) {
    const std::string name =
        parser == headline ? "total" : absl::StrCat("total (", ParserName(parser), ")");
    table += Row(name, width, CountOutcomes(records, parser).total);
  }
  absl::StrAppend(&table, "\nAnswers are read by the rule ", ParserName(headline),
                  "; n counts answered questions, the interval is Wilson's.\n",
                  PassAtKLine(records), SpeedLine(manifest),
                  Warnings(manifest, records.size(), tally.total));
  return table;
}

std::string RenderJson(const Manifest& manifest, const std::vector<Record>& records) {
  const Tally tally = CountOutcomes(records, HeadlineParser(manifest));
  const Speed speed = TotalSpeed(manifest);
  Json json = {{"manifest", Json::parse(ManifestToJson(manifest))},
               {"total", CountsToJson(tally.total)},
               {"recorded", records.size()}};
  for (const auto& [subject, counts] : tally.subjects) {
    json["subjects"][subject] = CountsToJson(counts);
  }
  for (AnswerParser parser : ParsersFor(records)) {
    json["by_parser"][ParserName(parser)] = CountsToJson(CountOutcomes(records, parser).total);
  }
  for (const auto& [k, percent] : PassAtKPercents(records)) {
    json["pass_at_k_percent"][absl::StrCat(k)] = percent;
  }
  json["speed"] = {{"wall_s", speed.wall_s},
                   {"questions_per_s", speed.per_second(speed.asked)},
                   {"generated_tokens_per_s", speed.per_second(speed.completion_tokens)},
                   {"prompt_tokens_per_s", speed.per_second(speed.prompt_tokens)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<std::string> RenderComparison(const Manifest& manifest,
                                             const std::vector<Record>& records,
                                             const Manifest& baseline,
                                             const std::vector<Record>& baseline_records) {
  TANDEM_RETURN_IF_ERROR(CheckSameQuestions(manifest, baseline));
  const Comparison c = Compare(records, baseline_records, HeadlineParser(manifest));
  const Paired& paired = c.paired;
  const double n = std::max<double>(1.0, static_cast<double>(paired.compared()));
  std::string text = absl::StrFormat(
      "compared question by question with experts %s, %s, attention %s: %d questions, %d left out\n"
      "this run %.1f %%, baseline %.1f %%, difference %+.1f points (%+.1f to %+.1f)\n"
      "right in both %d, in this run alone %d, in the baseline alone %d, in neither %d\n"
      "McNemar's exact test: p = %.4f (chance of a split this uneven between equals); a true "
      "difference of %.1f points would be found 4 times in 5\n",
      baseline.model.expert_formats(), baseline.model.precision(), baseline.model.attention(),
      paired.compared(), paired.left_out, 100.0 * (paired.both + paired.only_this) / n,
      100.0 * (paired.both + paired.only_reference) / n, 100.0 * paired.difference(),
      100.0 * c.difference_interval.low, 100.0 * c.difference_interval.high, paired.both,
      paired.only_this, paired.only_reference, paired.neither, c.p, 100.0 * c.detectable);
  if (c.letters) text += LetterLines(*c.letters);
  return text;
}

}  // namespace tandem::eval
