// The coordinator's HTTP side as its main() sees it: flags, a start, an end.
#pragma once

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/http_server.h"
#include "coordinator/api/openai_handler.h"

namespace tandem::coordinator {

struct HttpFrontOptions {
  std::string listen = "127.0.0.1:8000";  // or "none"
  int threads = 2;
  std::string api_key;
  std::string api_key_file;
  std::string cors_origin;
};

void AddHttpOptions(CLI::App& app, HttpFrontOptions* options);

class HttpFront {
 public:
  // `model_path` is where generation_config.json is looked for; parts and `metrics` must outlive
  // the front. Serves at once, unless `listen` is "none".
  static absl::StatusOr<std::unique_ptr<HttpFront>> Start(const HttpFrontOptions& options,
                                                          const InferenceParts& parts,
                                                          const std::string& model_path,
                                                          telemetry::Metrics* metrics);
  // host:port; "none" when nothing is served.
  std::string address() const { return server_ == nullptr ? "none" : server_->address(); }
  // Takes no further connections and waits until the answers under way are sent, `wait_max` at
  // most. Call when the step loop has no requests left.
  void Finish(absl::Duration wait_max);

 private:
  explicit HttpFront(OpenAiOptions options) : handler_(std::move(options)) {}

  OpenAiHandler handler_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace tandem::coordinator
