// From the JSON of OpenAI's /v1/chat/completions and /v1/completions to the project's own request.
// Pure: no model, no cluster. What is known but not offered is refused; what is not known is
// ignored, as OpenAI's servers do.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/api/openai_error.h"
#include "coordinator/api/openai_fields.h"
#include "proto/inference.pb.h"

namespace tandem::coordinator {

// What holds where a request says nothing: OpenAI's values, or those of the model's makers.
struct SamplingDefaults {
  float temperature = 1;
  float top_p = 1;
  uint32_t top_k = 0;  // 0: all
  float min_p = 0;
  float repetition_penalty = 1;
};

struct OpenAiCall {
  bool chat = false;
  std::string model;  // empty: whatever is served
  bool stream = false;
  bool include_usage = false;
  bool echo = false;
  bool add_special_tokens = true;  // of text prompts
  // Log probabilities of the chosen token and so many best ones; nothing: none.
  std::optional<uint32_t> logprobs;
  uint32_t choices_per_prompt = 1;
  std::optional<uint64_t> seed;
  // One per prompt, with nothing but the prompt in it.
  std::vector<inference::v1::GenerateRequest> prompts;
  // Everything else, the same for all.
  inference::v1::GenerateRequest options;

  size_t choices() const { return prompts.size() * choices_per_prompt; }
};

// Most answers to one HTTP request: prompts times n.
inline constexpr uint32_t kChoicesMax = 256;

std::variant<OpenAiCall, ApiError> ParseChatCall(const std::string& body,
                                                 const SamplingDefaults& defaults);
std::variant<OpenAiCall, ApiError> ParseCompletionCall(const std::string& body,
                                                       const SamplingDefaults& defaults);

// The request behind answer `choice`, which belongs to prompt choice / choices_per_prompt. With a
// seed, an answer depends on its prompt and on its number within the prompt, not on what else is
// asked in the same call; number 0 has the seed itself. Without one it has `random_seed`.
inference::v1::GenerateRequest RequestOfChoice(const OpenAiCall& call, size_t choice,
                                               uint64_t random_seed);

// Messages as a chat template takes them. Fails through `fields`.
void ReadMessages(FieldReader* fields, inference::v1::ChatPrompt* chat);

}  // namespace tandem::coordinator
