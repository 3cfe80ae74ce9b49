#include "coordinator/api/openai_handler.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "coordinator/api/openai_reply.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"

namespace tandem::coordinator {

// Which path is answered by whom, to which methods.
struct OpenAiRoutes {
  using Answer = HttpPart (OpenAiHandler::*)(const HttpRequest&) const;
  struct Route {
    const char* path;  // with a '/' at the end: and whatever follows it
    bool post;
    bool needs_key;
    Answer answer;  // null: generates
  };
  static constexpr Route kAll[] = {
      {"/health", false, false, &OpenAiHandler::Health},
      {"/v1/health", false, false, &OpenAiHandler::Health},
      {"/version", false, true, &OpenAiHandler::Version},
      {"/models", false, true, &OpenAiHandler::Models},
      {"/v1/models", false, true, &OpenAiHandler::Models},
      {"/v1/models/", false, true, &OpenAiHandler::Model},
      {"/tokenize", true, true, &OpenAiHandler::Tokenize},
      {"/detokenize", true, true, &OpenAiHandler::Detokenize},
      {"/tokenizer_info", false, true, &OpenAiHandler::TokenizerInfo},
      {"/v1/completions", true, true, nullptr},
      {"/v1/chat/completions", true, true, nullptr},
  };

  static const Route* Find(const std::string& path) {
    for (const Route& route : kAll) {
      const bool is_folder = absl::EndsWith(route.path, "/");
      if (is_folder ? absl::StartsWith(path, route.path) && path.size() > strlen(route.path)
                    : path == route.path)
        return &route;
    }
    return nullptr;
  }
};

namespace {

using inference::v1::GenerateRequest;

constexpr char kChatPath[] = "/v1/chat/completions";
// Of one call, the chosen ones included: each is 30 to 60 bytes of the answer. 256 prompts of 4096
// tokens with the one best token each fit.
constexpr uint64_t kPromptLogprobsMax = 4 << 20;

HttpPart JsonPart(const OutputJson& json) {
  HttpPart part;
  part.head.emplace();
  part.body = DumpJson(json);
  part.last = true;
  return part;
}

std::string ToString(absl::string_view text) { return std::string(text.data(), text.size()); }

uint64_t RandomBits() {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return random();
}

// FNV-1a, 64 bit: a short name for a set of words, the same on every machine.
uint64_t NameHash(const std::string& words) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : words) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash;
}

// %2F and the like, as clients write them into a path.
std::string PercentDecoded(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '%' && i + 2 < text.size() &&
                        absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 1])) &&
                        absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 2]));
    if (escape) {
      out.push_back(static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16)));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

bool IsJson(const std::string& content_type) {
  const std::string kind = content_type.substr(0, content_type.find(';'));
  return absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(kind), "application/json");
}

std::string StatusClass(int status) { return absl::StrCat(status / 100, "xx"); }

HttpPart WrongMethod(const HttpRequest& request, bool post) {
  const char* allowed = post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
  HttpPart part = ErrorPart(ErrorOf(
      405, absl::StrCat("expected ", allowed, " for ", request.path, ", found ", request.method)));
  part.head->fields.emplace_back("Allow", allowed);
  return part;
}

OutputJson ModelJson(const TextModel& model, int64_t created_s, uint32_t context_tokens) {
  return {{"id", model.name()},
          {"object", "model"},
          {"created", created_s},
          {"owned_by", "tandem"},
          {"max_model_len", context_tokens},
          {"meta",
           {{"n_vocab", model.vocab_size()},
            {"n_ctx", context_tokens},
            {"model_type", model.config().model_type},
            {"expert_formats", model.expert_formats()}}}};
}

}  // namespace

OpenAiHandler::OpenAiHandler(OpenAiOptions options)
    : options_(std::move(options)), started_s_(absl::ToUnixSeconds(absl::Now())) {}

