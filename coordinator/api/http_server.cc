// The only file of the coordinator that includes Boost.Beast, which takes long to compile.
// Callbacks, each connection on a strand of its own: whatever happens to one happens one after the
// other.
#include "coordinator/api/http_server.h"

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "coordinator/api/http_head.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/address.h"

namespace tandem::coordinator {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Tcp = asio::ip::tcp;
using Parser = http::request_parser<http::string_body>;

// What a client may send ahead while its answer is being made; more stays in the kernel.
constexpr size_t kReadAheadBytesMax = 16 << 10;
constexpr size_t kWriteBytes = 64 << 10;
// After a refusal: until the client has read it. Closing at once would reset the connection, and
// the refusal would be lost with it.
constexpr auto kLingerMax = std::chrono::seconds(2);
constexpr uint64_t kLingerBytesMax = 64 << 20;
constexpr int kBacklog = 1024;
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);

std::string Text(beast::string_view view) { return std::string(view.data(), view.size()); }

// Lets other threads post to the server for as long as it lives.
struct Gate {
  absl::Mutex mutex;
  bool open ABSL_GUARDED_BY(mutex) = true;
};

// What the connections of a server share.
struct Shared {
  HttpServerOptions options;
  HttpHandler* handler = nullptr;
  std::shared_ptr<Gate> gate = std::make_shared<Gate>();
  std::atomic<int> connections{0};
  std::atomic<int> answers{0};
  std::atomic<uint64_t> body_bytes{0};  // announced and not yet handled
};

