#include "eval_client/report/tally.h"

#include <unordered_map>

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

Outcome Judge(const Record& record, AnswerParser parser) {
  if (!record.answer.status.ok()) return Outcome::kFailed;
  const auto answer = ParseAnswer(parser, record.answer.text, record.letters);
  const bool right =
      record.kind == AnswerKind::kCode ? record.verdict == kVerdictPassed : answer == record.gold;
  if (right) return Outcome::kCorrect;
  if (record.answer.finish == Finish::kLength) return Outcome::kTruncated;
  return answer || record.kind == AnswerKind::kCode ? Outcome::kWrong : Outcome::kUnparsed;
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

}  // namespace tandem::eval
