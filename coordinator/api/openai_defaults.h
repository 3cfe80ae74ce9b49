// How the makers of a model want it sampled where a request says nothing: generation_config.json
// beside the weights.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/api/openai_request.h"

namespace tandem::coordinator {

// `model_path`: a Hugging Face folder or a GGUF file, as for TextModel::Load. Without the file
// OpenAI's values. "do_sample": false means temperature 0. INVALID_ARGUMENT for a file that cannot
// be read or says nonsense.
absl::StatusOr<SamplingDefaults> ReadSamplingDefaults(const std::string& model_path);

// The same from the file's text. `source` names it in messages.
absl::StatusOr<SamplingDefaults> ParseSamplingDefaults(const std::string& json_text,
                                                       const std::string& source);

}  // namespace tandem::coordinator