std::string MadeUpId() {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return absl::StrFormat("req-%016x", random());
}

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Tcp::socket socket, Shared* shared)
      : stream_(std::move(socket)), timer_(stream_.get_executor()), shared_(shared) {
    shared_->handler->CountConnections(++shared_->connections);
  }
  ~Connection() {
    FreeBody();
    EndReply();
    shared_->handler->CountConnections(--shared_->connections);
  }

  void Run() {
    asio::dispatch(stream_.get_executor(), [self = shared_from_this()] { self->AwaitRequest(); });
  }

 private:
  enum class State { kIdle, kReading, kMaking, kWriting, kLingering, kClosed };

  // ---- between requests

  void AwaitRequest() {
    state_ = State::kIdle;
    if (reading_ahead_ && buffer_.size() > 0) {
      // Part of the next request is here. The read that is under way has to end first: its handler
      // goes on from here.
      stream_.socket().cancel();
    } else if (buffer_.size() > 0) {
      ReadHead();
    } else if (gone_) {
      Close();
    } else {
      ReadAhead();
      SetTimer(options().idle_max);
    }
  }

  // Reads on while nobody else does: the end of the input is how a client says that it leaves.
  void ReadAhead() {
    if (reading_ahead_ || gone_ || buffer_.size() >= kReadAheadBytesMax) return;
    reading_ahead_ = true;
    stream_.socket().async_read_some(
        buffer_.prepare(kReadAheadBytesMax - buffer_.size()),
        [self = shared_from_this()](beast::error_code error, size_t bytes) {
          self->reading_ahead_ = false;
          self->buffer_.commit(bytes);
          self->gone_ = self->gone_ || (error && error != asio::error::operation_aborted);
          self->OnReadAhead();
        });
  }

  void OnReadAhead() {
    switch (state_) {
      case State::kIdle:
        timer_.cancel();
        return AwaitRequest();
      case State::kMaking:
        return gone_ ? Leave() : ReadAhead();
      case State::kWriting:
        return ReadAhead();  // if it is gone, that is seen after this part
      case State::kLingering:
        discarded_bytes_ += buffer_.size();
        buffer_.clear();
        return gone_ || discarded_bytes_ > kLingerBytesMax ? Close() : ReadAhead();
      default:
        return;
    }
  }

  void SetTimer(std::chrono::milliseconds wait) {
    timer_.expires_after(wait);
    timer_.async_wait([self = shared_from_this()](beast::error_code error) {
      // A later SetTimer may have come between this timer's end and its turn.
      const bool over = !error && self->timer_.expiry() <= std::chrono::steady_clock::now();
      if (!over) return;
      if (self->state_ == State::kIdle || self->state_ == State::kLingering) {
        self->Close();
      } else if (self->state_ == State::kMaking) {
        self->Pump(/*waited_long=*/true);
      }
    });
  }

  // ---- a request comes in

  void ReadHead() {
    state_ = State::kReading;
    request_ = {};
    parser_.emplace();
    parser_->header_limit(options().header_bytes_max);
    parser_->body_limit(options().body_bytes_max);
    stream_.expires_after(options().header_wait_max);
    http::async_read_header(stream_, buffer_, *parser_,
                            [self = shared_from_this()](beast::error_code error, size_t) {
                              error ? self->OnReadError(error) : self->OnHead();
                            });
  }

  void OnHead() {
    const auto& head = parser_->get();
    http_1_0_ = head.version() < 11;
    keep_alive_ = head.keep_alive();
    request_.method = Text(head.method_string());
    const std::string target = Text(head.target());
    request_.path = target.substr(0, target.find('?'));
    request_.authorization = Text(head[http::field::authorization]);
    request_.content_type = Text(head[http::field::content_type]);
    request_.content_encoding = Text(head[http::field::content_encoding]);
    request_.origin = Text(head[http::field::origin]);
    request_.id = FitRequestId(Text(head["x-request-id"]));
    if (request_.id.empty()) request_.id = MadeUpId();
    if (std::optional<HttpPart> refusal = shared_->handler->Refuse(request_))
      return Refuse(*std::move(refusal));
    if (!ReserveBody()) {
      return Refuse(shared_->handler->Complain(503, "too many request bodies are being received"));
    }
    const bool wants_go_ahead =
        beast::iequals(head[http::field::expect], "100-continue") && !parser_->is_done();
    wants_go_ahead ? SendGoAhead() : ReadBody();
  }

  // A body counts as what was announced, one of unknown length as the longest.
  bool ReserveBody() {
    const auto length = parser_->content_length();
    const bool none = parser_->is_done();
    body_reserved_bytes_ = none ? 0 : length ? *length : options().body_bytes_max;
    return (shared_->body_bytes += body_reserved_bytes_) <= options().body_bytes_sum_max;
  }
  void FreeBody() { shared_->body_bytes -= std::exchange(body_reserved_bytes_, 0); }

  void SendGoAhead() {
    out_ = "HTTP/1.1 100 Continue\r\n\r\n";
    stream_.expires_after(options().write_wait_max);
    asio::async_write(stream_, asio::buffer(out_),
                      [self = shared_from_this()](beast::error_code error, size_t) {
                        error ? self->Close() : self->ReadBody();
                      });
  }

  void ReadBody() {
    stream_.expires_after(options().body_wait_max);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](beast::error_code error, size_t) {
                       error ? self->OnReadError(error) : self->OnRequest();
                     });
  }

  void OnReadError(beast::error_code error) {
    if (error == http::error::body_limit) {
      return Refuse(shared_->handler->Complain(
          413, absl::StrCat("expected a body of at most ", options().body_bytes_max, " bytes")));
    }
    if (error == http::error::header_limit || error == http::error::buffer_overflow) {
      return Refuse(shared_->handler->Complain(
          431, absl::StrCat("expected a head of at most ", options().header_bytes_max, " bytes")));
    }
    const bool of_http = error.category() == beast::error_code(http::error::bad_method).category();
    if (!of_http || error == http::error::end_of_stream || error == http::error::partial_message)
      return Close();
    Refuse(shared_->handler->Complain(
        400, absl::StrCat("the request is not valid HTTP: ", error.message())));
  }

  // ---- its answer goes out

  // What comes behind a refused head may be anything, so the connection ends with it.
  void Refuse(HttpPart part) {
    keep_alive_ = false;
    BeginAnswer(std::make_unique<WholeReply>(std::move(part)));
  }

  void OnRequest() {
    request_.body = std::move(parser_->get().body());
    parser_.reset();
    BeginAnswer(nullptr);
  }

  void BeginAnswer(std::unique_ptr<HttpReply> refusal) {
    stream_.expires_never();
    state_ = State::kMaking;
    started_ = absl::Now();
    body_bytes_sent_ = 0;
    status_sent_ = 0;
    ++shared_->answers;
    answering_ = true;
    if (refusal != nullptr) {
      reply_ = std::move(refusal);
    } else {
      std::string body = std::exchange(request_.body, "");
      HttpRequest whole = request_;
      whole.body = std::move(body);
      reply_ = shared_->handler->Handle(std::move(whole), Waker());
      ReadAhead();
    }
    FreeBody();
    Pump(/*waited_long=*/false);
  }

  // Called by any thread. Many calls become one look.
  std::function<void()> Waker() {
    return [weak = weak_from_this(), gate = shared_->gate] {
      absl::MutexLock lock(&gate->mutex);
      if (!gate->open) return;
      const std::shared_ptr<Connection> self = weak.lock();
      if (self == nullptr || self->woken_.exchange(true)) return;
      asio::post(self->stream_.get_executor(), [self] {
        self->woken_ = false;
        if (self->state_ == State::kMaking) self->Pump(/*waited_long=*/false);
      });
    };
  }

  void Pump(bool waited_long) {
    HttpPart part = reply_->Take(waited_long);
    if (part.empty()) {
      if (gone_) return Leave();
      state_ = State::kMaking;
      return SetTimer(options().ping_interval);
    }
    timer_.cancel();
    Compose(std::move(part));
    state_ = State::kWriting;
    WriteSome(0);
  }

  void Compose(HttpPart part) {
    out_.clear();
    last_ = part.last;
    const bool first = part.head.has_value();
    if (first) {
      HttpFraming framing;
      framing.http_1_0 = http_1_0_;
      framing.length_known = part.last;
      framing.chunked = !part.last && !http_1_0_;
      if (!framing.length_known && http_1_0_) keep_alive_ = false;
      framing.keep_alive = keep_alive_;
      framing.body_bytes = part.body.size();
      status_sent_ = part.head->status;
      chunked_ = framing.chunked;
      part.head->fields.emplace_back(
          "Date", absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::Now(), absl::UTCTimeZone()));
      shared_->handler->Decorate(request_, &*part.head);
      out_ = HeadBytes(*part.head, framing, request_.id);
    }
    if (request_.method == "HEAD") return;
    body_bytes_sent_ += part.body.size();
    out_ += chunked_ ? ChunkBytes(part.body) : part.body;
    if (chunked_ && last_) out_ += kLastChunk;
  }

  void WriteSome(size_t from) {
    if (from >= out_.size()) return OnPartWritten();
    const size_t bytes = std::min(kWriteBytes, out_.size() - from);
    stream_.expires_after(options().write_wait_max);
    asio::async_write(
        stream_, asio::buffer(out_.data() + from, bytes),
        [self = shared_from_this(), next = from + bytes](beast::error_code error, size_t) {
          error ? self->Leave() : self->WriteSome(next);
        });
  }

  void OnPartWritten() {
    stream_.expires_never();
    if (!last_) return gone_ ? Leave() : Pump(/*waited_long=*/false);
    EndReply();
    if (keep_alive_) return AwaitRequest();
    Linger();
  }

  // The client has gone, or reads too slowly: its answer is worth nothing any more.
  void Leave() {
    status_sent_ = 499;  // as nginx counts a client that closed
    Close();
  }

  // The one place where an answer ends, however it does.
  void EndReply() {
    if (!answering_) return;
    answering_ = false;
    --shared_->answers;
    reply_.reset();
    shared_->handler->Done({request_, status_sent_ == 0 ? 499 : status_sent_, body_bytes_sent_,
                            absl::Now() - started_});
  }

  // ---- the end

  void Linger() {
    state_ = State::kLingering;
    beast::error_code ignored;  // the peer may be gone, which is what we want
    stream_.socket().shutdown(Tcp::socket::shutdown_send, ignored);
    if (gone_) return Close();
    SetTimer(kLingerMax);
    if (!reading_ahead_) buffer_.clear();
    ReadAhead();
  }

  void Close() {
    state_ = State::kClosed;
    FreeBody();
    EndReply();
    timer_.cancel();
    stream_.close();
  }

  const HttpServerOptions& options() const { return shared_->options; }

  beast::tcp_stream stream_;
  asio::steady_timer timer_;
  Shared* const shared_;
  State state_ = State::kIdle;
  beast::flat_buffer buffer_{kWriteBytes};
  std::optional<Parser> parser_;
  bool reading_ahead_ = false;
  bool gone_ = false;  // the input has ended
  uint64_t discarded_bytes_ = 0;
  uint64_t body_reserved_bytes_ = 0;

  HttpRequest request_;  // the one being answered
  bool http_1_0_ = false;
  bool keep_alive_ = false;
  absl::Time started_;
  std::atomic<bool> woken_{false};
  std::unique_ptr<HttpReply> reply_;
  bool answering_ = false;
  bool chunked_ = false;
  bool last_ = false;
  int status_sent_ = 0;
  uint64_t body_bytes_sent_ = 0;
  std::string out_;  // must stay where it is while it is written
};

