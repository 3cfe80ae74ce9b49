#include "coordinator/api/http_front.h"

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "coordinator/api/openai_defaults.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/address.h"

namespace tandem::coordinator {
namespace {

constexpr char kNone[] = "none";
constexpr absl::Duration kLookInterval = absl::Milliseconds(5);

}  // namespace

void AddHttpOptions(CLI::App& app, HttpFrontOptions* o) {
  app.add_option("--http-listen", o->listen,
                 "Address of OpenAI's endpoints over HTTP, or none. Port 0 takes any free one")
      ->capture_default_str();
  app.add_option("--http-threads", o->threads, "Threads that read requests and write answers")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  // No default in the help: it would be the key.
  app.add_option("--api-key", o->api_key,
                 "Bearer token that HTTP requests need; better in TANDEM_API_KEY or a file, where "
                 "other users do not see it");
  app.add_option("--api-key-file", o->api_key_file, "File of such tokens, one a line");
  app.add_option("--http-cors-origin", o->cors_origin,
                 "Web pages of this origin may ask, * for all; empty: none but our own");
}

absl::StatusOr<std::unique_ptr<HttpFront>> HttpFront::Start(const HttpFrontOptions& options,
                                                            const InferenceParts& parts,
                                                            const std::string& model_path,
                                                            telemetry::Metrics* metrics) {
  OpenAiOptions of_handler;
  of_handler.parts = parts;
  of_handler.cors_origin = options.cors_origin;
  of_handler.metrics = metrics;
  TANDEM_ASSIGN_OR_RETURN(of_handler.defaults, ReadSamplingDefaults(model_path));
  TANDEM_ASSIGN_OR_RETURN(of_handler.keys, ApiKeys::Load(options.api_key, options.api_key_file));
  std::unique_ptr<HttpFront> front(new HttpFront(std::move(of_handler)));
  if (options.listen == kNone) return front;
  TANDEM_ASSIGN_OR_RETURN(const rpc::HostPort listen, rpc::ParseHostPort(options.listen));
  const bool is_local =
      listen.host == "localhost" || listen.host == "::1" || absl::StartsWith(listen.host, "127.");
  if (!is_local && !front->handler_.needs_key()) {
    base::LogWarning("http_open_to_all", {{"listen", options.listen},
                                          {"hint", "set TANDEM_API_KEY or --api-key-file"}});
  }
  HttpServerOptions of_server;
  of_server.listen = options.listen;
  of_server.threads = options.threads;
  TANDEM_ASSIGN_OR_RETURN(front->server_, HttpServer::Start(of_server, &front->handler_));
  return front;
}

void HttpFront::Finish(absl::Duration wait_max) {
  if (server_ == nullptr) return;
  server_->StopAccepting();
  const absl::Time end = absl::Now() + wait_max;
  while (server_->answers() > 0 && absl::Now() < end) absl::SleepFor(kLookInterval);
}

}  // namespace tandem::coordinator
