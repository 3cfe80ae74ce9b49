// Suite: the fourth of the project's interfaces, a set of exam questions in a fixed order. It knows
// where questions come from and how an answer is read; asking, counting and reporting are the same
// for all suites.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "eval_client/suites/answer_parser.h"

namespace tandem::eval {

struct Question {
  std::string id;       // unique within the suite, stable between runs
  std::string subject;  // the row of the result table it counts in
  std::string prompt;   // the whole user message, UTF-8
  char gold = 'A';      // the right letter
};

class Suite {
 public:
  virtual ~Suite() = default;
  virtual const std::string& name() const = 0;
  // In the order in which they are to be asked.
  virtual const std::vector<Question>& questions() const = 0;
  // The parser whose score is the suite's score; the others are reported beside it.
  virtual AnswerParser headline_parser() const = 0;
  // SHA-256 (hex) of the data files; how several files become one digest is the suite's to
  // document.
  virtual const std::string& data_digest() const = 0;
};

// "mmlu" (`data`: the folder with the official *_test.csv files, or the one above it, first 1000
// questions of the published shuffle) or "quiz" (`data`: a JSON Lines file). `limit` > 0 keeps only
// the first so many questions. INVALID_ARGUMENT or NOT_FOUND says what was expected of the name or
// the data and what was found.
absl::StatusOr<std::unique_ptr<Suite>> LoadSuite(const std::string& name, const std::string& data,
                                                 int limit);

// SHA-256 (hex) over id, prompt and gold letter of the questions in order, each followed by a zero
// byte.
std::string PromptsDigest(const std::vector<Question>& questions);

// The sampling seed of one question: the first eight bytes, little-endian, of SHA-256("<run
// seed>/<id>"). It depends on nothing else, so neither order, concurrency nor a resumed run changes
// an answer.
uint64_t QuestionSeed(uint64_t run_seed, const std::string& question_id);

}  // namespace tandem::eval
