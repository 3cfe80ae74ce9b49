#include "coordinator/api/openai_request.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tandem::coordinator {
namespace {

using inference::v1::GenerateRequest;

constexpr int64_t kCompletionTokens = 16;  // OpenAI's default of max_tokens
// Beyond every context; the request is cut to what its prompt leaves.
constexpr int64_t kTokensMax = INT32_MAX;
constexpr int64_t kTokenIdMax = INT32_MAX;
constexpr int64_t kLogprobsMax = 256;  // coordinator/request/generation.cc has the same bound
constexpr size_t kMessagesMax = 65536;
// A stranger's template arguments are looked through key by key.
constexpr size_t kTemplateArgsBytesMax = 64 << 10;
// top_p 0 asks for the most likely token alone; in SamplingParams 0 is "all". No token is less
// likely than this while it is the most likely one.
constexpr float kTopPMin = 1e-9f;
// Spreads the seeds of a prompt's answers: 2^64 divided by the golden ratio, Knuth's multiplicative
// hash.
constexpr uint64_t kSeedStep = 0x9E3779B97F4A7C15;

// Fields that would change the answer, and that nothing here can honour. A value that asks for
// nothing (false, 0, "", empty) is let through.
constexpr const char* kUnsupported[] = {"tools",
                                        "functions",
                                        "function_call",
                                        "suffix",
                                        "audio",
                                        "prediction",
                                        "guided_json",
                                        "guided_regex",
                                        "guided_choice",
                                        "guided_grammar",
                                        "json_schema",
                                        "grammar",
                                        "use_beam_search",
                                        "min_tokens",
                                        "structured_outputs",
                                        "documents",
                                        "web_search_options",
                                        "continue_final_message"};

bool AsksForNothing(const InputJson& value) {
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number()) return value.get<double>() == 0;
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  return value.empty();
}

void RefuseUnsupported(FieldReader* fields) {
  for (const char* name : kUnsupported) {
    const InputJson* value = fields->Find(name);
    if (value != nullptr && !AsksForNothing(*value))
      fields->Fail(NotSupported(absl::StrCat("'", name, "'"), name));
  }
  if (const InputJson* choice = fields->Find("tool_choice");
      choice != nullptr && *choice != "none" && *choice != "auto") {
    fields->Fail(NotSupported("a 'tool_choice' other than none and auto", "tool_choice"));
  }
  if (const InputJson* format = fields->Object("response_format"); format != nullptr) {
    const auto type = format->find("type");
    if (type == format->end() || *type != "text")
      fields->Fail(NotSupported("a 'response_format' other than text", "response_format"));
  }
  if (const InputJson* modalities = fields->Find("modalities");
      modalities != nullptr && *modalities != InputJson::array({"text"})) {
    fields->Fail(NotSupported("output other than text", "modalities"));
  }
  if (!fields->Bool("add_generation_prompt", true))
    fields->Fail(NotSupported("'add_generation_prompt' false", "add_generation_prompt"));
}

void ReadStops(FieldReader* fields, GenerateRequest* out) {
  const InputJson* stop = fields->Find("stop");
  if (stop == nullptr) return;
  if (stop->is_string()) return out->add_stop(stop->get<std::string>());
  if (!stop->is_array()) return fields->Expected("stop", "a string or a list of strings", *stop);
  for (const InputJson& one : *stop) {
    if (!one.is_string()) return fields->Expected("stop", "a list of strings", one);
    out->add_stop(one.get<std::string>());
  }
}

void ReadLogitBias(FieldReader* fields, sampling::v1::SamplingParams* out) {
  const InputJson* biases = fields->Object("logit_bias");
  if (biases == nullptr) return;
  for (const auto& [key, value] : biases->items()) {
    uint32_t id = 0;
    const bool is_id = absl::SimpleAtoi(key, &id) && id <= kTokenIdMax;
    if (!is_id) {
      return fields->Fail(
          BadRequest("expected token ids as keys of 'logit_bias'", "logit_bias", "invalid_value"));
    }
    if (!value.is_number() || !(std::abs(value.get<double>()) <= 100))
      return fields->Expected("logit_bias", "numbers from -100 to 100", value);
    (*out->mutable_logit_bias())[id] = value.get<float>();
  }
}