std::optional<HttpPart> OpenAiHandler::Refuse(const HttpRequest& request) {
  const OpenAiRoutes::Route* route = OpenAiRoutes::Find(request.path);
  if (route == nullptr) {
    return ErrorPart(
        ErrorOf(404, absl::StrCat("there is no ", request.method, " ", request.path, " here")));
  }
  if (request.method == "OPTIONS") return std::nullopt;
  const bool reads = request.method == "GET" || request.method == "HEAD";
  if (route->post ? request.method != "POST" : !reads) return WrongMethod(request, route->post);
  if (route->needs_key && !options_.keys.Allows(request.authorization)) {
    ApiError error = ErrorOf(401, request.authorization.empty()
                                      ? "expected an API key: Authorization: Bearer KEY"
                                      : "the API key is not one of this server's");
    return ErrorPart(error);
  }
  // Only pages of this origin may send application/json without asking first, so a page elsewhere
  // cannot make a browser use this server.
  if (route->post && !IsJson(request.content_type)) {
    return ErrorPart(
        ErrorOf(415, absl::StrCat("expected Content-Type: application/json, found ",
                                  request.content_type.empty() ? "none" : request.content_type)));
  }
  if (!request.content_encoding.empty() && request.content_encoding != "identity") {
    return ErrorPart(ErrorOf(415, absl::StrCat("expected a body without Content-Encoding, found ",
                                               request.content_encoding)));
  }
  return std::nullopt;
}

std::unique_ptr<HttpReply> OpenAiHandler::Handle(HttpRequest request, std::function<void()> wake) {
  const OpenAiRoutes::Route* route = OpenAiRoutes::Find(request.path);
  if (request.method == "OPTIONS") return std::make_unique<WholeReply>(Preflight(request));
  if (route->answer != nullptr)
    return std::make_unique<WholeReply>((this->*route->answer)(request));
  auto reply = Generate(request, request.path == kChatPath, std::move(wake));
  if (auto* error = std::get_if<ApiError>(&reply))
    return std::make_unique<WholeReply>(ErrorPart(*error));
  return std::move(std::get<0>(reply));
}

HttpPart OpenAiHandler::Complain(int status, const std::string& message) {
  return ErrorPart(ErrorOf(status, message));
}

void OpenAiHandler::Decorate(const HttpRequest& request, HttpHead* head) {
  const std::string& allowed = options_.cors_origin;
  if (allowed.empty() || request.origin.empty()) return;
  if (allowed != "*" && allowed != request.origin) return;
  head->fields.emplace_back("Access-Control-Allow-Origin", request.origin);
  head->fields.emplace_back("Access-Control-Expose-Headers", "x-request-id");
  head->fields.emplace_back("Vary", "Origin");
}

void OpenAiHandler::Done(const HttpOutcome& outcome) {
  const OpenAiRoutes::Route* route = OpenAiRoutes::Find(outcome.request.path);
  const std::string method = outcome.request.method.empty() ? "none" : outcome.request.method;
  const bool known_method =
      method == "GET" || method == "HEAD" || method == "POST" || method == "OPTIONS";
  options_.metrics
      ->Counter("tandem_http_requests_total", "HTTP requests answered.",
                {{"handler", route == nullptr ? "none" : route->path},
                 {"method", known_method ? method : "other"},
                 {"status", StatusClass(outcome.status)}})
      .Increment();
  const bool generates = route != nullptr && route->answer == nullptr;
  base::Log(generates ? base::LogLevel::kInfo : base::LogLevel::kDebug, "http_request",
            {{"request", outcome.request.id},
             {"method", method},
             {"path", outcome.request.path},
             {"status", outcome.status},
             {"bytes", outcome.body_bytes},
             {"ms", absl::ToInt64Milliseconds(outcome.duration)}});
}

void OpenAiHandler::CountConnections(int open) {
  options_.metrics->Gauge("tandem_http_connections", "HTTP connections open.").Set(open);
}

HttpPart OpenAiHandler::Preflight(const HttpRequest& request) const {
  HttpPart part;
  part.head.emplace();
  part.head->status = 204;
  part.head->content_type = "";
  const OpenAiRoutes::Route* route = OpenAiRoutes::Find(request.path);
  const char* allowed = route->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
  part.head->fields.emplace_back("Allow", allowed);
  if (!options_.cors_origin.empty()) {
    part.head->fields.emplace_back("Access-Control-Allow-Credentials", "true");
    part.head->fields.emplace_back("Access-Control-Allow-Methods", "GET, POST");
    part.head->fields.emplace_back("Access-Control-Allow-Headers", "*, Authorization");
  }
  part.last = true;
  return part;
}

