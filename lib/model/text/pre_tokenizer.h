// Splits ordinary text into the pieces BPE works on. A pre-tokenizer is a list of regular
// expressions: each cuts every piece the earlier ones left into matches and the text between them,
// without looking beyond the piece.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lib/model/text/regex.h"
#include "lib/model/text/regex_dialect.h"

namespace tandem::text {

class PreTokenizer {
 public:
  // An empty list keeps the text whole.
  PreTokenizer() = default;

  // Adds a split by `pattern`, written in `dialect`.
  absl::Status AddSplit(std::string_view pattern, RegexDialect dialect);

  // The splits that llama.cpp's `tokenizer.ggml.pre` names, as the models' own tokenizer files
  // define them: deepseek-v3, deepseek-llm (V2, V2-Lite), deepseek-coder, kimi-k2 (Kimi-K2 and
  // Moonlight). Unimplemented for any other name.
  static absl::StatusOr<PreTokenizer> Named(std::string_view name);

  // Appends the pieces of `text`, in order and without gaps, as views into it. `text` must be
  // well-formed UTF-8.
  absl::Status Split(std::string_view text, std::vector<std::string_view>* pieces) const;

 private:
  std::vector<Regex> splits_;
};

}  // namespace tandem::text
