// Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}} under a
// status from which the client library picks its exception.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "coordinator/api/http_exchange.h"

namespace tandem::coordinator {

struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;      // the field at fault; empty is null
  std::string code;       // empty is null
  int retry_after_s = 0;  // 0: not said
};

// 400 for what the caller must change.
ApiError BadRequest(const std::string& message, const std::string& param = "",
                    const std::string& code = "");
// 400: known, but not offered here.
ApiError NotSupported(const std::string& what, const std::string& param);
// 404 model_not_found.
ApiError NoSuchModel(const std::string& model);
// 400 context_length_exceeded, with the numbers.
ApiError ContextExceeded(uint64_t prompt_tokens, uint64_t context_tokens);
// Status and type by lib/rpc/status_map.h; full queues and unready clusters say when to come back.
ApiError ErrorOf(const absl::Status& status);
// The type that goes with a status when nothing more is known.
ApiError ErrorOf(int status, const std::string& message);

// {"error": {...}}
std::string ErrorJson(const ApiError& error);
// The whole answer.
HttpPart ErrorPart(const ApiError& error);

}  // namespace tandem::coordinator