HttpPart OpenAiHandler::Health(const HttpRequest&) const {
  const absl::Status ready = options_.parts.loop->Readiness();
  if (ready.ok()) return JsonPart({{"status", "ok"}});
  // Also the form in which llama.cpp's server says it.
  HttpPart part = JsonPart({{"error",
                             {{"code", 503},
                              {"message", absl::StrCat("Loading model: ", ready.message())},
                              {"type", "unavailable_error"}}}});
  part.head->status = 503;
  part.head->fields.emplace_back("Retry-After", "2");
  return part;
}

HttpPart OpenAiHandler::Version(const HttpRequest&) const {
  return JsonPart({{"version", base::VersionString()}});
}

HttpPart OpenAiHandler::Models(const HttpRequest&) const {
  OutputJson list = {{"object", "list"}, {"data", OutputJson::array()}};
  list["data"].push_back(ModelJson(*options_.parts.model, started_s_, ContextTokens()));
  return JsonPart(list);
}

HttpPart OpenAiHandler::Model(const HttpRequest& request) const {
  const std::string name = PercentDecoded(request.path.substr(strlen("/v1/models/")));
  if (name != options_.parts.model->name()) return ErrorPart(NoSuchModel(name));
  return JsonPart(ModelJson(*options_.parts.model, started_s_, ContextTokens()));
}

// vLLM's form {"prompt"} or {"messages"}, and llama.cpp's {"content"}, which adds nothing unless
// told to.
HttpPart OpenAiHandler::Tokenize(const HttpRequest& request) const {
  const auto json = ParseJsonObject(request.body);
  if (const auto* error = std::get_if<ApiError>(&json)) return ErrorPart(*error);
  FieldReader fields(&std::get<InputJson>(json));
  const bool is_chat = fields.Find("messages") != nullptr;
  const bool is_vllm = fields.Find("prompt") != nullptr;
  GenerateRequest prompt;
  if (is_chat) {
    ReadMessages(&fields, prompt.mutable_chat());
  } else {
    prompt.set_text(fields.String(is_vllm ? "prompt" : "content"));
    if (!is_vllm && fields.Find("content") == nullptr)
      fields.Fail(BadRequest("expected 'prompt', 'messages' or 'content', found none", "prompt",
                             "missing_required_parameter"));
  }
  OpenAiCall call;
  call.add_special_tokens = fields.Bool("add_special_tokens", fields.Bool("add_special", is_vllm));
  if (fields.error()) return ErrorPart(*fields.error());
  const absl::StatusOr<std::vector<uint32_t>> ids = Encode(call, prompt);
  if (!ids.ok()) return ErrorPart(ErrorOf(ids.status()));
  return JsonPart({{"count", ids->size()}, {"max_model_len", ContextTokens()}, {"tokens", *ids}});
}

HttpPart OpenAiHandler::Detokenize(const HttpRequest& request) const {
  const auto json = ParseJsonObject(request.body);
  if (const auto* error = std::get_if<ApiError>(&json)) return ErrorPart(*error);
  FieldReader fields(&std::get<InputJson>(json));
  const InputJson* tokens = fields.Find("tokens");
  if (tokens == nullptr || !tokens->is_array())
    return ErrorPart(BadRequest("expected 'tokens', a list of token ids", "tokens"));
  std::vector<int32_t> ids;
  for (const InputJson& token : *tokens) {
    const std::optional<int64_t> id = IntegerOf(token, 0, INT32_MAX);
    if (!id) return ErrorPart(BadRequest("expected 'tokens', a list of token ids", "tokens"));
    ids.push_back(static_cast<int32_t>(*id));
  }
  const absl::StatusOr<std::string> text = options_.parts.model->tokenizer().Decode(ids);
  if (!text.ok()) return ErrorPart(ErrorOf(text.status()));
  return JsonPart({{"prompt", *text}, {"content", *text}});
}

std::string OpenAiHandler::Piece(int32_t id) const {
  const absl::StatusOr<std::string_view> piece = options_.parts.model->tokenizer().IdToPiece(id);
  return piece.ok() ? std::string(*piece) : "";
}

