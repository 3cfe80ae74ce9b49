// GenerationRequest: a user's request after every check that needs no cluster, on its way from the
// API to the step loop.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/inference.pb.h"

namespace tandem::coordinator {

struct GenerationRequest {
  std::string id;
  std::vector<uint32_t> prompt;  // token ids, at least 1
  sampling::v1::SamplingParams sampling;
  uint32_t max_tokens = 0;  // already cut to what the context leaves
  std::vector<std::string> stops;
  uint32_t prompt_logprobs_plus1 = 0;

  absl::Duration arrival;  // on the clock's monotonic scale
  absl::Time deadline = absl::InfiniteFuture();
  // Set by whoever no longer wants the answer; seen at the next step.
  std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);

  // Called on the step loop's thread and must not block: parts of the answer in order, then exactly
  // one finish.
  std::function<void(inference::v1::GenerateChunk)> send;
  std::function<void(const absl::Status&)> finish;
};

struct RequestLimits {
  uint32_t context_tokens = 0;  // longest prompt plus answer
  uint32_t vocab_size = 0;
  std::vector<uint32_t> eos_token_ids;
};

// INVALID_ARGUMENT, with expected and found, for values that make no sense: NaN or negative
// temperatures, ids outside the vocabulary, too many or empty stop strings.
absl::Status CheckGenerateRequest(const inference::v1::GenerateRequest& request,
                                  const RequestLimits& limits);

// Takes what needs no text model from `request`, cuts max_tokens to the context, and adds the
// model's end tokens to the stop ids. INVALID_ARGUMENT when `prompt` is empty, holds an id outside
// the vocabulary or leaves no room for an answer.
absl::StatusOr<GenerationRequest> MakeGeneration(const inference::v1::GenerateRequest& request,
                                                 std::vector<uint32_t> prompt,
                                                 const RequestLimits& limits);

}  // namespace tandem::coordinator
