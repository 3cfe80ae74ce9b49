#include "coordinator/api/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace tandem::coordinator {
namespace {

using std::chrono::milliseconds;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

class Socket {
 public:
  explicit Socket(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval wait_max = {10, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &wait_max, sizeof wait_max);
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &wait_max, sizeof wait_max);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~Socket() { Close(); }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  void EndInput() { shutdown(fd_, SHUT_WR); }

  // False when the server has closed.
  bool Send(const std::string& bytes) {
    return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == ssize_t(bytes.size());
  }
  // Until what was read holds `end`; the rest stays for the next call. What there is at the end of
  // the connection.
  std::string ReadUntil(const std::string& end) {
    for (size_t at; (at = read_.find(end)) == std::string::npos;) {
      char buffer[4096];
      const ssize_t n = recv(fd_, buffer, sizeof buffer, 0);
      if (n <= 0) return std::exchange(read_, "");
      read_.append(buffer, n);
    }
    const size_t bytes = read_.find(end) + end.size();
    const std::string head = read_.substr(0, bytes);
    read_.erase(0, bytes);
    return head;
  }
  std::string ReadToEnd() { return ReadUntil(std::string(1, '\0')); }

 private:
  int fd_;
  std::string read_;
};

// A reply that says what the test tells it to.
struct Script {
  absl::Mutex mutex;
  std::string waiting ABSL_GUARDED_BY(mutex);
  bool ended ABSL_GUARDED_BY(mutex) = false;
  std::function<void()> wake;
  std::atomic<bool> destroyed{false};
  std::atomic<int> pings{0};
  std::atomic<uint64_t> taken_bytes{0};

  void Say(const std::string& text, bool end = false) {
    {
      absl::MutexLock lock(&mutex);
      waiting += text;
      ended = end;
    }
    wake();
  }
};

class ScriptedReply final : public HttpReply {
 public:
  explicit ScriptedReply(std::shared_ptr<Script> script) : script_(std::move(script)) {}
  ~ScriptedReply() override { script_->destroyed = true; }
  HttpPart Take(bool waited_long) override {
    absl::MutexLock lock(&script_->mutex);
    HttpPart part;
    part.body = std::exchange(script_->waiting, "");
    part.last = script_->ended;
    if (part.body.empty() && waited_long) {
      part.body = "ping ";
      ++script_->pings;
    }
    script_->taken_bytes += part.body.size();
    if (!part.empty() && !begun_) {
      part.head.emplace();
      part.head->content_type = "text/plain";
      begun_ = true;
    }
    return part;
  }

 private:
  const std::shared_ptr<Script> script_;
  bool begun_ = false;
};

// /echo answers with method and body, /stream with whatever the script says, /secret is refused.
class FakeHandler final : public HttpHandler {
 public:
  std::optional<HttpPart> Refuse(const HttpRequest& request) override {
    if (request.path == "/secret") return Complain(401, "no");
    return std::nullopt;
  }
  std::unique_ptr<HttpReply> Handle(HttpRequest request, std::function<void()> wake) override {
    if (request.path != "/stream") {
      HttpPart part;
      part.head.emplace();
      part.head->content_type = "text/plain";
      part.body = absl::StrCat(request.method, " ", request.path, " [", request.body, "]");
      return std::make_unique<WholeReply>(std::move(part));
    }
    auto script = std::make_shared<Script>();
    script->wake = std::move(wake);
    absl::MutexLock lock(&mutex_);
    scripts_.push_back(script);
    return std::make_unique<ScriptedReply>(script);
  }
  HttpPart Complain(int status, const std::string& message) override {
    HttpPart part;
    part.head.emplace();
    part.head->status = status;
    part.body = message;
    part.last = true;
    return part;
  }
  void Decorate(const HttpRequest&, HttpHead* head) override {
    head->fields.emplace_back("X-Fake", "1");
  }
  void Done(const HttpOutcome& outcome) override {
    absl::MutexLock lock(&mutex_);
    statuses_.push_back(outcome.status);
  }
  void CountConnections(int open) override { connections = open; }