class BeastHttpServer final : public HttpServer {
 public:
  BeastHttpServer(const HttpServerOptions& options, HttpHandler* handler) {
    shared_.options = options;
    shared_.handler = handler;
    const HttpPart busy = handler->Complain(
        503, absl::StrCat("more than ", options.connections_max, " connections are open"));
    HttpFraming framing;
    framing.keep_alive = false;
    framing.body_bytes = busy.body.size();
    busy_answer_ = HeadBytes(*busy.head, framing, "") + busy.body;
  }

  ~BeastHttpServer() override {
    {
      absl::MutexLock lock(&shared_.gate->mutex);
      shared_.gate->open = false;
    }
    context_->stop();
    for (std::thread& thread : threads_) thread.join();
    acceptor_.reset();
    retry_.reset();
    accept_strand_.reset();  // it belongs to the context
    context_.reset();        // ends what is left: every handler holds its connection
  }

  absl::Status Listen() {
    TANDEM_ASSIGN_OR_RETURN(rpc::HostPort listen, rpc::ParseHostPort(shared_.options.listen));
    beast::error_code error;
    const auto found = Tcp::resolver(*context_).resolve(listen.host, std::to_string(listen.port),
                                                        Tcp::resolver::passive, error);
    if (error || found.empty()) return CannotListen(error);
    const Tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor_->open(endpoint.protocol(), error);
    if (!error) acceptor_->set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_->bind(endpoint, error);
    if (!error) acceptor_->listen(kBacklog, error);
    if (error) return CannotListen(error);
    listen.port = acceptor_->local_endpoint().port();
    address_ = rpc::FormatHostPort(listen);
    Accept();
    for (int i = 0; i < shared_.options.threads; ++i)
      threads_.emplace_back([this] { context_->run(); });
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }
  int answers() const override { return shared_.answers; }

