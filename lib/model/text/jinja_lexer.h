// Cuts a chat template into tokens, with jinja2's white-space rules as transformers sets them:
// trim_blocks (one newline after a block or comment is dropped), lstrip_blocks (spaces before a
// block at the start of a line are dropped), the signs - and + in tags, \r\n read as \n, and one
// newline at the end of the source dropped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::text {

enum class TokenKind {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kInteger,
  kFloat,
  kString,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind;
  std::string text;  // strings: with escapes resolved; numbers: without underscores
  int line;          // from 1
};

// InvalidArgument names the line.
absl::StatusOr<std::vector<Token>> LexTemplate(std::string_view source);

}  // namespace tandem::text
