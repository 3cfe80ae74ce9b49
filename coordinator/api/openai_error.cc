#include "coordinator/api/openai_error.h"

#include "absl/strings/str_cat.h"
#include "lib/rpc/status_map.h"
#include "nlohmann/json.hpp"

namespace tandem::coordinator {
namespace {

using Json = nlohmann::ordered_json;

// A full queue empties with every answer; a cluster loads or replaces a worker in seconds.
constexpr int kRetryAfterFullSeconds = 1;
constexpr int kRetryAfterUnreadySeconds = 2;

Json OrNull(const std::string& text) { return text.empty() ? Json() : Json(text); }

}  // namespace

ApiError BadRequest(const std::string& message, const std::string& param, const std::string& code) {
  ApiError error;
  error.message = message;
  error.param = param;
  error.code = code;
  return error;
}

ApiError NotSupported(const std::string& what, const std::string& param) {
  return BadRequest(what + " is not supported by this server", param, "unsupported_parameter");
}

ApiError NoSuchModel(const std::string& model) {
  ApiError error =
      BadRequest("The model `" + model + "` does not exist", "model", "model_not_found");
  error.status = 404;
  return error;
}

ApiError ContextExceeded(uint64_t prompt_tokens, uint64_t context_tokens) {
  return BadRequest(
      absl::StrCat("This model's maximum context length is ", context_tokens,
                   " tokens including the answer, but the prompt has ", prompt_tokens, " tokens"),
      "prompt", "context_length_exceeded");
}

ApiError ErrorOf(int status, const std::string& message) {
  ApiError error;
  error.status = status;
  error.message = message;
  switch (status) {
    case 401:
      error.code = "invalid_api_key";
      break;
    case 404:
      error.type = "not_found_error";
      break;
    case 429:
      error.type = "rate_limit_error";
      error.code = "rate_limit_exceeded";
      error.retry_after_s = kRetryAfterFullSeconds;
      break;
    case 503:
      error.type = "unavailable_error";
      error.code = "unavailable";
      error.retry_after_s = kRetryAfterUnreadySeconds;
      break;
    default:
      if (status >= 500) error.type = "server_error";
  }
  return error;
}

ApiError ErrorOf(const absl::Status& status) {
  return ErrorOf(rpc::HttpCodeOf(status.code()),
                 std::string(status.message().data(), status.message().size()));
}

std::string ErrorJson(const ApiError& error) {
  const Json json = {{"error",
                      {{"message", error.message},
                       {"type", error.type},
                       {"param", OrNull(error.param)},
                       {"code", OrNull(error.code)}}}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

HttpPart ErrorPart(const ApiError& error) {
  HttpPart part;
  part.head.emplace();
  part.head->status = error.status;
  if (error.retry_after_s > 0)
    part.head->fields.emplace_back("Retry-After", absl::StrCat(error.retry_after_s));
  if (error.status == 401) part.head->fields.emplace_back("WWW-Authenticate", "Bearer");
  part.body = ErrorJson(error);
  part.last = true;
  return part;
}

}  // namespace tandem::coordinator