void ReadStopIds(FieldReader* fields, sampling::v1::SamplingParams* out) {
  const InputJson* ids = fields->Find("stop_token_ids");
  if (ids == nullptr) return;
  if (!ids->is_array()) return fields->Expected("stop_token_ids", "a list of token ids", *ids);
  for (const InputJson& value : *ids) {
    const std::optional<int64_t> id = IntegerOf(value, 0, kTokenIdMax);
    if (!id) return fields->Expected("stop_token_ids", "a list of token ids", value);
    out->add_stop_token_ids(static_cast<uint32_t>(*id));
  }
}

void ReadSampling(FieldReader* fields, const SamplingDefaults& defaults, OpenAiCall* call) {
  sampling::v1::SamplingParams* out = call->options.mutable_sampling();
  const auto real = [fields](const char* name, double otherwise, double low, double high) {
    return static_cast<float>(fields->Number(name, otherwise, low, high));
  };
  out->set_temperature(real("temperature", defaults.temperature, 0, 2));
  const float top_p = real("top_p", defaults.top_p, 0, 1);
  out->set_top_p(top_p > 0 ? top_p : kTopPMin);
  out->set_top_k(static_cast<uint32_t>(
      std::max<int64_t>(0, fields->Integer("top_k", defaults.top_k, -1, INT32_MAX))));
  out->set_min_p(real("min_p", defaults.min_p, 0, 1));
  out->set_repetition_penalty(real("repetition_penalty", defaults.repetition_penalty, 0.01, 100));
  out->set_presence_penalty(real("presence_penalty", 0, -2, 2));
  out->set_frequency_penalty(real("frequency_penalty", 0, -2, 2));
  out->set_ignore_stop_tokens(fields->Bool("ignore_eos", false));
  ReadLogitBias(fields, out);
  ReadStopIds(fields, out);
  if (fields->Find("seed") != nullptr)
    call->seed = static_cast<uint64_t>(fields->Integer("seed", 0, INT64_MIN, INT64_MAX));
  if (call->logprobs) {
    out->set_logprobs(true);
    out->set_top_logprobs(*call->logprobs);
  }
}

void ReadStream(FieldReader* fields, OpenAiCall* call) {
  call->stream = fields->Bool("stream", false);
  const InputJson* options = fields->Object("stream_options");
  if (options == nullptr) return;
  if (!call->stream) {
    fields->Fail(BadRequest("'stream_options' is only allowed when 'stream' is true",
                            "stream_options", "invalid_value"));
  }
  FieldReader inner(options);
  call->include_usage = inner.Bool("include_usage", false);
  if (inner.error()) fields->Fail(*inner.error());
}

// n and best_of. Answers are not ranked, so there must be as many as are asked for.
void ReadChoices(FieldReader* fields, OpenAiCall* call) {
  call->choices_per_prompt = static_cast<uint32_t>(fields->Integer("n", 1, 1, kChoicesMax));
  const int64_t best_of = fields->Integer("best_of", call->choices_per_prompt, 1, kChoicesMax);
  if (best_of != call->choices_per_prompt)
    fields->Fail(NotSupported("a 'best_of' other than 'n'", "best_of"));
  if (call->choices() > kChoicesMax) {
    fields->Fail(BadRequest(absl::StrCat("expected at most ", kChoicesMax,
                                         " answers (prompts times n), found ", call->choices()),
                            "n", "invalid_value"));
  }
}

// A list of numbers is one prompt of token ids.
bool AddTokenPrompt(FieldReader* fields, const InputJson& list, OpenAiCall* call) {
  auto* ids = call->prompts.emplace_back().mutable_tokens()->mutable_ids();
  ids->Reserve(static_cast<int>(list.size()));
  for (const InputJson& value : list) {
    const std::optional<int64_t> id = IntegerOf(value, 0, kTokenIdMax);
    if (!id) {
      fields->Expected("prompt", "token ids", value);
      return false;
    }
    ids->Add(static_cast<uint32_t>(*id));
  }
  return true;
}

