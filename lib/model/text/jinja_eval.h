// Renders a parsed chat template.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "lib/model/text/jinja_ast.h"
#include "lib/model/text/jinja_value.h"

namespace tandem::text {

struct RenderLimits {
  size_t output_bytes_max = size_t{16} << 20;  // a context of 163,840 tokens has about 1 MB
  int64_t steps_max = 10'000'000;              // about a second; a long conversation takes 100,000
};

// InvalidArgument for what the template or its input does wrong (with the line of the template),
// ResourceExhausted when a limit is reached. `body` must outlive the call.
absl::StatusOr<std::string> RenderBlock(const Block& body, const Dict& context,
                                        const RenderLimits& limits);

}  // namespace tandem::text