HttpPart OpenAiHandler::TokenizerInfo(const HttpRequest&) const {
  const Tokenizer& tokenizer = options_.parts.model->tokenizer();
  const auto token = [this](int32_t id) { return id < 0 ? OutputJson() : OutputJson(Piece(id)); };
  return JsonPart({{"tokenizer_class", "tandem"},
                   {"bos_token", token(tokenizer.bos_id())},
                   {"eos_token", token(tokenizer.eos_id())},
                   {"pad_token", token(tokenizer.pad_id())},
                   {"add_bos_token", AddsBos()},
                   {"model_max_length", ContextTokens()},
                   {"chat_template", tokenizer.chat_template()}});
}

bool OpenAiHandler::AddsBos() const {
  const Tokenizer& tokenizer = options_.parts.model->tokenizer();
  return tokenizer.adds_bos_by_default() && tokenizer.bos_id() >= 0;
}

// What a request may have: the model's context, or what the GPU worker's cache holds.
uint32_t OpenAiHandler::ContextTokens() const {
  const auto engine = options_.parts.loop->engine();
  if (!engine) return options_.parts.context_tokens;
  const uint64_t capacity_tokens = uint64_t{engine->kv_pages()} * engine->page_tokens();
  return static_cast<uint32_t>(std::min<uint64_t>(options_.parts.context_tokens, capacity_tokens));
}

// Changes whenever the same request with the same seed might be answered differently.
std::string OpenAiHandler::Fingerprint() const {
  const auto engine = options_.parts.loop->engine();
  const std::string computed =
      engine ? absl::StrCat(engine->precision(), "/", engine->attention(), "/",
                            engine->linear_formats(), "/", engine->backend())
             : "";
  const uint64_t hash = NameHash(absl::StrCat(
      base::VersionString(), "/", options_.parts.registry->Summary().model_digest, "/",
      options_.parts.model->expert_formats(), "/", options_.parts.recipe_digest, "/", computed));
  return absl::StrFormat("fp_%016x", hash);
}

RequestLimits OpenAiHandler::Limits() const {
  RequestLimits limits;
  limits.context_tokens = ContextTokens();
  limits.vocab_size = options_.parts.model->vocab_size();
  limits.eos_token_ids = options_.parts.model->eos_token_ids();
  return limits;
}

// Before the first GPU worker nobody knows how long loading takes, so the client decides. A cluster
// that only replaces a worker is waited for, as over gRPC.
std::optional<ApiError> OpenAiHandler::NotReady() const {
  if (options_.parts.loop->engine()) return std::nullopt;
  const absl::Status ready = options_.parts.loop->Readiness();
  if (ready.ok()) return std::nullopt;
  return ErrorOf(503, absl::StrCat("the model is not loaded yet: ", ready.message()));
}

std::variant<OpenAiCall, ApiError> OpenAiHandler::Parse(const HttpRequest& request,
                                                        bool chat) const {
  std::variant<OpenAiCall, ApiError> call =
      chat ? ParseChatCall(request.body, options_.defaults)
           : ParseCompletionCall(request.body, options_.defaults);
  if (const auto* parsed = std::get_if<OpenAiCall>(&call);
      parsed != nullptr && !parsed->model.empty() &&
      parsed->model != options_.parts.model->name()) {
    return NoSuchModel(parsed->model);
  }
  return call;
}

absl::StatusOr<std::vector<uint32_t>> OpenAiHandler::Encode(const OpenAiCall& call,
                                                            const GenerateRequest& prompt) const {
  if (prompt.has_text() && !call.add_special_tokens) {
    return options_.parts.model->EncodeText(prompt.text(), /*add_bos=*/false,
                                            /*parse_special=*/true);
  }
  return options_.parts.model->EncodePrompt(prompt);
}