void ReadPrompts(FieldReader* fields, OpenAiCall* call) {
  const InputJson* prompt = fields->Find("prompt");
  if (prompt == nullptr) {
    return fields->Fail(
        BadRequest("expected a 'prompt', found none", "prompt", "missing_required_parameter"));
  }
  if (prompt->is_string()) return call->prompts.emplace_back().set_text(prompt->get<std::string>());
  if (!prompt->is_array() || prompt->empty()) {
    return fields->Expected(
        "prompt", "a string, a list of strings, a list of token ids or a list of such lists",
        *prompt);
  }
  if (prompt->front().is_number()) {
    AddTokenPrompt(fields, *prompt, call);
    return;
  }
  if (prompt->size() > kChoicesMax) {
    return fields->Fail(BadRequest(
        absl::StrCat("expected at most ", kChoicesMax, " prompts, found ", prompt->size()),
        "prompt", "invalid_value"));
  }
  for (const InputJson& one : *prompt) {
    if (one.type() != prompt->front().type() || !(one.is_string() || one.is_array()))
      return fields->Expected("prompt", "all strings or all lists of token ids", one);
    if (one.is_string()) {
      call->prompts.emplace_back().set_text(one.get<std::string>());
    } else if (!AddTokenPrompt(fields, one, call)) {
      return;
    }
  }
}

// A string, or a list of parts with text.
std::optional<std::string> ContentOf(FieldReader* fields, const InputJson& message) {
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) return "";
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) {
    fields->Expected("messages", "a string or a list of text parts as content", *content);
    return std::nullopt;
  }
  std::string text;
  for (const InputJson& part : *content) {
    const bool is_object = part.is_object();
    const auto words = is_object ? part.find("text") : part.end();
    if (!is_object || words == part.end() || !words->is_string() ||
        part.value("type", InputJson("text")) != "text") {
      fields->Fail(NotSupported("content other than text", "messages"));
      return std::nullopt;
    }
    text += words->get_ref<const std::string&>();
  }
  return text;
}

// Templates of these models know no "developer", which is the newer name of "system".
std::string RoleOf(FieldReader* fields, const InputJson& message) {
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string()) {
    fields->Fail(BadRequest("expected every message to have a role", "messages", "invalid_value"));
    return "";
  }
  std::string name = role->get<std::string>();
  if (name == "developer") return "system";
  if (name != "system" && name != "user" && name != "assistant" && name != "tool") {
    fields->Expected("messages", "the role system, developer, user, assistant or tool", *role);
  }
  return name;
}

void ReadTemplateArgs(FieldReader* fields, inference::v1::ChatPrompt* chat) {
  const InputJson* args = fields->Object("chat_template_kwargs");
  if (args == nullptr) return;
  std::string text = args->dump(-1, ' ', false, InputJson::error_handler_t::replace);
  if (text.size() > kTemplateArgsBytesMax) {
    return fields->Fail(BadRequest(absl::StrCat("expected 'chat_template_kwargs' of at most ",
                                                kTemplateArgsBytesMax, " bytes"),
                                   "chat_template_kwargs", "invalid_value"));
  }
  chat->set_template_args_json(std::move(text));
}

// OpenAI's chat form: a switch and a number.
std::optional<uint32_t> ChatLogprobs(FieldReader* fields) {
  const bool wanted = fields->Bool("logprobs", false);
  const int64_t top = fields->Integer("top_logprobs", 0, 0, kLogprobsMax);
  if (!wanted && top > 0) {
    fields->Fail(
        BadRequest("'top_logprobs' needs 'logprobs' to be true", "top_logprobs", "invalid_value"));
  }
  return wanted ? std::optional<uint32_t>(static_cast<uint32_t>(top)) : std::nullopt;
}

