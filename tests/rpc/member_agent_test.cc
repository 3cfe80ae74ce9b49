// The worker's agent against a scripted coordinator: registration that is refused or forgotten,
// tables that move, goodbye.
#include "lib/rpc/member_agent.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "lib/rpc/grpc_server.h"
#include "proto/membership.grpc.pb.h"

namespace tandem::rpc {
namespace {

using namespace membership::v1;

class ScriptedCoordinator final : public Membership::Service {
 public:
  grpc::Status Register(grpc::ServerContext*, const RegisterRequest* request,
                        RegisterResponse* response) override {
    absl::MutexLock lock(&mutex);
    if (refuse) return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "another model");
    ++registers;
    known = true;
    worker_id = request->worker_id();
    response->set_heartbeat_interval_ms(30);
    response->set_lease_ms(300);
    return grpc::Status::OK;
  }
  grpc::Status Heartbeat(grpc::ServerContext*, const HeartbeatRequest* request,
                         HeartbeatResponse* response) override {
    absl::MutexLock lock(&mutex);
    ++heartbeats;
    last = *request;
    response->set_known(known);
    response->set_epoch(epoch);
    return grpc::Status::OK;
  }
  grpc::Status GetPlacement(grpc::ServerContext*, const GetPlacementRequest*,
                            Placement* placement) override {
    absl::MutexLock lock(&mutex);
    ++fetches;
    placement->set_epoch(epoch);
    return grpc::Status::OK;
  }
  grpc::Status Deregister(grpc::ServerContext*, const DeregisterRequest* request,
                          DeregisterResponse*) override {
    absl::MutexLock lock(&mutex);
    goodbye = request->worker_id();
    return grpc::Status::OK;
  }

  template <typename Condition>
  bool Await(Condition condition, absl::Duration wait_max = absl::Seconds(10)) {
    absl::MutexLock lock(&mutex);
    return mutex.AwaitWithTimeout(absl::Condition(&condition), wait_max);
  }

  absl::Mutex mutex;
  bool refuse = false, known = false;
  int registers = 0, heartbeats = 0, fetches = 0;
  uint64_t epoch = 0;
  std::string worker_id, goodbye;
  HeartbeatRequest last;
};

class MemberAgentTest : public testing::Test {
 protected:
  void SetUp() override { Serve("127.0.0.1:0"); }

  void Serve(const std::string& listen) {
    auto started = GrpcServer::Start(listen, {&coordinator_});
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }

  std::unique_ptr<MemberAgent> StartAgent() {
    MemberAgentOptions options;
    options.coordinator_address = server_->address();
    options.registration.set_kind(WORKER_KIND_CPU);
    options.registration.set_address("127.0.0.1:1");
    options.on_placement = [this](std::shared_ptr<const Placement> table) {
      epoch_called_ = table->epoch();
    };
    return MemberAgent::Start(std::move(options));
  }

  void Set(const std::function<void()>& change) {
    absl::MutexLock lock(&coordinator_.mutex);
    change();
  }

  ScriptedCoordinator coordinator_;
  std::unique_ptr<GrpcServer> server_;
  std::atomic<uint64_t> epoch_called_{0};
};

TEST_F(MemberAgentTest, RegistersBeatsAndSaysGoodbye) {
  std::string id;
  {
    auto agent = StartAgent();
    id = agent->worker_id();
    EXPECT_FALSE(id.empty());
    EXPECT_TRUE(coordinator_.Await([&] { return coordinator_.heartbeats >= 3; }));
    EXPECT_EQ(agent->placement(), nullptr);
    EXPECT_EQ(coordinator_.worker_id, id);
  }
  EXPECT_EQ(coordinator_.goodbye, id);
}

TEST_F(MemberAgentTest, NewEpochIsFetchedCalledBackAndKept) {
  auto agent = StartAgent();
  ASSERT_TRUE(coordinator_.Await([&] { return coordinator_.heartbeats >= 1; }));
  Set([&] { coordinator_.epoch = 41; });
  ASSERT_TRUE(agent->RefreshPlacement(0, absl::Seconds(10)));
  EXPECT_EQ(agent->placement()->epoch(), 41u);
  EXPECT_EQ(epoch_called_, 41u);
  Set([&] { coordinator_.epoch = 42; });
  EXPECT_TRUE(agent->RefreshPlacement(41, absl::Seconds(10)));
  EXPECT_FALSE(agent->RefreshPlacement(42, absl::Milliseconds(50)));
}

TEST_F(MemberAgentTest, StateIsToldAtOnce) {
  auto agent = StartAgent();
  ASSERT_TRUE(coordinator_.Await([&] { return coordinator_.heartbeats >= 1; }));
  agent->SetState(WORKER_STATE_READY, 7, 55);
  EXPECT_TRUE(coordinator_.Await([&] {
    return coordinator_.last.state() == WORKER_STATE_READY && coordinator_.last.epoch() == 7 &&
           coordinator_.last.load_percent() == 55;
  }));
}

TEST_F(MemberAgentTest, ForgottenWorkerRegistersAgain) {
  auto agent = StartAgent();
  ASSERT_TRUE(coordinator_.Await([&] { return coordinator_.registers == 1; }));
  Set([&] { coordinator_.known = false; });
  EXPECT_TRUE(coordinator_.Await([&] { return coordinator_.registers == 2; }));
}

TEST_F(MemberAgentTest, RefusalIsToldAndAskedAgain) {
  Set([&] { coordinator_.refuse = true; });
  auto agent = StartAgent();
  const absl::Time start = absl::Now();
  while (agent->refusal().ok() && absl::Now() - start < absl::Seconds(10))
    absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(agent->refusal().code(), absl::StatusCode::kFailedPrecondition);
  Set([&] { coordinator_.refuse = false; });
  EXPECT_TRUE(coordinator_.Await([&] { return coordinator_.heartbeats >= 1; }));
  EXPECT_TRUE(agent->refusal().ok());
}

TEST_F(MemberAgentTest, OutlivesTheCoordinator) {
  const std::string address = server_->address();
  auto agent = StartAgent();
  ASSERT_TRUE(coordinator_.Await([&] { return coordinator_.heartbeats >= 1; }));
  server_.reset();
  absl::SleepFor(absl::Milliseconds(300));
  Set([&] {
    coordinator_.known = false;
    coordinator_.epoch = 5;
  });
  Serve(address);
  EXPECT_TRUE(coordinator_.Await([&] { return coordinator_.registers >= 2; }));
  EXPECT_TRUE(agent->RefreshPlacement(0, absl::Seconds(10)));
}

TEST_F(MemberAgentTest, StopsWithinItsTimeoutsWhenNobodyAnswers) {
  auto agent = StartAgent();
  ASSERT_TRUE(coordinator_.Await([&] { return coordinator_.heartbeats >= 1; }));
  server_.reset();
  const absl::Time before = absl::Now();
  agent.reset();
  EXPECT_LT(absl::Now() - before, absl::Seconds(4));
}

}  // namespace
}  // namespace tandem::rpc
