// OpenAI's protocol as pure functions: the body of a request, and what a reply says. No network, so
// that every oddity of a server can be put in front of it in a test.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "eval_client/client/answer.h"
#include "eval_client/client/ask_options.h"

namespace tandem::eval {

// The most alternatives a chat may ask for per token.
inline constexpr int kOpenAiTopLogprobs = 20;

// Body for /chat/completions, or for /completions when the prompt is text to continue.
std::string OpenAiRequestBody(const std::string& model, const std::string& prompt, uint64_t seed,
                              const AskOptions& options);

// An answer from the body of a 200 reply. INTERNAL status inside when it is not what the protocol
// says.
Answer OpenAiAnswer(const std::string& body, const AskOptions& options);

// What a reply other than 200 means: the server's own sentence under the status its code stands
// for. `retry_after` is the header's text ("2" or empty).
Answer OpenAiRefusal(long http_code, const std::string& body, const std::string& retry_after);

// The model to ask for from the body of /models: `wanted`, or the first one listed when that is
// empty. NOT_FOUND names what there is.
absl::StatusOr<std::string> OpenAiModel(const std::string& body, const std::string& wanted);

}  // namespace tandem::eval
