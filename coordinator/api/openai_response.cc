#include "coordinator/api/openai_response.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "lib/base/text.h"

namespace tandem::coordinator {
namespace {

using inference::v1::GenerateChunk;
using sampling::v1::PositionLogprobs;
using sampling::v1::TokenLogprob;

// JSON has no minus infinity; this is what vLLM says for it.
constexpr double kLogprobMin = -9999.0;

// A float printed as the double it is: reading it back gives the same bits.
double Finite(float logprob) {
  return std::isfinite(logprob) ? static_cast<double>(logprob) : kLogprobMin;
}

// Characters, that is code points: bytes that do not continue one.
uint64_t CharsOf(const std::string& utf8) {
  return static_cast<uint64_t>(std::count_if(
      utf8.begin(), utf8.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

// "" for ids the vocabulary lacks: padding rows of the output matrix.
std::string PieceOf(const Tokenizer& tokenizer, uint32_t id) {
  if (id > INT32_MAX) return "";
  const absl::StatusOr<std::string_view> piece = tokenizer.IdToPiece(static_cast<int32_t>(id));
  return piece.ok() ? std::string(*piece) : "";
}

OutputJson BytesOf(const std::string& piece) {
  OutputJson out = OutputJson::array();
  for (const char c : piece) out.push_back(static_cast<uint8_t>(c));
  return out;
}

OutputJson ChatEntry(const Tokenizer& tokenizer, const TokenLogprob& token) {
  return {{"token", ChatTokenText(tokenizer, token.token_id())},
          {"logprob", Finite(token.logprob())},
          {"bytes", BytesOf(PieceOf(tokenizer, token.token_id()))}};
}

// Two ids may have the same text; what a reader looks for then is the likelier one.
void KeepLikelier(const std::string& text, double logprob, OutputJson* out) {
  const auto found = out->find(text);
  if (found == out->end() || found->get<double>() < logprob) (*out)[text] = logprob;
}

OutputJson UsageJson(const OpenAiUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

OutputJson Envelope(const OpenAiEnvelope& envelope, const char* object) {
  return {{"id", envelope.id},
          {"object", object},
          {"created", envelope.created_s},
          {"model", envelope.model},
          {"system_fingerprint", envelope.fingerprint}};
}

const char* EventObject(bool chat) { return chat ? "chat.completion.chunk" : "text_completion"; }

}  // namespace

std::string DumpJson(const OutputJson& json) {
  return json.dump(-1, ' ', false, OutputJson::error_handler_t::replace);
}

OutputJson FinishReasonJson(inference::v1::FinishReason reason) {
  if (reason == inference::v1::FINISH_REASON_STOP) return "stop";
  if (reason == inference::v1::FINISH_REASON_LENGTH) return "length";
  return nullptr;
}

std::string ChatTokenText(const Tokenizer& tokenizer, uint32_t id) {
  return PieceOf(tokenizer, id);  // DumpJson replaces what is no UTF-8
}

std::string CompletionTokenText(const Tokenizer& tokenizer, uint32_t id) {
  std::string piece = PieceOf(tokenizer, id);
  if (base::IsValidUtf8(piece)) return piece;
  std::string out = "bytes:";
  for (const char c : piece) out += absl::StrFormat("\\x%02x", static_cast<uint8_t>(c));
  return out;
}

ChoiceRenderer::ChoiceRenderer(const Tokenizer* tokenizer, const OpenAiCall* call, size_t index,
                               PromptEcho echo)
    : tokenizer_(tokenizer),
      call_(call),
      index_(index),
      echo_(std::move(echo)),
      detokenizer_(tokenizer, /*skip_special=*/true) {}

OutputJson ChoiceRenderer::Whole(const GenerateChunk& all) {
  if (!call_->chat) return CompletionChoice(all);
  return {{"index", index_},
          {"message", {{"role", "assistant"}, {"content", all.text()}, {"refusal", nullptr}}},
          {"logprobs", ChatLogprobs(all)},
          {"finish_reason", FinishReasonJson(all.finish_reason())}};
}

std::vector<OutputJson> ChoiceRenderer::Events(const GenerateChunk& chunk) {
  if (call_->chat) return ChatEvents(chunk);
  const bool shows = !chunk.text().empty() || call_->logprobs || (call_->echo && !begun_) ||
                     chunk.finish_reason() != inference::v1::FINISH_REASON_UNSPECIFIED;
  if (!shows) return {};
  return {CompletionChoice(chunk)};
}

// First the role, then what is said, at the end why it ended.
std::vector<OutputJson> ChoiceRenderer::ChatEvents(const GenerateChunk& chunk) {
  std::vector<OutputJson> events;
  const auto add = [&](OutputJson delta, OutputJson logprobs, OutputJson reason) {
    events.push_back({{"index", index_},
                      {"delta", std::move(delta)},
                      {"logprobs", std::move(logprobs)},
                      {"finish_reason", std::move(reason)}});
  };
  if (!std::exchange(begun_, true))
    add({{"role", "assistant"}, {"content", ""}, {"refusal", nullptr}}, nullptr, nullptr);
  if (!chunk.text().empty() || (call_->logprobs && chunk.tokens_size() > 0))
    add({{"content", chunk.text()}}, ChatLogprobs(chunk), nullptr);
  if (chunk.finish_reason() != inference::v1::FINISH_REASON_UNSPECIFIED)
    add(OutputJson::object(), nullptr, FinishReasonJson(chunk.finish_reason()));
  return events;
}

OutputJson ChoiceRenderer::ChatLogprobs(const GenerateChunk& chunk) const {
  if (!call_->logprobs) return nullptr;
  OutputJson content = OutputJson::array();
  for (const inference::v1::GeneratedToken& token : chunk.tokens()) {
    OutputJson entry = ChatEntry(*tokenizer_, token.logprobs().chosen());
    entry["top_logprobs"] = OutputJson::array();
    for (const TokenLogprob& top : token.logprobs().top())
      entry["top_logprobs"].push_back(ChatEntry(*tokenizer_, top));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

OutputJson ChoiceRenderer::CompletionChoice(const GenerateChunk& chunk) {
  std::string text = chunk.text();
  if (call_->echo && !begun_) text = echo_.text + text;
  text_chars_ += CharsOf(text);
  OutputJson logprobs = CompletionLogprobs(chunk);
  begun_ = true;
  return {{"index", index_},
          {"text", std::move(text)},
          {"logprobs", std::move(logprobs)},
          {"finish_reason", FinishReasonJson(chunk.finish_reason())}};
}

OutputJson ChoiceRenderer::CompletionLogprobs(const GenerateChunk& chunk) {
  if (!call_->logprobs) return nullptr;
  OutputJson out = {{"tokens", OutputJson::array()},
                    {"token_logprobs", OutputJson::array()},
                    {"top_logprobs", OutputJson::array()},
                    {"text_offset", OutputJson::array()}};
  if (call_->echo && !begun_) AddPromptLogprobs(chunk, &out);
  // A stop string takes the text of its tokens away.
  const bool cut = !chunk.stop_string().empty();
  for (const inference::v1::GeneratedToken& token : chunk.tokens()) {
    out["text_offset"].push_back(cut ? std::min(offset_chars_, text_chars_) : offset_chars_);
    AddPosition(token.id(), &token.logprobs(), &out);
    offset_chars_ += CharsOf(detokenizer_.Push(static_cast<int32_t>(token.id())));
  }
  return out;
}

// The first token has no probability: nothing stands before it.
void ChoiceRenderer::AddPromptLogprobs(const GenerateChunk& chunk, OutputJson* out) {
  Detokenizer prompt(tokenizer_);
  for (size_t i = 0; i < echo_.ids.size(); ++i) {
    (*out)["text_offset"].push_back(offset_chars_);
    const bool known = i > 0 && static_cast<int>(i) <= chunk.prompt_logprobs_size();
    AddPosition(echo_.ids[i], known ? &chunk.prompt_logprobs(static_cast<int>(i) - 1) : nullptr,
                out);
    if (i > 0 || !echo_.bos_added)
      offset_chars_ += CharsOf(prompt.Push(static_cast<int32_t>(echo_.ids[i])));
  }
  offset_chars_ = CharsOf(echo_.text);
}

void ChoiceRenderer::AddPosition(uint32_t id, const PositionLogprobs* at, OutputJson* out) const {
  (*out)["tokens"].push_back(CompletionTokenText(*tokenizer_, id));
  if (at == nullptr) {
    (*out)["token_logprobs"].push_back(nullptr);
    (*out)["top_logprobs"].push_back(nullptr);
    return;
  }
  (*out)["token_logprobs"].push_back(Finite(at->chosen().logprob()));
  OutputJson top = OutputJson::object();
  for (const TokenLogprob& token : at->top()) {
    KeepLikelier(CompletionTokenText(*tokenizer_, token.token_id()), Finite(token.logprob()), &top);
  }
  KeepLikelier(CompletionTokenText(*tokenizer_, id), Finite(at->chosen().logprob()), &top);
  (*out)["top_logprobs"].push_back(std::move(top));
}

std::string WholeBody(const OpenAiEnvelope& envelope, bool chat,
                      const std::vector<std::string>& choices, const OpenAiUsage& usage) {
  std::string out = DumpJson(Envelope(envelope, chat ? "chat.completion" : "text_completion"));
  out.pop_back();  // goes on with two fields more
  absl::StrAppend(&out, ",\"choices\":[", absl::StrJoin(choices, ","),
                  "],\"usage\":", DumpJson(UsageJson(usage)), "}");
  return out;
}

std::string EventBody(const OpenAiEnvelope& envelope, bool chat, OutputJson choice,
                      bool include_usage) {
  OutputJson out = Envelope(envelope, EventObject(chat));
  out["choices"] = OutputJson::array({std::move(choice)});
  if (include_usage) out["usage"] = nullptr;
  return DumpJson(out);
}

std::string UsageBody(const OpenAiEnvelope& envelope, bool chat, const OpenAiUsage& usage) {
  OutputJson out = Envelope(envelope, EventObject(chat));
  out["choices"] = OutputJson::array();
  out["usage"] = UsageJson(usage);
  return DumpJson(out);
}

}  // namespace tandem::coordinator
