#include "eval_client/report/compare.h"

#include <algorithm>
#include <string>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "eval_client/report/tally.h"
#include "eval_client/stats/bootstrap.h"
#include "eval_client/stats/detectable.h"
#include "eval_client/stats/holm.h"
#include "eval_client/stats/letters.h"
#include "eval_client/stats/mcnemar.h"

namespace tandem::eval {
namespace {

// Any constant: a table made twice from the same runs is the same.
constexpr uint64_t kBootstrapSeed = 20250225;

using RecordPair = std::pair<const Record*, const Record*>;  // this run's and the reference's

std::vector<RecordPair> PairUp(const std::vector<Record>& records,
                               const std::vector<Record>& reference) {
  std::unordered_map<std::string, const Record*> others;
  for (const Record& record : reference) others[record.id] = &record;
  std::vector<RecordPair> pairs;
  for (const Record& record : records) {
    const auto other = others.find(record.id);
    if (other == others.end() || !record.answer.status.ok() || !other->second->answer.status.ok()) {
      continue;
    }
    pairs.emplace_back(&record, other->second);
  }
  // Journals are in order of answering, which chance decides; the bootstrap's draws are by place.
  std::sort(pairs.begin(), pairs.end(),
            [](const RecordPair& a, const RecordPair& b) { return a.first->id < b.first->id; });
  return pairs;
}

double Detectable(const Paired& paired) {
  if (paired.compared() == 0) return 1.0;
  return SmallestDetectableDifference(
      paired.compared(),
      static_cast<double>(paired.flips()) / static_cast<double>(paired.compared()));
}

std::optional<LetterComparison> CompareLetters(const std::vector<RecordPair>& pairs) {
  LetterComparison letters;
  std::vector<double> divergences;
  for (const auto& [here, there] : pairs) {
    if (here->letter_logprobs.empty() ||
        here->letter_logprobs.size() != there->letter_logprobs.size()) {
      continue;
    }
    divergences.push_back(LetterDivergence(there->letter_logprobs, here->letter_logprobs));
    if (BestLetter(here->letter_logprobs) == BestLetter(there->letter_logprobs)) {
      ++letters.same_best;
    }
  }
  if (divergences.empty()) return std::nullopt;
  letters.questions = static_cast<int64_t>(divergences.size());
  for (const double divergence : divergences) letters.divergence += divergence;
  letters.divergence /= static_cast<double>(divergences.size());
  letters.divergence_interval = BootstrapMean95(divergences, kBootstrapSeed);
  letters.same_best_interval = WilsonInterval95(letters.same_best, letters.questions);
  return letters;
}

}  // namespace

double Paired::difference() const {
  if (compared() == 0) return 0.0;
  return static_cast<double>(only_this - only_reference) / static_cast<double>(compared());
}

Comparison Compare(const std::vector<Record>& records, const std::vector<Record>& reference,
                   AnswerParser parser) {
  const std::vector<RecordPair> pairs = PairUp(records, reference);
  Comparison comparison;
  Paired& paired = comparison.paired;
  std::vector<double> differences;
  for (const auto& [here, there] : pairs) {
    const bool right = Judge(*here, parser) == Outcome::kCorrect;
    const bool right_there = Judge(*there, parser) == Outcome::kCorrect;
    ++(right ? (right_there ? paired.both : paired.only_this)
             : (right_there ? paired.only_reference : paired.neither));
    differences.push_back(static_cast<double>(right) - static_cast<double>(right_there));
  }
  paired.left_out = static_cast<int64_t>(std::max(records.size(), reference.size())) -
                    static_cast<int64_t>(pairs.size());
  comparison.difference_interval =
      differences.empty() ? Interval{-1.0, 1.0} : BootstrapMean95(differences, kBootstrapSeed);
  comparison.p = McNemarExactP(paired.only_this, paired.only_reference);
  comparison.p_holm = comparison.p;
  comparison.detectable = Detectable(paired);
  comparison.letters = CompareLetters(pairs);
  return comparison;
}

void CorrectFamily(const std::vector<Comparison*>& family) {
  std::vector<double> p_values;
  for (const Comparison* comparison : family) p_values.push_back(comparison->p);
  const std::vector<double> adjusted = HolmAdjusted(p_values);
  for (size_t i = 0; i < family.size(); ++i) family[i]->p_holm = adjusted[i];
}

absl::Status CheckSameQuestions(const Manifest& manifest, const Manifest& reference) {
  if (manifest.prompts_sha256 == reference.prompts_sha256) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("expected two runs over the same questions, found ", manifest.suite, " ",
                   manifest.prompts_sha256.substr(0, 16), " and ", reference.suite, " ",
                   reference.prompts_sha256.substr(0, 16)));
}

}  // namespace tandem::eval
