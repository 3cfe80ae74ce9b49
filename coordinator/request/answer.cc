#include "coordinator/request/answer.h"

#include <algorithm>

#include "lib/base/check.h"

namespace tandem::coordinator {

using inference::v1::GenerateChunk;

Answer::Answer(const Tokenizer* tokenizer, std::vector<std::string> stops, uint32_t max_tokens)
    : stops_(std::move(stops)),
      detokenizer_(tokenizer, /*skip_special=*/true),
      matcher_(stops_),
      max_tokens_(max_tokens) {}

GenerateChunk Answer::Push(uint32_t id, bool is_stop_token,
                           std::optional<sampling::v1::PositionLogprobs> logprobs) {
  TANDEM_CHECK(!finished_);
  ++tokens_;
  GenerateChunk chunk;
  inference::v1::GeneratedToken* token = chunk.add_tokens();
  token->set_id(id);
  if (logprobs) *token->mutable_logprobs() = *std::move(logprobs);
  if (is_stop_token) {
    chunk.set_stop_token_id(id);
    Finish(inference::v1::FINISH_REASON_STOP, &chunk);
    return chunk;
  }
  StopResult result = matcher_.Push(detokenizer_.Push(static_cast<int32_t>(id)));
  chunk.set_text(std::move(result.text));
  if (result.matched >= 0) {
    chunk.set_stop_string(stops_[result.matched]);
    chunk.set_finish_reason(inference::v1::FINISH_REASON_STOP);
    finished_ = true;
  } else if (tokens_ >= max_tokens_) {
    Finish(inference::v1::FINISH_REASON_LENGTH, &chunk);
  }
  return chunk;
}

void Answer::LimitTokens(uint64_t max_tokens) {
  max_tokens_ = static_cast<uint32_t>(
      std::min<uint64_t>(max_tokens_, std::max<uint64_t>(max_tokens, tokens_ + 1)));
}

// What was held back comes out: the bytes of an unfinished character, then the beginning of a stop
// string that never came. The former can complete one after all.
void Answer::Finish(inference::v1::FinishReason reason, GenerateChunk* chunk) {
  StopResult result = matcher_.Push(detokenizer_.Finish());
  chunk->mutable_text()->append(result.text);
  if (result.matched >= 0) {
    chunk->set_stop_string(stops_[result.matched]);
    reason = inference::v1::FINISH_REASON_STOP;
  } else {
    chunk->mutable_text()->append(matcher_.Finish());
  }
  chunk->set_finish_reason(reason);
  finished_ = true;
}

}  // namespace tandem::coordinator
