#include "eval_client/suites/question.h"

namespace tandem::eval {

std::string KindName(AnswerKind kind) {
  switch (kind) {
    case AnswerKind::kLetter:
      return "letter";
    case AnswerKind::kNumber:
      return "number";
    case AnswerKind::kCode:
      return "code";
  }
  return "unknown";
}

std::optional<AnswerKind> KindNamed(const std::string& name) {
  for (AnswerKind kind : {AnswerKind::kLetter, AnswerKind::kNumber, AnswerKind::kCode}) {
    if (name == KindName(kind)) return kind;
  }
  return std::nullopt;
}

}  // namespace tandem::eval
