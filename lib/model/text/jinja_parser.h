// Tokens of a chat template to its tree, with jinja2's grammar and precedence.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "lib/model/text/jinja_ast.h"

namespace tandem::text {

// InvalidArgument names the line; a tag, filter syntax or construct that is not supported is
// refused by name.
absl::StatusOr<Block> ParseTemplate(std::string_view source);

}  // namespace tandem::text