  // The script of the i-th request for /stream, once it is there.
  std::shared_ptr<Script> WaitForScript(size_t i) {
    for (int tries = 0; tries < 2000; ++tries) {
      {
        absl::MutexLock lock(&mutex_);
        if (scripts_.size() > i) return scripts_[i];
      }
      absl::SleepFor(absl::Milliseconds(5));
    }
    ADD_FAILURE() << "request " << i << " did not come";
    return nullptr;
  }
  std::vector<int> statuses() {
    absl::MutexLock lock(&mutex_);
    return statuses_;
  }

  std::atomic<int> connections{0};

 private:
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<Script>> scripts_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> statuses_ ABSL_GUARDED_BY(mutex_);
};

bool Eventually(const std::function<bool()>& condition) {
  for (int tries = 0; tries < 2000; ++tries) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return false;
}

class HttpServerTest : public testing::Test {
 protected:
  void Start(HttpServerOptions options = {}) {
    auto started = HttpServer::Start(options, &handler_);
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    port_ = std::stoi(server_->address().substr(server_->address().rfind(':') + 1));
  }
  std::string Ask(const std::string& bytes) {
    Socket socket(port_);
    socket.Send(bytes);
    return socket.ReadToEnd();
  }

  FakeHandler handler_;
  std::unique_ptr<HttpServer> server_;
  int port_ = 0;
};

constexpr char kGet[] = "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n";
constexpr char kGetAndClose[] = "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
constexpr char kStreamAndClose[] = "GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
constexpr char kStream[] = "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n";

TEST_F(HttpServerTest, AnswersAndEchoesTheRequestId) {
  Start();
  const std::string answer =
      Ask("POST /echo?a=b HTTP/1.1\r\nHost: x\r\nx-request-id: abc\r\nContent-Length: "
          "2\r\nConnection: close\r\n\r\nhi");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("x-request-id: abc\r\n"));
  EXPECT_THAT(answer, HasSubstr("X-Fake: 1\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\nPOST /echo [hi]"));
}

TEST_F(HttpServerTest, KeepsConnectionsAndAnswersPipelinedRequestsInOrder) {
  Start();
  Socket socket(port_);
  std::string requests;
  for (int i = 0; i < 50; ++i)
    absl::StrAppend(&requests, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n",
                    10 + i);
  // In odd pieces, so that requests are cut anywhere.
  for (size_t at = 0; at < requests.size(); at += 37) socket.Send(requests.substr(at, 37));
  for (int i = 0; i < 50; ++i)
    EXPECT_THAT(socket.ReadUntil("]"), EndsWith(absl::StrCat("[", 10 + i, "]")));
  EXPECT_EQ(handler_.connections, 1);
}

TEST_F(HttpServerTest, PipelinedBehindAStream) {
  Start();
  Socket socket(port_);
  socket.Send(std::string(kStream) + "GET /ec");
  const auto script = handler_.WaitForScript(0);
  script->Say("hello");
  EXPECT_THAT(socket.ReadUntil("5\r\nhello\r\n"), HasSubstr("Transfer-Encoding: chunked"));
  script->Say("bye", /*end=*/true);
  EXPECT_EQ(socket.ReadUntil("0\r\n\r\n"), "3\r\nbye\r\n0\r\n\r\n");
  socket.Send("ho HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(socket.ReadUntil("]"), EndsWith("GET /echo []"));
}

