// The only file that includes Boost.Beast, which takes long to compile. One thread serves
// everything: answers are short and made in memory.
#include "lib/rpc/admin_server.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "lib/rpc/address.h"

namespace tandem::rpc {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Tcp = asio::ip::tcp;
using Request = http::request<http::empty_body>;
using Response = http::response<http::string_body>;

// A scraper and a few probes; more are turned away, so that idle connections cannot use up the
// descriptors.
constexpr int kConnectionsMax = 64;
// For reading one request or writing one answer, and for idling between them.
constexpr auto kWaitMax = std::chrono::seconds(10);
constexpr uint32_t kHeaderBytesMax = 8 << 10;

std::string JsonString(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') out.push_back('\\');
    out.push_back(byte < 0x20 ? ' ' : c);
  }
  return out + "\"";
}

Response Answer(const Request& request, http::status status, const std::string& type,
                std::string body) {
  Response response(status, request.version());
  response.set(http::field::content_type, type);
  response.keep_alive(request.keep_alive());
  response.body() = std::move(body);
  response.prepare_payload();
  return response;
}

Response Health(const Request& request, const absl::Status& status) {
  if (status.ok())
    return Answer(request, http::status::ok, "application/json", "{\"status\":\"ok\"}\n");
  const std::string message(status.message().data(), status.message().size());
  return Answer(
      request, http::status::service_unavailable, "application/json",
      absl::StrCat("{\"status\":\"unavailable\",\"message\":", JsonString(message), "}\n"));
}

Response Route(const AdminOptions& options, const Request& request) {
  if (request.method() != http::verb::get && request.method() != http::verb::head) {
    return Answer(request, http::status::method_not_allowed, "text/plain", "only GET and HEAD\n");
  }
  const std::string target(request.target().data(), request.target().size());
  if (target == "/metrics") {
    return Answer(request, http::status::ok, "text/plain; version=0.0.4; charset=utf-8",
                  options.metrics == nullptr ? "" : options.metrics->Text());
  }
  // Alive: this thread answers. Liveness must not depend on peers.
  if (target == "/healthz") return Health(request, absl::OkStatus());
  if (target == "/readyz")
    return Health(request, options.ready ? options.ready() : absl::OkStatus());
  return Answer(request, http::status::not_found, "text/plain",
                "paths: /metrics /healthz /readyz\n");
}

// One connection: read, answer, again, until the peer closes or is silent for too long.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Tcp::socket socket, const AdminOptions* options, int* open)
      : stream_(std::move(socket)), options_(options), open_(open) {
    ++*open_;
  }
  ~Connection() { --*open_; }

  void Read() {
    parser_.emplace();
    parser_->header_limit(kHeaderBytesMax);
    parser_->body_limit(0);
    stream_.expires_after(kWaitMax);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](beast::error_code error, size_t) {
                       if (!error) self->Write();
                     });
  }

 private:
  void Write() {
    const Request request = parser_->release();
    response_ = Route(*options_, request);
    stream_.expires_after(kWaitMax);
    if (request.method() == http::verb::head) {
      serializer_.emplace(response_);
      serializer_->split(true);
      http::async_write_header(stream_, *serializer_,
                               [self = shared_from_this()](beast::error_code error, size_t) {
                                 self->AfterWrite(error);
                               });
      return;
    }
    http::async_write(
        stream_, response_,
        [self = shared_from_this()](beast::error_code error, size_t) { self->AfterWrite(error); });
  }

  void AfterWrite(beast::error_code error) {
    if (error) return;
    if (response_.keep_alive()) return Read();
    beast::error_code ignored;  // the peer may be gone, which is what we want
    stream_.socket().shutdown(Tcp::socket::shutdown_send, ignored);
  }

  beast::tcp_stream stream_;
  const AdminOptions* options_;
  int* open_;
  beast::flat_buffer buffer_{2 * kHeaderBytesMax};
  std::optional<http::request_parser<http::empty_body>> parser_;
  std::optional<http::response_serializer<http::string_body>> serializer_;
  Response response_;
};

class BeastAdminServer final : public AdminServer {
 public:
  explicit BeastAdminServer(AdminOptions options) : options_(std::move(options)) {}

  ~BeastAdminServer() override {
    context_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen() {
    absl::StatusOr<HostPort> address = ParseHostPort(options_.listen);
    if (!address.ok()) return address.status();
    beast::error_code error;
    const auto found = Tcp::resolver(context_).resolve(address->host, std::to_string(address->port),
                                                       Tcp::resolver::passive, error);
    if (error || found.empty()) return CannotListen(error);
    const Tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(kConnectionsMax, error);
    if (error) return CannotListen(error);
    port_ = acceptor_.local_endpoint().port();
    Accept();
    thread_ = std::thread([this] { context_.run(); });
    return absl::OkStatus();
  }

  int port() const override { return port_; }

 private:
  absl::Status CannotListen(const beast::error_code& error) const {
    return absl::UnavailableError(
        absl::StrCat("cannot listen for admin HTTP on ", options_.listen, ": ", error.message()));
  }

  void Accept() {
    acceptor_.async_accept([this](beast::error_code error, Tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (error) {
        // Out of descriptors, most likely: trying again at once would spin.
        retry_.expires_after(std::chrono::milliseconds(100));
        retry_.async_wait([this](beast::error_code) { Accept(); });
        return;
      }
      if (open_ < kConnectionsMax) {
        std::make_shared<Connection>(std::move(socket), &options_, &open_)->Read();
      }
      Accept();
    });
  }

  AdminOptions options_;
  int open_ = 0;  // connections; the server's thread only. Before context_, whose destruction ends
                  // the last ones
  asio::io_context context_{1};
  Tcp::acceptor acceptor_{context_};
  asio::steady_timer retry_{context_};
  int port_ = 0;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(AdminOptions options) {
  auto server = std::make_unique<BeastAdminServer>(std::move(options));
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return server;
}

}  // namespace tandem::rpc
