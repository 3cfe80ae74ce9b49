// What the coordinator answers over HTTP: OpenAI's chat completions, completions and models, and
// the small endpoints around them that clients of other servers ask for.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/api/http_auth.h"
#include "coordinator/api/http_exchange.h"
#include "coordinator/api/inference_service.h"
#include "coordinator/api/openai_error.h"
#include "coordinator/api/openai_fields.h"
#include "coordinator/api/openai_request.h"
#include "coordinator/api/openai_response.h"
#include "coordinator/request/generation.h"
#include "lib/telemetry/metrics.h"

namespace tandem::coordinator {

struct OpenAiOptions {
  InferenceParts parts;
  SamplingDefaults defaults;
  ApiKeys keys;
  std::string cors_origin;                // empty: no page of another origin may ask; "*": all may
  telemetry::Metrics* metrics = nullptr;  // must outlive the handler
};

class OpenAiHandler final : public HttpHandler {
 public:
  explicit OpenAiHandler(OpenAiOptions options);

  std::optional<HttpPart> Refuse(const HttpRequest& request) override;
  std::unique_ptr<HttpReply> Handle(HttpRequest request, std::function<void()> wake) override;
  HttpPart Complain(int status, const std::string& message) override;
  void Decorate(const HttpRequest& request, HttpHead* head) override;
  void Done(const HttpOutcome& outcome) override;
  void CountConnections(int open) override;

  bool needs_key() const { return options_.keys.required(); }

 private:
  friend struct OpenAiRoutes;

  HttpPart Health(const HttpRequest& request) const;
  HttpPart Version(const HttpRequest& request) const;
  HttpPart Models(const HttpRequest& request) const;
  HttpPart Model(const HttpRequest& request) const;
  HttpPart Tokenize(const HttpRequest& request) const;
  HttpPart Detokenize(const HttpRequest& request) const;
  HttpPart TokenizerInfo(const HttpRequest& request) const;
  HttpPart Preflight(const HttpRequest& request) const;

  std::variant<std::unique_ptr<HttpReply>, ApiError> Generate(const HttpRequest& request, bool chat,
                                                              std::function<void()> wake) const;
  std::variant<OpenAiCall, ApiError> Parse(const HttpRequest& request, bool chat) const;
  // All requests of a call, checked and tokenized, before the first is handed in.
  std::optional<ApiError> Prepare(const OpenAiCall& call, const std::string& id,
                                  std::vector<GenerationRequest>* out) const;
  absl::StatusOr<std::vector<uint32_t>> Encode(const OpenAiCall& call,
                                               const inference::v1::GenerateRequest& prompt) const;
  absl::StatusOr<PromptEcho> EchoOf(const OpenAiCall& call, size_t prompt,
                                    const GenerationRequest& generation) const;
  std::optional<ApiError> NotReady() const;
  bool AddsBos() const;
  uint32_t ContextTokens() const;
  std::string Fingerprint() const;
  std::string Piece(int32_t id) const;

  RequestLimits Limits() const;

  const OpenAiOptions options_;
  const int64_t started_s_;
};

}  // namespace tandem::coordinator
