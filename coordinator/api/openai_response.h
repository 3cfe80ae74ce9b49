// From the project's own answer to the JSON of OpenAI's interface. Pure: chunks in, text out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/api/openai_request.h"
#include "lib/model/text/detokenizer.h"
#include "lib/model/text/tokenizer.h"
#include "nlohmann/json.hpp"
#include "proto/inference.pb.h"

namespace tandem::coordinator {

using OutputJson = nlohmann::ordered_json;

// What all parts of one answer have in common.
struct OpenAiEnvelope {
  std::string id;  // "chatcmpl-..." or "cmpl-..."
  int64_t created_s = 0;
  std::string model;
  std::string fingerprint;
};

struct OpenAiUsage {
  uint64_t prompt_tokens = 0;
  uint64_t completion_tokens = 0;
};

// The prompt of an answer that begins with it.
struct PromptEcho {
  std::string text;
  std::vector<uint32_t> ids;  // needed for log probabilities
  bool bos_added = false;     // ids[0] is not in the text
};

// One answer of a call, piece by piece or at once. Knows where in its text each token begins.
class ChoiceRenderer {
 public:
  // `tokenizer` and `call` must outlive this. `echo` counts only where the call wants one.
  ChoiceRenderer(const Tokenizer* tokenizer, const OpenAiCall* call, size_t index, PromptEcho echo);

  // One choice of a whole answer; `all`: its chunks, merged.
  OutputJson Whole(const inference::v1::GenerateChunk& all);
  // The choices of the stream's next events, none when the chunk has nothing to show yet.
  std::vector<OutputJson> Events(const inference::v1::GenerateChunk& chunk);

 private:
  std::vector<OutputJson> ChatEvents(const inference::v1::GenerateChunk& chunk);
  OutputJson CompletionChoice(const inference::v1::GenerateChunk& chunk);
  OutputJson ChatLogprobs(const inference::v1::GenerateChunk& chunk) const;
  OutputJson CompletionLogprobs(const inference::v1::GenerateChunk& chunk);
  void AddPromptLogprobs(const inference::v1::GenerateChunk& chunk, OutputJson* out);
  void AddPosition(uint32_t id, const sampling::v1::PositionLogprobs* at, OutputJson* out) const;

  const Tokenizer* tokenizer_;
  const OpenAiCall* call_;
  size_t index_;
  PromptEcho echo_;
  bool begun_ = false;
  Detokenizer detokenizer_;
  uint64_t offset_chars_ = 0;  // where the next token begins
  uint64_t text_chars_ = 0;    // of the text sent
};

// "stop", "length" or null.
OutputJson FinishReasonJson(inference::v1::FinishReason reason);
// The token as it is shown to people: chat uses U+FFFD for what is no UTF-8 (the bytes stand beside
// it), completions "bytes:\xe2\x96", which keeps two halves of characters apart.
std::string ChatTokenText(const Tokenizer& tokenizer, uint32_t id);
std::string CompletionTokenText(const Tokenizer& tokenizer, uint32_t id);

// Whole bodies. `choices` are JSON texts in order of their index: as trees, the log probabilities
// of a batch of long prompts would take ten times the memory.
std::string WholeBody(const OpenAiEnvelope& envelope, bool chat,
                      const std::vector<std::string>& choices, const OpenAiUsage& usage);
// One event of a stream. With `include_usage` it says null, as OpenAI's does.
std::string EventBody(const OpenAiEnvelope& envelope, bool chat, OutputJson choice,
                      bool include_usage);
// The event with usage and without choices, before the end of a stream.
std::string UsageBody(const OpenAiEnvelope& envelope, bool chat, const OpenAiUsage& usage);

// JSON text; bytes that are no UTF-8 become U+FFFD.
std::string DumpJson(const OutputJson& json);

}  // namespace tandem::coordinator
