// A user's request: whatever the bytes, it is refused or becomes a generation that fits the context
// and the vocabulary.
#include <cstddef>
#include <cstdint>

#include "coordinator/request/generation.h"
#include "lib/base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::coordinator;
  const RequestLimits limits = {.context_tokens = 64, .vocab_size = 100, .eos_token_ids = {1}};
  tandem::inference::v1::GenerateRequest request;
  if (!request.ParseFromArray(data, static_cast<int>(size))) return 0;
  if (!CheckGenerateRequest(request, limits).ok()) return 0;
  std::vector<uint32_t> prompt(request.tokens().ids().begin(), request.tokens().ids().end());
  const auto generation = MakeGeneration(request, std::move(prompt), limits);
  if (!generation.ok()) return 0;
  TANDEM_CHECK_GE(generation->prompt.size(), 1u);
  TANDEM_CHECK_LE(generation->prompt.size() + generation->max_tokens, limits.context_tokens);
  for (const uint32_t id : generation->prompt) TANDEM_CHECK_LT(id, limits.vocab_size);
  return 0;
}
