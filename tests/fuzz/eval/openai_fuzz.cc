// Replies of a server we do not know, any bytes: no crash, and an answer taken for good is one with
// no more letters than were asked for.
#include <cmath>
#include <cstdint>
#include <string>

#include "eval_client/client/openai_json.h"
#include "lib/base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tandem::eval::AskOptions;
  if (size == 0) return 0;
  const std::string body(data + 1, data + size);
  AskOptions options;
  options.letters = data[0] % 27;
  options.continue_text = data[0] >= 128;
  const auto answer = tandem::eval::OpenAiAnswer(body, options);
  if (answer.status.ok() && !answer.letter_logprobs.empty()) {
    TANDEM_CHECK_EQ(answer.letter_logprobs.size(), static_cast<size_t>(options.letters));
    for (const float logprob : answer.letter_logprobs) TANDEM_CHECK(!std::isnan(logprob));
  }
  TANDEM_CHECK(!tandem::eval::OpenAiRefusal(400 + data[0], body, body).status.ok());
  (void)tandem::eval::OpenAiModel(body, "");
  return 0;
}
