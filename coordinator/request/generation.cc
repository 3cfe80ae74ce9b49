#include "coordinator/request/generation.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/status_macros.h"

namespace tandem::coordinator {
namespace {

using inference::v1::GenerateRequest;
using sampling::v1::SamplingParams;

// Bounds on lists a user may send: each costs work per token. Generous beside what clients use
// (OpenAI: 4 stops, 20 logprobs).
constexpr int kStopsMax = 64;
constexpr size_t kStopBytesMax = 1024;
constexpr int kStopIdsMax = 256;
constexpr int kBiasesMax = 4096;
constexpr uint32_t kLogprobsMax = 256;
constexpr size_t kIdBytesMax = 256;

absl::Status Expected(const std::string& what, const std::string& found) {
  return absl::InvalidArgumentError(absl::StrCat("expected ", what, ", found ", found));
}

absl::Status CheckRange(const char* name, double value, double low, double high) {
  if (std::isfinite(value) && value >= low && value <= high) return absl::OkStatus();
  return Expected(absl::StrFormat("%s from %g to %g", name, low, high), absl::StrCat(value));
}

absl::Status CheckSampling(const SamplingParams& sampling, uint32_t vocab_size) {
  TANDEM_RETURN_IF_ERROR(CheckRange("temperature", sampling.temperature(), 0, 100));
  TANDEM_RETURN_IF_ERROR(CheckRange("top_p", sampling.top_p(), 0, 1));
  TANDEM_RETURN_IF_ERROR(CheckRange("min_p", sampling.min_p(), 0, 1));
  TANDEM_RETURN_IF_ERROR(CheckRange("repetition_penalty", sampling.repetition_penalty(), 0, 100));
  TANDEM_RETURN_IF_ERROR(CheckRange("presence_penalty", sampling.presence_penalty(), -100, 100));
  TANDEM_RETURN_IF_ERROR(CheckRange("frequency_penalty", sampling.frequency_penalty(), -100, 100));
  TANDEM_RETURN_IF_ERROR(CheckRange("top_logprobs", sampling.top_logprobs(), 0, kLogprobsMax));
  TANDEM_RETURN_IF_ERROR(
      CheckRange("number of logit biases", sampling.logit_bias_size(), 0, kBiasesMax));
  TANDEM_RETURN_IF_ERROR(
      CheckRange("number of stop_token_ids", sampling.stop_token_ids_size(), 0, kStopIdsMax));
  TANDEM_RETURN_IF_ERROR(CheckRange("number of logprob_token_ids",
                                    sampling.logprob_token_ids_size(), 0, kLogprobsMax));
  for (const auto& [id, bias] : sampling.logit_bias()) {
    TANDEM_RETURN_IF_ERROR(CheckRange("token id of a logit bias", id, 0, vocab_size - 1.0));
    TANDEM_RETURN_IF_ERROR(CheckRange("logit bias", bias, -1000, 1000));
  }
  for (const uint32_t id : sampling.logprob_token_ids()) {
    TANDEM_RETURN_IF_ERROR(CheckRange("logprob token id", id, 0, vocab_size - 1.0));
  }
  for (const uint32_t id : sampling.stop_token_ids()) {
    TANDEM_RETURN_IF_ERROR(CheckRange("stop token id", id, 0, vocab_size - 1.0));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckGenerateRequest(const GenerateRequest& request, const RequestLimits& limits) {
  if (request.prompt_case() == GenerateRequest::PROMPT_NOT_SET) {
    return Expected("a prompt (chat, text or tokens)", "none");
  }
  if (request.request_id().size() > kIdBytesMax) {
    return Expected(absl::StrCat("a request_id of at most ", kIdBytesMax, " bytes"),
                    absl::StrCat(request.request_id().size()));
  }
  if (request.stop_size() > kStopsMax) {
    return Expected(absl::StrCat("at most ", kStopsMax, " stop strings"),
                    absl::StrCat(request.stop_size()));
  }
  for (const std::string& stop : request.stop()) {
    if (stop.empty() || stop.size() > kStopBytesMax) {
      return Expected(absl::StrCat("stop strings of 1 to ", kStopBytesMax, " bytes"),
                      absl::StrCat(stop.size()));
    }
  }
  TANDEM_RETURN_IF_ERROR(
      CheckRange("prompt_logprobs_plus1", request.prompt_logprobs_plus1(), 0, kLogprobsMax + 1.0));
  return CheckSampling(request.sampling(), limits.vocab_size);
}

absl::StatusOr<GenerationRequest> MakeGeneration(const GenerateRequest& request,
                                                 std::vector<uint32_t> prompt,
                                                 const RequestLimits& limits) {
  if (prompt.empty()) return Expected("a prompt of at least 1 token", "0");
  // An answer of at least one token must fit, unless none is wanted.
  const uint64_t needed = prompt.size() + (request.max_tokens() > 0 ? 1 : 0);
  if (needed > limits.context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", prompt.size(),
                                                   " tokens, the context holds ",
                                                   limits.context_tokens, " with the answer"));
  }
  for (const uint32_t id : prompt) {
    if (id >= limits.vocab_size) {
      return Expected(absl::StrCat("token ids below ", limits.vocab_size), absl::StrCat(id));
    }
  }
  GenerationRequest generation;
  generation.id = request.request_id();
  generation.max_tokens =
      std::min<uint64_t>(request.max_tokens(), limits.context_tokens - prompt.size());
  generation.prompt = std::move(prompt);
  generation.sampling = request.sampling();
  for (const uint32_t eos : limits.eos_token_ids) {
    const auto& ids = generation.sampling.stop_token_ids();
    if (std::find(ids.begin(), ids.end(), eos) == ids.end())
      generation.sampling.add_stop_token_ids(eos);
  }
  generation.stops.assign(request.stop().begin(), request.stop().end());
  generation.prompt_logprobs_plus1 = request.prompt_logprobs_plus1();
  return generation;
}

}  // namespace tandem::coordinator
