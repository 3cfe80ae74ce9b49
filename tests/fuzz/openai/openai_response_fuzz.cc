// Rendering: whatever an answer holds (ids outside the vocabulary, text that is no UTF-8, infinite
// log probabilities), what goes to the client is sound JSON with lists of equal length. The input
// is one byte of options and a GenerateChunk.
#include <cstddef>
#include <cstdint>
#include <string>

#include "coordinator/api/openai_response.h"
#include "lib/base/check.h"
#include "lib/base/text.h"

namespace {

using namespace tandem::coordinator;

// A byte-level vocabulary of 256 tokens and one special one, made here so that the target needs no
// file.
const tandem::Tokenizer& ByteTokenizer() {
  static const auto* tokenizer = [] {
    tandem::TokenizerFields fields;
    fields.model = "gpt2";
    fields.pre = "deepseek-v3";
    const auto spell = [&fields](uint32_t code) {
      std::string utf8;
      if (code < 0x80) {
        utf8.push_back(static_cast<char>(code));
      } else {
        utf8.push_back(static_cast<char>(0xC0 | (code >> 6)));
        utf8.push_back(static_cast<char>(0x80 | (code & 0x3F)));
      }
      fields.tokens.push_back(utf8);
      fields.token_types.push_back(1);
    };
    // GPT-2's spelling of bytes: printable ones as they are, the others from U+0100 on.
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                             (byte >= 0xAE && byte <= 0xFF);
      spell(printable ? byte : next++);
    }
    fields.tokens.push_back("<eos>");
    fields.token_types.push_back(3);
    fields.eos_id = 256;
    auto made = tandem::Tokenizer::FromGgufFields(fields);
    TANDEM_CHECK(made.ok());
    return made->release();
  }();
  return *tokenizer;
}

void CheckSound(const std::string& json_text) {
  TANDEM_CHECK(tandem::base::IsValidUtf8(json_text));
  const auto json = nlohmann::json::parse(json_text, nullptr, false);
  TANDEM_CHECK(json.is_object());
  for (const auto& choice : json["choices"]) {
    const auto logprobs = choice.find("logprobs");
    if (logprobs == choice.end() || !logprobs->is_object() || !logprobs->contains("tokens"))
      continue;
    const size_t tokens = (*logprobs)["tokens"].size();
    for (const char* list : {"token_logprobs", "top_logprobs", "text_offset"})
      TANDEM_CHECK_EQ((*logprobs)[list].size(), tokens);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  OpenAiCall call;
  call.chat = (data[0] & 1) != 0;
  call.echo = !call.chat && (data[0] & 2) != 0;
  if ((data[0] & 4) != 0) call.logprobs = 2;
  tandem::inference::v1::GenerateChunk chunk;
  if (!chunk.ParseFromArray(data + 1, static_cast<int>(size - 1))) return 0;
  const PromptEcho echo = {"ab", {97, 98}, (data[0] & 8) != 0};
  const OpenAiEnvelope envelope = {"id", 1, "model", "fp"};
  ChoiceRenderer whole(&ByteTokenizer(), &call, 0, echo);
  CheckSound(WholeBody(envelope, call.chat, {DumpJson(whole.Whole(chunk))}, {2, 1}));
  ChoiceRenderer events(&ByteTokenizer(), &call, 0, echo);
  for (int i = 0; i < 2; ++i) {
    for (OutputJson& choice : events.Events(chunk))
      CheckSound(EventBody(envelope, call.chat, std::move(choice), true));
  }
  return 0;
}
