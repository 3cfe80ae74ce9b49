// Sequence: a request inside the step loop, with what the GPU worker remembers of it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "coordinator/request/answer.h"
#include "coordinator/request/generation.h"
#include "coordinator/scheduler/scheduler.h"

namespace tandem::coordinator {

struct Sequence {
  Sequence(uint64_t key, GenerationRequest request, const Tokenizer* tokenizer)
      : key(key),
        request(std::move(request)),
        tokens(this->request.prompt),
        answer(tokenizer, this->request.stops, this->request.max_tokens) {}

  const uint64_t key;  // order of arrival
  GenerationRequest request;
  std::vector<uint32_t> tokens;  // prompt, then answer
  Answer answer;
  int attempts_lost = 0;  // steps that were lost with this sequence in them

  // What the worker holds; all zero while waiting.
  uint64_t engine_id =
      0;  // a new one for each start, so that an old state cannot be taken for the new one
  uint32_t computed = 0;
  std::vector<uint32_t> pages;

  // Log probabilities of the prompt so far; sent with the first chunk.
  std::vector<sampling::v1::PositionLogprobs> prompt_logprobs;
  bool prompt_logprobs_sent = false;

  uint32_t prompt_counted = 0;  // prompt tokens in the metrics; replays are not counted again
  std::optional<absl::Duration> first_slice_at, first_token_at, last_token_at;

  uint32_t prompt_size() const { return static_cast<uint32_t>(request.prompt.size()); }
  uint32_t total() const { return static_cast<uint32_t>(tokens.size()); }
  bool wants_prompt_logprobs() const {
    return request.prompt_logprobs_plus1 > 0 && !prompt_logprobs_sent;
  }

  SequenceView View() const {
    return {key, prompt_size(), total(), computed, static_cast<uint32_t>(pages.size())};
  }

  // Forgets what the worker holds: everything is computed again, from the prompt on.
  void Rewind() {
    engine_id = 0;
    computed = 0;
    pages.clear();
    if (!prompt_logprobs_sent) prompt_logprobs.clear();
  }
};

}  // namespace tandem::coordinator
