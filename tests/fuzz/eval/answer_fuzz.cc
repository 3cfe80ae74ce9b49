// Every answer parser on any bytes a model could write: no crash, letters are of those shown, and
// numbers can be compared.
#include <cstdint>
#include <string>

#include "eval_client/suites/answer_parser.h"
#include "eval_client/suites/humaneval.h"
#include "lib/base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace eval = tandem::eval;
  const std::string text(data, data + size);
  for (const int letters : {0, 1, 4, 10, 26}) {
    for (const eval::AnswerParser parser : eval::ParsersFor(eval::AnswerKind::kLetter)) {
      const auto letter = eval::ParseAnswer(parser, text, letters);
      if (!letter) continue;
      TANDEM_CHECK(letter->size() == 1 && (*letter)[0] >= 'A' && (*letter)[0] < 'A' + letters);
    }
  }
  for (const eval::AnswerParser parser : eval::ParsersFor(eval::AnswerKind::kNumber)) {
    const auto number = eval::ParseAnswer(parser, text, 0);
    if (number) eval::IsRight(parser, *number, "18");
  }
  TANDEM_CHECK(eval::HumanEvalCode(text).find('\t') == std::string::npos);
  return 0;
}
