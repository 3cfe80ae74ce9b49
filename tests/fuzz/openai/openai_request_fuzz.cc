// The body of an OpenAI request: whatever the bytes, it is refused with a message that is itself
// sound JSON, or becomes as many requests as were promised, with values in their ranges. The first
// byte picks the endpoint.
#include <cstddef>
#include <cstdint>
#include <string>

#include "coordinator/api/openai_defaults.h"
#include "coordinator/api/openai_request.h"
#include "lib/base/check.h"

namespace {

using namespace tandem::coordinator;

void CheckCall(const OpenAiCall& call) {
  TANDEM_CHECK_GE(call.choices(), 1u);
  TANDEM_CHECK_LE(call.choices(), kChoicesMax);
  for (size_t i = 0; i < call.choices(); ++i) {
    const auto request = RequestOfChoice(call, i, 1);
    const auto& sampling = request.sampling();
    TANDEM_CHECK(request.prompt_case() != request.PROMPT_NOT_SET);
    TANDEM_CHECK(sampling.temperature() >= 0 && sampling.temperature() <= 2);
    TANDEM_CHECK(sampling.top_p() > 0 && sampling.top_p() <= 1);
    TANDEM_CHECK(sampling.min_p() >= 0 && sampling.min_p() <= 1);
    TANDEM_CHECK(sampling.repetition_penalty() > 0);
    TANDEM_CHECK_LE(request.max_tokens(), uint32_t{INT32_MAX});
    TANDEM_CHECK_LE(request.prompt_logprobs_plus1(), 257u);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string body(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 'd') {
    (void)ParseSamplingDefaults(body, "fuzz");
    return 0;
  }
  const auto parsed = data[0] == 'c' ? ParseChatCall(body, {}) : ParseCompletionCall(body, {});
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    const auto json = nlohmann::json::parse(ErrorJson(*error), nullptr, false);
    TANDEM_CHECK(json.is_object());
    TANDEM_CHECK_EQ(error->status, 400);
  } else {
    CheckCall(std::get<OpenAiCall>(parsed));
  }
  return 0;
}
