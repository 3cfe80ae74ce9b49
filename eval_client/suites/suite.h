// Suite: the fourth of the project's interfaces, a set of exam questions in a fixed order. It knows
// where questions come from and how an answer is read; asking, counting and reporting are the same
// for all suites.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "eval_client/suites/answer_parser.h"
#include "eval_client/suites/question.h"

namespace tandem::eval {

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

struct SuiteOptions {
  std::string name = {};  // see SuiteNames
  // A folder with a folder of the suite's name in it, that folder itself, or a file; which files,
  // each suite's header says. May be empty for the quiz, which ships with the project.
  std::string data = {};
  int limit = 0;    // > 0: only the first so many questions; 0: 1000 of mmlu and mmlu_pro, else all
  int shots = -1;   // solved examples in front of each question; -1: as the variant has it
  int samples = 1;  // answers per question, each with its own seed (humaneval)
  std::string variant = {};  // which published way of asking; empty: the suite's first
  // Instead of what the suite prescribes for its questions; where it prescribes nothing, the run's
  // own values apply and these do not.
  uint32_t max_tokens = 0;                // 0: the suite's
  std::optional<float> temperature = {};  // unset: the suite's
};

// "quiz", "mmlu", "mmlu_pro", "gsm8k", "humaneval".
const std::vector<std::string>& SuiteNames();

// INVALID_ARGUMENT or NOT_FOUND says what was expected of the options or the data and what was
// found.
absl::StatusOr<std::unique_ptr<Suite>> LoadSuite(const SuiteOptions& options);

// SHA-256 (hex) over id, prompt and gold answer of the questions in order, each followed by a zero
// byte, and over whatever else of a question decides its answer where that is not a letter by chat
// under the run's own limits.
std::string PromptsDigest(const std::vector<Question>& questions);

// The sampling seed of one question: the first eight bytes, little-endian, of SHA-256("<run
// seed>/<id>"). It depends on nothing else, so neither order, concurrency nor a resumed run changes
// an answer.
uint64_t QuestionSeed(uint64_t run_seed, const std::string& question_id);

}  // namespace tandem::eval
