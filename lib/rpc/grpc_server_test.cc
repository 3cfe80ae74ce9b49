#include "lib/rpc/grpc_server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/rpc/channel.h"
#include "proto/membership.grpc.pb.h"

namespace tandem::rpc {
namespace {

using membership::v1::Membership;

class SlowMembership final : public Membership::Service {
 public:
  grpc::Status Heartbeat(grpc::ServerContext* context,
                         const membership::v1::HeartbeatRequest* request,
                         membership::v1::HeartbeatResponse* response) override {
    for (uint32_t i = 0; i < request->load_percent() && !context->IsCancelled(); ++i) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    response->set_known(true);
    return grpc::Status::OK;
  }
};

// grpc.health.v1.HealthCheckRequest{service = 1} and HealthCheckResponse{status = 1} are small
// enough to write by hand; the proto itself is not in Debian's development package.
std::string HealthOf(GrpcServer& server, const std::string& service) {
  auto channel = MakeChannel(server.address());
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  grpc::CompletionQueue queue;
  std::string request_bytes;
  if (!service.empty())
    request_bytes =
        absl::StrCat("\x0A", std::string(1, static_cast<char>(service.size())), service);
  const grpc::Slice slice(request_bytes);
  const grpc::ByteBuffer request(&slice, 1);
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return absl::StrCat("code ", static_cast<int>(status.error_code()));
  std::vector<grpc::Slice> slices;
  response.Dump(&slices);
  std::string bytes;
  for (const grpc::Slice& s : slices)
    bytes.append(reinterpret_cast<const char*>(s.begin()), s.size());
  if (bytes == std::string("\x08\x01", 2)) return "SERVING";
  if (bytes == std::string("\x08\x02", 2)) return "NOT_SERVING";
  return "?";
}

absl::StatusOr<bool> Beat(const std::string& address, uint32_t ten_ms) {
  auto stub = Membership::NewStub(MakeChannel(address));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  context.set_wait_for_ready(true);  // on a busy machine the first attempt to connect may be late
  membership::v1::HeartbeatRequest request;
  request.set_load_percent(ten_ms);
  membership::v1::HeartbeatResponse response;
  const grpc::Status status = stub->Heartbeat(&context, request, &response);
  if (!status.ok())
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  return response.known();
}

TEST(GrpcServerTest, ServesOnAPortOfItsOwn) {
  SlowMembership service;
  auto server = GrpcServer::Start("127.0.0.1:0", {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_GT((*server)->port(), 0);
  EXPECT_EQ((*server)->address(), absl::StrCat("127.0.0.1:", (*server)->port()));
  EXPECT_TRUE(Beat((*server)->address(), 0).ok());
}

TEST(GrpcServerTest, TakesAllDescriptorsItMayHave) {
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 256);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  SlowMembership service;
  auto server = GrpcServer::Start("127.0.0.1:0", {&service}, Traffic::kQuiet);
  ASSERT_TRUE(server.ok()) << server.status();
  rlimit now = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &now), 0);
  EXPECT_EQ(now.rlim_cur, limit.rlim_max);
  EXPECT_TRUE(Beat((*server)->address(), 0).ok());
}

TEST(GrpcServerTest, TwoServersDoNotShareAPort) {
  SlowMembership a, b;
  auto first = GrpcServer::Start("127.0.0.1:0", {&a});
  ASSERT_TRUE(first.ok());
  auto second = GrpcServer::Start((*first)->address(), {&b});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr((*first)->address()));
}

TEST(GrpcServerTest, AddressesThatAreNoneAreRefused) {
  SlowMembership service;
  EXPECT_EQ(GrpcServer::Start("nonsense", {&service}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(GrpcServerTest, UnixSocketsWork) {
  SlowMembership service;
  const std::string path =
      std::filesystem::temp_directory_path() / absl::StrCat("tandem_grpc_", getpid(), ".sock");
  auto server = GrpcServer::Start("unix:" + path, {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_TRUE(Beat((*server)->address(), 0).ok());
  (*server)->Shutdown(absl::ZeroDuration());
  std::filesystem::remove(path);
}

TEST(GrpcServerTest, HealthIsSetForAllServicesAndForNone) {
  SlowMembership service;
  auto server = *GrpcServer::Start("127.0.0.1:0", {&service});
  EXPECT_EQ(HealthOf(*server, ""), "NOT_SERVING");
  EXPECT_EQ(HealthOf(*server, "tandem.membership.v1.Membership"), "NOT_SERVING");
  server->SetServing(true);
  EXPECT_EQ(HealthOf(*server, ""), "SERVING");
  EXPECT_EQ(HealthOf(*server, "tandem.membership.v1.Membership"), "SERVING");
  EXPECT_EQ(HealthOf(*server, "no.such.Service"), "code 5");
  server->SetServing(false);
  EXPECT_EQ(HealthOf(*server, ""), "NOT_SERVING");
}

TEST(GrpcServerTest, ShutdownLetsRunningCallsFinishWithinTheGrace) {
  SlowMembership service;
  auto server = *GrpcServer::Start("127.0.0.1:0", {&service});
  absl::StatusOr<bool> answer = absl::UnknownError("not set");
  std::thread caller([&, address = server->address()] { answer = Beat(address, 30); });
  absl::SleepFor(absl::Milliseconds(150));
  server->Shutdown(absl::Seconds(5));
  caller.join();
  EXPECT_TRUE(answer.ok()) << answer.status();
}

TEST(GrpcServerTest, ShutdownCancelsWhatOutlastsTheGrace) {
  SlowMembership service;
  auto server = *GrpcServer::Start("127.0.0.1:0", {&service});
  absl::StatusOr<bool> answer = true;
  std::thread caller([&, address = server->address()] { answer = Beat(address, 800); });
  absl::SleepFor(absl::Milliseconds(150));
  const absl::Time before = absl::Now();
  server->Shutdown(absl::Milliseconds(100));
  EXPECT_LT(absl::Now() - before, absl::Seconds(3));
  caller.join();
  EXPECT_FALSE(answer.ok());
}

}  // namespace
}  // namespace tandem::rpc