void ReadChatTokens(FieldReader* fields, GenerateRequest* out) {
  const int64_t older = fields->Integer("max_tokens", kTokensMax, 1, kTokensMax);
  const int64_t tokens = fields->Integer("max_completion_tokens", older, 1, kTokensMax);
  out->set_max_tokens(static_cast<uint32_t>(tokens));
}

void ReadShared(FieldReader* fields, const SamplingDefaults& defaults, OpenAiCall* call) {
  call->model = fields->String("model");
  ReadStream(fields, call);
  ReadChoices(fields, call);
  ReadStops(fields, &call->options);
  ReadSampling(fields, defaults, call);
  RefuseUnsupported(fields);
}

}  // namespace

void ReadMessages(FieldReader* fields, inference::v1::ChatPrompt* chat) {
  const InputJson* messages = fields->Find("messages");
  if (messages == nullptr) {
    return fields->Fail(
        BadRequest("expected 'messages', found none", "messages", "missing_required_parameter"));
  }
  if (!messages->is_array() || messages->empty() || messages->size() > kMessagesMax) {
    return fields->Expected("messages", absl::StrCat("a list of 1 to ", kMessagesMax, " messages"),
                            *messages);
  }
  for (const InputJson& message : *messages) {
    if (!message.is_object()) return fields->Expected("messages", "objects", message);
    const auto calls = message.find("tool_calls");
    if (calls != message.end() && !AsksForNothing(*calls) && !calls->is_null())
      return fields->Fail(NotSupported("a message with 'tool_calls'", "messages"));
    const std::optional<std::string> content = ContentOf(fields, message);
    if (!content) return;
    inference::v1::ChatMessage* out = chat->add_messages();
    out->set_role(RoleOf(fields, message));
    out->set_content(*content);
  }
  ReadTemplateArgs(fields, chat);
}

std::variant<OpenAiCall, ApiError> ParseChatCall(const std::string& body,
                                                 const SamplingDefaults& defaults) {
  std::variant<InputJson, ApiError> json = ParseJsonObject(body);
  if (std::holds_alternative<ApiError>(json)) return std::get<ApiError>(json);
  FieldReader fields(&std::get<InputJson>(json));
  OpenAiCall call;
  call.chat = true;
  ReadMessages(&fields, call.prompts.emplace_back().mutable_chat());
  call.logprobs = ChatLogprobs(&fields);
  ReadChatTokens(&fields, &call.options);
  ReadShared(&fields, defaults, &call);
  if (fields.Bool("echo", false)) fields.Fail(NotSupported("'echo' in a chat", "echo"));
  if (fields.error()) return *fields.error();
  return call;
}

std::variant<OpenAiCall, ApiError> ParseCompletionCall(const std::string& body,
                                                       const SamplingDefaults& defaults) {
  std::variant<InputJson, ApiError> json = ParseJsonObject(body);
  if (std::holds_alternative<ApiError>(json)) return std::get<ApiError>(json);
  FieldReader fields(&std::get<InputJson>(json));
  OpenAiCall call;
  ReadPrompts(&fields, &call);
  call.echo = fields.Bool("echo", false);
  call.add_special_tokens = fields.Bool("add_special_tokens", true);
  if (fields.Find("logprobs") != nullptr)
    call.logprobs = static_cast<uint32_t>(fields.Integer("logprobs", 0, 0, kLogprobsMax));
  call.options.set_max_tokens(
      static_cast<uint32_t>(fields.Integer("max_tokens", kCompletionTokens, 0, kTokensMax)));
  if (call.echo && call.logprobs) call.options.set_prompt_logprobs_plus1(*call.logprobs + 1);
  ReadShared(&fields, defaults, &call);
  if (fields.error()) return *fields.error();
  return call;
}

GenerateRequest RequestOfChoice(const OpenAiCall& call, size_t choice, uint64_t random_seed) {
  GenerateRequest request = call.prompts[choice / call.choices_per_prompt];
  request.MergeFrom(call.options);
  const uint64_t number = choice % call.choices_per_prompt;
  request.mutable_sampling()->set_seed(call.seed ? *call.seed + number * kSeedStep : random_seed);
  return request;
}

}  // namespace tandem::coordinator
