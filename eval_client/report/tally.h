// From records to counts. Every question is in exactly one of correct, wrong, unparsed, truncated
// and failed, so that no kind of trouble hides in another.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "eval_client/report/journal.h"
#include "eval_client/suites/answer_parser.h"

namespace tandem::eval {

enum class Outcome { kCorrect, kWrong, kUnparsed, kTruncated, kFailed };

struct Counts {
  int64_t correct = 0;
  int64_t wrong = 0;      // finished, an answer, not the right one
  int64_t unparsed = 0;   // finished, but no answer by this parser
  int64_t truncated = 0;  // cut off at max_tokens and not correct
  int64_t failed = 0;     // never answered; in no share and no interval

  int64_t answered() const { return correct + wrong + unparsed + truncated; }
  // correct / answered in percent; 0 without answers.
  double percent() const;
  void Add(Outcome outcome);
};

struct Tally {
  std::map<std::string, Counts> subjects;
  Counts total;
};

// From the record alone, so that a stored run can be judged again.
Outcome Judge(const Record& record, AnswerParser parser);

// The parsers that can read these records, which are of one suite: those of their kind, and
// kLogprob where the letters were scored. Without records those of letters.
std::vector<AnswerParser> ParsersFor(const std::vector<Record>& records);

// The last record of each id, in order of first appearance: a question asked again after it failed
// counts once.
std::vector<Record> LatestRecords(const std::vector<Record>& records);

// `records` must not repeat an id.
Tally CountOutcomes(const std::vector<Record>& records, AnswerParser parser);

// The chance that at least one of `k` answers to a task is right, estimated without bias from
// `samples` answers of which `passed` are: 1 - C(samples - passed, k) / C(samples, k) (Chen et al.
// 2021, arXiv 2107.03374, section 2.1). CHECKs 0 <= passed <= samples and 1 <= k <= samples.
double PassAtK(int64_t samples, int64_t passed, int64_t k);

// Its mean over the tasks of a kCode suite; the answers to one task are the records whose ids are
// the same up to "#". Nothing when there is no task, or one has fewer than `k` answers.
std::optional<double> MeanPassAtK(const std::vector<Record>& records, int64_t k);

}  // namespace tandem::eval
