// Answer: what becomes of generated tokens on their way to the user. Whole characters only, nothing
// of a stop string, an end for one reason.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/model/text/detokenizer.h"
#include "lib/model/text/stop_matcher.h"
#include "lib/model/text/tokenizer.h"
#include "proto/inference.pb.h"

namespace tandem::coordinator {

class Answer {
 public:
  // `tokenizer` must outlive this.
  Answer(const Tokenizer* tokenizer, std::vector<std::string> stops, uint32_t max_tokens);

  // The next token. `is_stop_token` ends the answer; the token is reported, its text is not.
  // Returns the chunk to send; with the last one finish_reason and what goes with it are set.
  inference::v1::GenerateChunk Push(uint32_t id, bool is_stop_token,
                                    std::optional<sampling::v1::PositionLogprobs> logprobs);

  // Lowers the number of tokens after which the answer ends; at least one more than there are.
  void LimitTokens(uint64_t max_tokens);

  bool finished() const { return finished_; }
  uint32_t tokens() const { return tokens_; }

 private:
  void Finish(inference::v1::FinishReason reason, inference::v1::GenerateChunk* chunk);

  std::vector<std::string> stops_;
  Detokenizer detokenizer_;
  StopMatcher matcher_;
  uint32_t max_tokens_;
  uint32_t tokens_ = 0;
  bool finished_ = false;
};

}  // namespace tandem::coordinator