  void StopAccepting() override {
    asio::post(*accept_strand_, [this] {
      beast::error_code ignored;  // nobody could be told
      acceptor_->close(ignored);
    });
  }

 private:
  absl::Status CannotListen(const beast::error_code& error) const {
    return absl::UnavailableError(
        absl::StrCat("cannot listen for HTTP on ", shared_.options.listen, ": ", error.message()));
  }

  void Accept() {
    acceptor_->async_accept(
        asio::make_strand(*context_),
        asio::bind_executor(*accept_strand_, [this](beast::error_code error, Tcp::socket socket) {
          if (error == asio::error::operation_aborted || !acceptor_->is_open()) return;
          if (error) {
            // Out of descriptors, most likely: trying again at once would spin.
            retry_->expires_after(kAcceptRetry);
            retry_->async_wait(
                asio::bind_executor(*accept_strand_, [this](beast::error_code) { Accept(); }));
            return;
          }
          Welcome(std::move(socket));
          Accept();
        }));
  }

  void Welcome(Tcp::socket socket) {
    beast::error_code ignored;  // both are courtesies
    socket.set_option(Tcp::no_delay(true), ignored);
    if (shared_.connections < shared_.options.connections_max)
      return std::make_shared<Connection>(std::move(socket), &shared_)->Run();
    // Fits a fresh socket's buffer, so it does not block; then the socket is closed.
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(busy_answer_), ignored);
    socket.shutdown(Tcp::socket::shutdown_send, ignored);
  }

  Shared shared_;
  std::string busy_answer_;
  std::string address_;
  std::unique_ptr<asio::io_context> context_ = std::make_unique<asio::io_context>();
  std::optional<asio::strand<asio::io_context::executor_type>> accept_strand_{
      asio::make_strand(*context_)};
  std::optional<Tcp::acceptor> acceptor_{std::in_place, *context_};
  std::optional<asio::steady_timer> retry_{std::in_place, *context_};
  std::vector<std::thread> threads_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options,
                                                              HttpHandler* handler) {
  auto server = std::make_unique<BeastHttpServer>(options, handler);
  TANDEM_RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace tandem::coordinator