TEST_F(HttpServerTest, HeadHasNoBody) {
  Start();
  Socket socket(port_);
  socket.Send("HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(socket.ReadUntil("\r\n\r\n"), HasSubstr("Content-Length: 13"));
  socket.Send(kGetAndClose);
  EXPECT_THAT(socket.ReadToEnd(), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, OldClientsGetStreamsWithoutChunks) {
  Start();
  Socket socket(port_);
  socket.Send("GET /stream HTTP/1.0\r\n\r\n");
  const auto script = handler_.WaitForScript(0);
  script->Say("hello");
  script->Say(" world", /*end=*/true);
  const std::string answer = socket.ReadToEnd();
  EXPECT_THAT(answer, HasSubstr("Connection: close"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\nhello world"));
}

TEST_F(HttpServerTest, BodiesAreBounded) {
  HttpServerOptions options;
  options.body_bytes_max = 1000;
  Start(options);
  const std::string announced =
      Ask("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n");
  EXPECT_THAT(announced, StartsWith("HTTP/1.1 413"));
  std::string chunks = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 100; ++i) chunks += "64\r\n" + std::string(100, 'a') + "\r\n";
  EXPECT_THAT(Ask(chunks), StartsWith("HTTP/1.1 413"));
  const std::string fits =
      Ask("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
          "Content-Length: 1000\r\n\r\n" +
          std::string(1000, 'a'));
  EXPECT_THAT(fits, StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, ARefusalReachesAClientThatSendsOn) {
  HttpServerOptions options;
  options.body_bytes_max = 1000;
  Start(options);
  Socket socket(port_);
  socket.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n");
  const std::string piece(100000, 'a');
  for (int i = 0; i < 100; ++i) {
    if (!socket.Send(piece)) break;
  }
  EXPECT_THAT(socket.ReadToEnd(), StartsWith("HTTP/1.1 413"));
}

TEST_F(HttpServerTest, TheSumOfBodiesIsBounded) {
  HttpServerOptions options;
  options.body_bytes_sum_max = 1500;
  Start(options);
  const std::string head = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
  Socket first(port_);
  first.Send(head);
  ASSERT_TRUE(Eventually([&] { return handler_.connections == 1; }));
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_THAT(Ask(head), StartsWith("HTTP/1.1 503"));
  first.Close();
  ASSERT_TRUE(Eventually([&] { return handler_.connections == 0; }));
  Socket second(port_);
  second.Send(head + std::string(1000, 'b'));
  EXPECT_THAT(second.ReadUntil("]"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, HeadsAreBounded) {
  Start();
  const std::string answer =
      Ask("GET /echo HTTP/1.1\r\nHost: x\r\nX-Long: " + std::string(20000, 'a') + "\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 431"));
}

TEST_F(HttpServerTest, NoHttp) {
  Start();
  for (const char* garbage :
       {"hello\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\x16\x03\x01 tls\r\n\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"}) {
    EXPECT_THAT(Ask(garbage), StartsWith("HTTP/1.1 400")) << garbage;
  }
}

TEST_F(HttpServerTest, RefusalsComeBeforeTheBodyIsRead) {
  Start();
  EXPECT_THAT(Ask("POST /secret HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"),
              StartsWith("HTTP/1.1 401"));
}

TEST_F(HttpServerTest, GoAhead) {
  Start();
  Socket socket(port_);
  socket.Send(
      "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
      "2\r\n\r\n");
  EXPECT_EQ(socket.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  socket.Send("hi");
  EXPECT_THAT(socket.ReadUntil("]"), EndsWith("[hi]"));
}

TEST_F(HttpServerTest, SlowRequestsAndIdleConnectionsEnd) {
  HttpServerOptions options;
  options.idle_max = milliseconds(100);
  options.header_wait_max = milliseconds(100);
  options.body_wait_max = milliseconds(100);
  Start(options);
  EXPECT_EQ(Ask(""), "");
  EXPECT_EQ(Ask("GET /ec"), "");
  EXPECT_EQ(Ask("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nh"), "");
  EXPECT_TRUE(Eventually([&] { return handler_.connections == 0; }));
}

TEST_F(HttpServerTest, AClientThatLeavesIsNoticedWhileNothingIsSent) {
  Start();
  Socket socket(port_);
  socket.Send(kStream);
  const auto script = handler_.WaitForScript(0);
  EXPECT_FALSE(script->destroyed);
  socket.Close();
  EXPECT_TRUE(Eventually([&] { return script->destroyed.load(); }));
  EXPECT_TRUE(Eventually([&] { return handler_.statuses() == std::vector<int>{499}; }));
  script->Say("to nobody");  // must not hurt
}

TEST_F(HttpServerTest, AHalfClosedClientGetsWhatIsReadyButNothingIsMadeForIt) {
  Start();
  Socket quick(port_);
  quick.Send(kGet);
  quick.EndInput();
  EXPECT_THAT(quick.ReadToEnd(), EndsWith("GET /echo []"));
  Socket socket(port_);
  socket.Send(kStream);
  const auto script = handler_.WaitForScript(0);
  socket.EndInput();
  EXPECT_TRUE(Eventually([&] { return script->destroyed.load(); }));
  EXPECT_EQ(socket.ReadToEnd(), "");
}

TEST_F(HttpServerTest, LongSilenceIsBroken) {
  HttpServerOptions options;
  options.ping_interval = milliseconds(20);
  Start(options);
  Socket socket(port_);
  socket.Send(kStream);
  const auto script = handler_.WaitForScript(0);
  EXPECT_TRUE(Eventually([&] { return script->pings >= 3; }));
  script->Say("end", /*end=*/true);
  EXPECT_THAT(socket.ReadUntil("0\r\n\r\n"), HasSubstr("3\r\nend\r\n"));
}

TEST_F(HttpServerTest, ASlowReaderHoldsUpNobody) {
  HttpServerOptions options;
  options.threads = 1;
  options.write_wait_max = milliseconds(500);
  Start(options);
  Socket slow(port_);
  slow.Send(kStream);
  const auto script = handler_.WaitForScript(0);
  const std::string much(1 << 20, 'x');
  for (int i = 0; i < 32; ++i) script->Say(much);
  EXPECT_THAT(Ask(kGetAndClose), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(Eventually([&] { return script->destroyed.load(); }));  // it never reads: given up
}

TEST_F(HttpServerTest, ConnectionsAreBounded) {
  HttpServerOptions options;
  options.connections_max = 2;
  Start(options);
  auto first = std::make_unique<Socket>(port_);
  Socket second(port_);
  ASSERT_TRUE(Eventually([&] { return handler_.connections == 2; }));
  Socket third(port_);
  EXPECT_THAT(third.ReadToEnd(), StartsWith("HTTP/1.1 503"));
  first.reset();
  ASSERT_TRUE(Eventually([&] { return handler_.connections == 1; }));
  EXPECT_THAT(Ask(kGetAndClose), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, EndsWithStreamsOpenAndWokenMeanwhile) {
  Start();
  std::vector<std::unique_ptr<Socket>> sockets;
  std::vector<std::shared_ptr<Script>> scripts;
  for (int i = 0; i < 20; ++i) {
    sockets.push_back(std::make_unique<Socket>(port_));
    sockets.back()->Send(kStream);
    scripts.push_back(handler_.WaitForScript(i));
  }
  std::atomic<bool> stop = false;
  std::thread talker([&] {
    while (!stop)
      for (const auto& script : scripts) script->Say("x");
  });
  absl::SleepFor(absl::Milliseconds(50));
  server_.reset();
  for (const auto& script : scripts) EXPECT_TRUE(script->destroyed);
  absl::SleepFor(absl::Milliseconds(20));
  stop = true;
  talker.join();
}

TEST_F(HttpServerTest, StopsAcceptingAndFinishes) {
  Start();
  Socket socket(port_);
  socket.Send(kStreamAndClose);
  const auto script = handler_.WaitForScript(0);
  EXPECT_EQ(server_->answers(), 1);
  server_->StopAccepting();
  script->Say("last", /*end=*/true);
  EXPECT_THAT(socket.ReadToEnd(), EndsWith("last"));
  EXPECT_TRUE(Eventually([&] { return server_->answers() == 0; }));
}

TEST_F(HttpServerTest, ManyStreamsAtOnce) {
  Start();
  constexpr int kStreams = 64;
  std::vector<std::unique_ptr<Socket>> sockets;
  for (int i = 0; i < kStreams; ++i) {
    sockets.push_back(std::make_unique<Socket>(port_));
    sockets.back()->Send(kStreamAndClose);
  }
  for (int i = 0; i < kStreams; ++i) {
    const auto script = handler_.WaitForScript(i);
    for (int j = 0; j < 100; ++j) script->Say("x");
    script->Say("", /*end=*/true);
  }
  for (const auto& socket : sockets) {
    const std::string answer = socket->ReadToEnd();
    EXPECT_EQ(
        std::count(answer.begin() + static_cast<long>(answer.find("\r\n\r\n")), answer.end(), 'x'),
        100);
  }
}

TEST_F(HttpServerTest, CannotListenTwice) {
  Start();
  HttpServerOptions options;
  options.listen = server_->address();
  const auto second = HttpServer::Start(options, &handler_);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(server_->address()));
}

}  // namespace
}  // namespace tandem::coordinator
