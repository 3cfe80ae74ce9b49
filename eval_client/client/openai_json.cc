#include "eval_client/client/openai_json.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

using Json = nlohmann::json;

constexpr size_t kQuotedBytesMax = 300;  // of a reply that is no JSON, in an error message
// A server asking for longer is as good as gone for a run of questions.
constexpr double kRetryAfterSecondsMax = 3600;

Answer Failed(absl::StatusCode code, const std::string& message) {
  Answer answer;
  answer.status = absl::Status(code, message);
  return answer;
}

absl::StatusCode CodeOf(long http_code) {
  switch (http_code) {
    case 400:
    case 413:
    case 422:
      return absl::StatusCode::kInvalidArgument;
    case 401:
      return absl::StatusCode::kUnauthenticated;
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 429:
      return absl::StatusCode::kResourceExhausted;
    default:
      // 408 and everything from 500 on may be better the next time.
      return http_code >= 500 || http_code == 408 ? absl::StatusCode::kUnavailable
                                                  : absl::StatusCode::kFailedPrecondition;
  }
}

// {"error": {"message": ...}} as OpenAI, {"detail": ...} as FastAPI, or the text itself.
std::string MessageIn(const std::string& body) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (json.is_object()) {
    if (const auto error = json.find("error"); error != json.end()) {
      if (error->is_object() && error->contains("message")) {
        const Json& message = error->at("message");
        return message.is_string() ? message.get<std::string>() : message.dump();
      }
      return error->is_string() ? error->get<std::string>() : error->dump();
    }
    if (const auto detail = json.find("detail"); detail != json.end()) return detail->dump();
  }
  return body.substr(0, kQuotedBytesMax);
}

Finish FinishNamed(const std::string& reason) {
  if (reason == "stop") return Finish::kStop;
  if (reason == "length") return Finish::kLength;
  return Finish::kUnknown;
}

// Token text to log probability for the first token of the answer, from either form of logprobs.
std::map<std::string, double> FirstTokenLogprobs(const Json& choice) {
  std::map<std::string, double> found;
  const auto logprobs = choice.find("logprobs");
  if (logprobs == choice.end() || !logprobs->is_object()) return found;
  if (const auto content = logprobs->find("content"); content != logprobs->end()) {
    if (!content->is_array() || content->empty()) return found;
    for (const Json& entry : content->at(0).at("top_logprobs")) {
      found.emplace(entry.at("token").get<std::string>(), entry.at("logprob").get<double>());
    }
    return found;
  }
  const auto top = logprobs->find("top_logprobs");
  if (top == logprobs->end() || !top->is_array() || top->empty()) return found;
  for (const auto& [token, value] : top->at(0).items()) found.emplace(token, value.get<double>());
  return found;
}

std::vector<float> LettersIn(const std::map<std::string, double>& logprobs,
                             const AskOptions& options) {
  std::vector<float> letters;
  for (int i = 0; i < options.letters; ++i) {
    const std::string letter(1, static_cast<char>('A' + i));
    const auto found = logprobs.find(options.continue_text ? " " + letter : letter);
    if (found == logprobs.end() || !std::isfinite(found->second)) return {};
    letters.push_back(static_cast<float>(found->second));
  }
  return letters;
}

Answer AnswerIn(const Json& reply, const AskOptions& options) {
  Answer answer;
  const Json& choice = reply.at("choices").at(0);
  const Json& text = options.continue_text ? choice.at("text") : choice.at("message").at("content");
  if (!text.is_null()) answer.text = text.get<std::string>();
  const Json& reason = choice.at("finish_reason");
  if (reason.is_string()) answer.finish = FinishNamed(reason.get<std::string>());
  if (const auto usage = reply.find("usage"); usage != reply.end() && usage->is_object()) {
    answer.prompt_tokens = usage->value("prompt_tokens", 0u);
    answer.completion_tokens = usage->value("completion_tokens", 0u);
  }
  if (options.letters > 0) answer.letter_logprobs = LettersIn(FirstTokenLogprobs(choice), options);
  return answer;
}

}  // namespace

std::string OpenAiRequestBody(const std::string& model, const std::string& prompt, uint64_t seed,
                              const AskOptions& options) {
  Json body = {{"model", model},
               {"temperature", options.temperature},
               {"max_tokens", options.max_tokens},
               // Some servers keep seeds in 32 signed bits.
               {"seed", seed & 0x7fffffff},
               {"stream", false}};
  if (!options.stop.empty()) body["stop"] = options.stop;
  if (options.continue_text) {
    body["prompt"] = prompt;
    if (options.letters > 0) body["logprobs"] = kOpenAiTopLogprobs;
  } else {
    body["messages"] = Json::array({{{"role", "user"}, {"content", prompt}}});
    if (options.letters > 0) {
      body["logprobs"] = true;
      body["top_logprobs"] = kOpenAiTopLogprobs;
    }
  }
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Answer OpenAiAnswer(const std::string& body, const AskOptions& options) {
  try {
    return AnswerIn(Json::parse(body), options);
  } catch (const Json::exception& e) {
    return Failed(absl::StatusCode::kInternal,
                  absl::StrCat("expected a completion, found ", body.substr(0, kQuotedBytesMax),
                               " (", e.what(), ")"));
  }
}

Answer OpenAiRefusal(long http_code, const std::string& body, const std::string& retry_after) {
  Answer answer =
      Failed(CodeOf(http_code), absl::StrCat("HTTP ", http_code, ": ", MessageIn(body)));
  double seconds = 0.0;
  // The header may hold a date instead; then our own patience decides.
  if (absl::SimpleAtod(retry_after, &seconds) && seconds > 0) {
    answer.retry_after = absl::Seconds(std::min(seconds, kRetryAfterSecondsMax));
  }
  return answer;
}

absl::StatusOr<std::string> OpenAiModel(const std::string& body, const std::string& wanted) {
  std::vector<std::string> names;
  try {
    const Json reply = Json::parse(body);
    for (const Json& model : reply.at("data")) names.push_back(model.at("id").get<std::string>());
  } catch (const Json::exception& e) {
    return absl::InternalError(
        absl::StrCat("expected a list of models, found ", body.substr(0, kQuotedBytesMax)));
  }
  if (wanted.empty() && !names.empty()) return names[0];
  if (std::find(names.begin(), names.end(), wanted) != names.end()) return wanted;
  return absl::NotFoundError(absl::StrCat("expected the model '", wanted, "', the server lists ",
                                          names.empty() ? "none" : absl::StrJoin(names, ", ")));
}

}  // namespace tandem::eval
