#include "lib/rpc/admin_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>

#include "absl/strings/str_cat.h"

namespace tandem::rpc {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// A socket to the server, so that the tests can misbehave.
class Socket {
 public:
  explicit Socket(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval wait_max = {5, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &wait_max, sizeof wait_max);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Socket() { close(fd_); }
  bool connected() const { return connected_; }

  void Send(const std::string& bytes) {
    EXPECT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), ssize_t(bytes.size()));
  }

  std::string ReadToEnd() {
    std::string all;
    char buffer[4096];
    for (ssize_t n; (n = recv(fd_, buffer, sizeof buffer, 0)) > 0;) all.append(buffer, n);
    return all;
  }

 private:
  int fd_;
  bool connected_ = false;
};

std::string Get(int port, const std::string& target, const std::string& method = "GET") {
  Socket socket(port);
  socket.Send(
      absl::StrCat(method, " ", target, " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  return socket.ReadToEnd();
}

class AdminServerTest : public testing::Test {
 protected:
  void SetUp() override {
    metrics_.Counter("tandem_test_total", "Tests.").Increment(3);
    AdminOptions options;
    options.metrics = &metrics_;
    options.ready = [this] {
      return ready_ ? absl::OkStatus() : absl::UnavailableError("no \"GPU\" worker");
    };
    auto started = AdminServer::Start(std::move(options));
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }

  telemetry::Metrics metrics_;
  std::atomic<bool> ready_{false};
  std::unique_ptr<AdminServer> server_;
};

TEST_F(AdminServerTest, MetricsAreText) {
  const std::string answer = Get(server_->port(), "/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(answer, HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(answer, HasSubstr("tandem_test_total 3"));
}

TEST_F(AdminServerTest, AliveIsNotReady) {
  EXPECT_THAT(Get(server_->port(), "/healthz"), StartsWith("HTTP/1.1 200"));
  const std::string answer = Get(server_->port(), "/readyz");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(answer, HasSubstr("no \\\"GPU\\\" worker"));
  ready_ = true;
  EXPECT_THAT(Get(server_->port(), "/readyz"), HasSubstr("{\"status\":\"ok\"}"));
}

TEST_F(AdminServerTest, OtherPathsAndMethodsAreRefused) {
  EXPECT_THAT(Get(server_->port(), "/etc/passwd"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get(server_->port(), "/metrics", "DELETE"), StartsWith("HTTP/1.1 405"));
  const std::string head = Get(server_->port(), "/healthz", "HEAD");
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(head, testing::EndsWith("\r\n\r\n"));
}

TEST_F(AdminServerTest, OneConnectionMayAskSeveralTimes) {
  Socket socket(server_->port());
  socket.Send(
      "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: "
      "close\r\n\r\n");
  const std::string answers = socket.ReadToEnd();
  EXPECT_NE(answers.find("HTTP/1.1 200"), answers.rfind("HTTP/1.1 200"));
}

TEST_F(AdminServerTest, GarbageAndHugeHeadersEndTheConnectionOnly) {
  Socket garbage(server_->port());
  garbage.Send("\x16\x03\x01 not http at all\r\n\r\n");
  EXPECT_EQ(garbage.ReadToEnd(), "");
  Socket huge(server_->port());
  huge.Send(absl::StrCat("GET / HTTP/1.1\r\nX: ", std::string(20000, 'a')));
  huge.ReadToEnd();
  EXPECT_THAT(Get(server_->port(), "/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(AdminServerTest, IdleConnectionsAreBounded) {
  std::vector<std::unique_ptr<Socket>> idle;
  for (int i = 0; i < 64; ++i) {
    idle.push_back(std::make_unique<Socket>(server_->port()));
    ASSERT_TRUE(idle.back()->connected());
  }
  // The 65th is closed at once.
  Socket extra(server_->port());
  EXPECT_EQ(extra.ReadToEnd(), "");
  idle.clear();
  std::string answer;
  for (int tries = 0; tries < 50 && answer.empty(); ++tries) {
    usleep(20000);
    Socket again(server_->port());
    const std::string request = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    again.Send(request);
    answer = again.ReadToEnd();
  }
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
}

TEST_F(AdminServerTest, APortInUseIsSaid) {
  AdminOptions options;
  options.listen = absl::StrCat("127.0.0.1:", server_->port());
  const auto second = AdminServer::Start(std::move(options));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(absl::StrCat(server_->port())));
}

}  // namespace
}  // namespace tandem::rpc
