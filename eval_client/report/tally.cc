#include "eval_client/report/tally.h"

#include <algorithm>
#include <unordered_map>

#include "lib/base/check.h"

namespace tandem::eval {

double Counts::percent() const {
  return answered() == 0 ? 0.0 : 100.0 * static_cast<double>(correct) / answered();
}

void Counts::Add(Outcome outcome) {
  switch (outcome) {
    case Outcome::kCorrect:
      ++correct;
      break;
    case Outcome::kWrong:
      ++wrong;
      break;
    case Outcome::kUnparsed:
      ++unparsed;
      break;
    case Outcome::kTruncated:
      ++truncated;
      break;
    case Outcome::kFailed:
      ++failed;
      break;
  }
}

namespace {

// The letter with the highest log probability, the first one on a tie.
std::optional<std::string> LikeliestLetter(const std::vector<float>& logprobs) {
  if (logprobs.empty()) return std::nullopt;
  const auto best = std::max_element(logprobs.begin(), logprobs.end());
  return std::string(1, static_cast<char>('A' + (best - logprobs.begin())));
}

Outcome JudgeRun(const Record& record) {
  if (record.verdict == kVerdictPassed) return Outcome::kCorrect;
  return record.answer.finish == Finish::kLength ? Outcome::kTruncated : Outcome::kWrong;
}

}  // namespace

Outcome Judge(const Record& record, AnswerParser parser) {
  if (!record.answer.status.ok()) return Outcome::kFailed;
  if (record.kind == AnswerKind::kCode) return JudgeRun(record);
  if (parser == AnswerParser::kLogprob) {
    const auto letter = LikeliestLetter(record.letter_logprobs);
    if (!letter) return Outcome::kUnparsed;
    return *letter == record.gold ? Outcome::kCorrect : Outcome::kWrong;
  }
  const auto answer = ParseAnswer(parser, record.answer.text, record.letters);
  if (answer && IsRight(parser, *answer, record.gold)) return Outcome::kCorrect;
  if (record.answer.finish == Finish::kLength) return Outcome::kTruncated;
  return answer ? Outcome::kWrong : Outcome::kUnparsed;
}

std::vector<AnswerParser> ParsersFor(const std::vector<Record>& records) {
  std::vector<AnswerParser> parsers =
      ParsersFor(records.empty() ? AnswerKind::kLetter : records.front().kind);
  const bool scored = std::any_of(records.begin(), records.end(),
                                  [](const Record& r) { return !r.letter_logprobs.empty(); });
  if (scored) parsers.insert(parsers.begin(), AnswerParser::kLogprob);
  return parsers;
}

std::vector<Record> LatestRecords(const std::vector<Record>& records) {
  std::vector<Record> latest;
  std::unordered_map<std::string, size_t> index_of;
  for (const Record& record : records) {
    const auto [place, is_new] = index_of.emplace(record.id, latest.size());
    if (is_new) {
      latest.push_back(record);
    } else {
      latest[place->second] = record;
    }
  }
  return latest;
}

Tally CountOutcomes(const std::vector<Record>& records, AnswerParser parser) {
  Tally tally;
  for (const Record& record : records) {
    const Outcome outcome = Judge(record, parser);
    tally.subjects[record.subject].Add(outcome);
    tally.total.Add(outcome);
  }
  return tally;
}

double PassAtK(int64_t samples, int64_t passed, int64_t k) {
  TANDEM_CHECK(passed >= 0 && passed <= samples && k >= 1 && k <= samples);
  if (samples - passed < k) return 1.0;
  // C(n - c, k) / C(n, k), factor by factor, so that nothing overflows.
  double all_fail = 1.0;
  for (int64_t i = samples - passed + 1; i <= samples; ++i) {
    all_fail *= 1.0 - static_cast<double>(k) / static_cast<double>(i);
  }
  return 1.0 - all_fail;
}

std::optional<double> MeanPassAtK(const std::vector<Record>& records, int64_t k) {
  std::map<std::string, Counts> tasks;
  for (const Record& record : records) {
    tasks[record.id.substr(0, record.id.find('#'))].Add(Judge(record, AnswerParser::kRun));
  }
  double sum = 0.0;
  for (const auto& [task, counts] : tasks) {
    if (counts.answered() < k) return std::nullopt;
    sum += PassAtK(counts.answered(), counts.correct, k);
  }
  if (tasks.empty()) return std::nullopt;
  return sum / static_cast<double>(tasks.size());
}

}  // namespace tandem::eval