std::optional<ApiError> OpenAiHandler::Prepare(const OpenAiCall& call, const std::string& id,
                                               std::vector<GenerationRequest>* out) const {
  const RequestLimits limits = Limits();
  const absl::Duration arrival = options_.parts.clock->Monotonic();
  std::vector<uint32_t> ids;
  uint64_t entries = 0;
  for (size_t i = 0; i < call.choices(); ++i) {
    GenerateRequest request = RequestOfChoice(call, i, RandomBits());
    request.set_request_id(call.choices() == 1 ? id : absl::StrCat(id, "/", i));
    if (absl::Status status = CheckGenerateRequest(request, limits); !status.ok())
      return ErrorOf(status);
    if (i % call.choices_per_prompt == 0) {
      absl::StatusOr<std::vector<uint32_t>> encoded =
          Encode(call, call.prompts[i / call.choices_per_prompt]);
      if (!encoded.ok()) return ErrorOf(encoded.status());
      ids = *std::move(encoded);
    }
    if (ids.size() + (request.max_tokens() > 0 ? 1 : 0) > limits.context_tokens)
      return ContextExceeded(ids.size(), limits.context_tokens);
    absl::StatusOr<GenerationRequest> generation = MakeGeneration(request, ids, limits);
    if (!generation.ok()) {
      return BadRequest(ToString(generation.status().message()), call.chat ? "messages" : "prompt",
                        "invalid_value");
    }
    generation->arrival = arrival;
    if (request.prompt_logprobs_plus1() > 0)
      entries += uint64_t{ids.size()} * (request.prompt_logprobs_plus1() + 1);
    if (entries > kPromptLogprobsMax) {
      return BadRequest(absl::StrCat("expected at most ", kPromptLogprobsMax,
                                     " log probabilities of prompt tokens in one call, found more"),
                        "logprobs", "invalid_value");
    }
    out->push_back(*std::move(generation));
  }
  return std::nullopt;
}

std::variant<std::unique_ptr<HttpReply>, ApiError> OpenAiHandler::Generate(
    const HttpRequest& request, bool chat, std::function<void()> wake) const {
  if (auto error = NotReady()) return *error;
  std::variant<OpenAiCall, ApiError> parsed = Parse(request, chat);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return *error;
  OpenAiReplyParts parts;
  parts.call = std::make_unique<OpenAiCall>(std::move(std::get<OpenAiCall>(parsed)));
  const OpenAiCall& call = *parts.call;
  std::vector<GenerationRequest> generations;
  if (auto error = Prepare(call, request.id, &generations)) return *error;
  parts.envelope = {absl::StrCat(chat ? "chatcmpl-" : "cmpl-", request.id),
                    absl::ToUnixSeconds(options_.parts.clock->Now()), options_.parts.model->name(),
                    Fingerprint()};
  for (size_t i = 0; i < generations.size(); ++i) {
    if (i % call.choices_per_prompt == 0) parts.usage.prompt_tokens += generations[i].prompt.size();
    absl::StatusOr<PromptEcho> echo = EchoOf(call, i / call.choices_per_prompt, generations[i]);
    if (!echo.ok()) return ErrorOf(echo.status());
    parts.renderers.emplace_back(&options_.parts.model->tokenizer(), &call, i, *std::move(echo));
  }
  parts.inbox = std::make_shared<AnswerInbox>(generations.size(), call.stream, std::move(wake));
  for (size_t i = 0; i < generations.size(); ++i) {
    AnswerInbox::Connect(parts.inbox, i, &generations[i]);
    const absl::Status status = options_.parts.loop->Submit(std::move(generations[i]));
    if (status.ok()) continue;
    parts.inbox->Cancel();
    return ErrorOf(status);
  }
  return std::make_unique<OpenAiReply>(std::move(parts));
}

absl::StatusOr<PromptEcho> OpenAiHandler::EchoOf(const OpenAiCall& call, size_t prompt,
                                                 const GenerationRequest& generation) const {
  PromptEcho echo;
  if (!call.echo) return echo;
  const GenerateRequest& asked = call.prompts[prompt];
  echo.bos_added = asked.has_text() && call.add_special_tokens && AddsBos();
  echo.ids = generation.prompt;
  echo.text = asked.text();
  if (asked.has_text()) return echo;
  const std::vector<int32_t> ids(echo.ids.begin(), echo.ids.end());
  TANDEM_ASSIGN_OR_RETURN(echo.text, options_.parts.model->tokenizer().Decode(ids));
  return echo;
}

}  // namespace tandem::coordinator
