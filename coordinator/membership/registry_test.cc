#include "coordinator/membership/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "lib/base/log.h"

namespace tandem::coordinator {
namespace {

using namespace membership::v1;
using testing::HasSubstr;

class SimulatedClock final : public base::Clock {
 public:
  absl::Time Now() const override { return absl::FromUnixSeconds(1800000000) + since_start; }
  absl::Duration Monotonic() const override { return since_start; }
  absl::Duration since_start;
};

RegisterRequest Cpu(const std::string& id, const std::string& digest = "m1") {
  RegisterRequest request;
  request.set_worker_id(id);
  request.set_kind(WORKER_KIND_CPU);
  request.set_address(absl::StrCat(id, ":1"));
  request.set_model_digest(digest);
  request.add_moe_layers(1);
  request.add_moe_layers(2);
  request.set_experts_per_layer(8);
  request.set_bytes_per_expert(100);
  return request;
}

RegisterRequest Gpu(const std::string& id, const std::string& digest = "m1") {
  RegisterRequest request = Cpu(id, digest);
  request.set_kind(WORKER_KIND_GPU);
  return request;
}

class RegistryTest : public testing::Test {
 protected:
  void SetUp() override { base::InitLogging("test", base::LogLevel::kError, false); }

  void Make(uint32_t expected, uint32_t replicas = 1,
            absl::Duration replace_after = absl::InfiniteDuration()) {
    RegistryOptions options;
    options.cpu_workers_expected = expected;
    options.replicas = replicas;
    options.replace_after = replace_after;
    registry_ = std::make_unique<Registry>(options, &clock_);
  }

  HeartbeatResponse Beat(const std::string& id, WorkerState state, uint64_t epoch) {
    HeartbeatRequest request;
    request.set_worker_id(id);
    request.set_state(state);
    request.set_epoch(epoch);
    return registry_->Heartbeat(request);
  }
  void Ready(const std::string& id) {
    Beat(id, WORKER_STATE_READY, registry_->placement() ? registry_->placement()->epoch() : 0);
  }
  void RegisterReady(const RegisterRequest& request) {
    ASSERT_TRUE(registry_->Register(request).ok());
    Ready(request.worker_id());
  }
  std::string Reason() { return std::string(registry_->Readiness().message()); }

  // The addresses of the owners of expert `e` of the first layer.
  std::vector<std::string> Owners(int e) {
    const auto table = registry_->placement();
    std::vector<std::string> out;
    for (const uint32_t w : table->layers(0).experts(e).workers())
      out.push_back(table->workers(w).worker_id());
    return out;
  }

  SimulatedClock clock_;
  std::unique_ptr<Registry> registry_;
};

TEST_F(RegistryTest, TheFirstTableWaitsForAllExpectedWorkers) {
  Make(2);
  ASSERT_TRUE(registry_->Register(Cpu("a")).ok());
  EXPECT_EQ(registry_->placement(), nullptr);
  EXPECT_THAT(Reason(), HasSubstr("1 of 2"));
  EXPECT_EQ(Beat("a", WORKER_STATE_LOADING, 0).epoch(), 0u);
  ASSERT_TRUE(registry_->Register(Cpu("b")).ok());
  const auto table = registry_->placement();
  ASSERT_NE(table, nullptr);
  EXPECT_EQ(table->layers_size(), 2);
  EXPECT_EQ(table->layers(1).layer(), 2u);
  EXPECT_EQ(table->layers(0).experts_size(), 8);
  EXPECT_EQ(table->workers_size(), 2);
  EXPECT_FALSE(table->workers(0).ready());
  EXPECT_EQ(Beat("a", WORKER_STATE_LOADING, 0).epoch(), table->epoch());
}

TEST_F(RegistryTest, ReadyWhenAllHaveLoadedTheirTable) {
  Make(2);
  ASSERT_TRUE(registry_->Register(Cpu("a")).ok());
  ASSERT_TRUE(registry_->Register(Cpu("b")).ok());
  const uint64_t dealt = registry_->placement()->epoch();
  Beat("a", WORKER_STATE_READY, dealt - 1);  // ready, but for an older table
  EXPECT_EQ(registry_->placement()->epoch(), dealt);
  Beat("a", WORKER_STATE_READY, dealt);
  EXPECT_GT(registry_->placement()->epoch(), dealt);
  EXPECT_THAT(Reason(), HasSubstr("8 of 16 experts are on no ready CPU worker: b is loading"));
  Beat("b", WORKER_STATE_READY,
       dealt);  // a's readiness moved the epoch; b need not load anything for it
  EXPECT_THAT(Reason(), HasSubstr("no GPU worker"));
  RegisterReady(Gpu("g"));
  EXPECT_TRUE(registry_->Readiness().ok()) << registry_->Readiness();
  const uint64_t epoch = registry_->placement()->epoch();
  Ready("a");
  Ready("b");
  EXPECT_EQ(registry_->placement()->epoch(), epoch) << "nothing changed, so neither does the epoch";
}

TEST_F(RegistryTest, AnotherModelIsRefusedByName) {
  Make(1);
  ASSERT_TRUE(registry_->Register(Cpu("a", "m1")).ok());
  const auto refused = registry_->Register(Gpu("g", "m2"));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  for (const char* part : {"g", "m2", "m1", "worker a"}) {
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(part));
  }
  RegisterRequest odd = Cpu("c");
  odd.set_experts_per_layer(9);
  EXPECT_EQ(registry_->Register(odd).status().code(), absl::StatusCode::kFailedPrecondition);
  registry_->Deregister("a");
  EXPECT_TRUE(registry_->Register(Cpu("b", "m2")).ok()) << "nobody of the old model is left";
  EXPECT_EQ(registry_->placement()->model_digest(), "m2");
}

TEST_F(RegistryTest, AnotherRecipeIsRefused) {
  RegistryOptions options;
  options.recipe_digest = "r1";
  Registry with_recipe(options, &clock_);
  RegisterRequest request = Cpu("a");
  request.set_recipe_digest("r2");
  const auto refused = with_recipe.Register(request);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::string(refused.status().message()),
            "worker a runs recipe r2, expected the coordinator's: r1");
  EXPECT_THAT(std::string(with_recipe.Register(Gpu("g")).status().message()),
              HasSubstr("runs recipe none, expected the coordinator's: r1"));
  request.set_recipe_digest("r1");
  EXPECT_TRUE(with_recipe.Register(request).ok());
  Make(1);
  EXPECT_THAT(std::string(registry_->Register(request).status().message()),
              HasSubstr("runs recipe r1, expected the coordinator's: none"));
}

TEST_F(RegistryTest, SenselessRegistrationsAreRefused) {
  Make(1);
  const auto code = [&](const std::function<void(RegisterRequest*)>& spoil) {
    RegisterRequest request = Cpu("a");
    spoil(&request);
    return registry_->Register(request).status().code();
  };
  const auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](auto* r) { r->set_worker_id(""); }), kBad);
  EXPECT_EQ(code([](auto* r) { r->set_worker_id(std::string(1000, 'x')); }), kBad);
  EXPECT_EQ(code([](auto* r) { r->set_kind(WORKER_KIND_UNSPECIFIED); }), kBad);
  EXPECT_EQ(code([](auto* r) { r->clear_address(); }), kBad);
  EXPECT_EQ(code([](auto* r) { r->clear_model_digest(); }), kBad);
  EXPECT_EQ(code([](auto* r) { r->set_experts_per_layer(0xFFFFFFFF); }), kBad);
  EXPECT_EQ(code([](auto* r) { r->set_moe_layers(1, 1); }), kBad);
  EXPECT_EQ(code([](auto* r) { r->clear_moe_layers(); }), kBad);
}

TEST_F(RegistryTest, ASilentWorkerIsLostWhenItsLeaseIsOver) {
  Make(1);
  RegisterReady(Cpu("a"));
  RegisterReady(Gpu("g"));
  clock_.since_start += absl::Seconds(2);
  Ready("g");
  registry_->Tick();
  EXPECT_TRUE(registry_->Readiness().ok());
  clock_.since_start += absl::Seconds(2);
  registry_->Tick();
  EXPECT_THAT(Reason(), HasSubstr("16 of 16 experts are on no ready CPU worker: a is lost"));
  EXPECT_FALSE(Beat("a", WORKER_STATE_READY, 1).known());
  EXPECT_EQ(registry_->placement()->layers(0).experts(0).workers_size(), 0);
}

TEST_F(RegistryTest, ARestartedWorkerTakesTheLostSeatAndNothingElseMoves) {
  Make(3);
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(registry_->Register(Cpu(id)).ok());
  for (const char* id : {"a", "b", "c"}) Ready(id);
  RegisterReady(Gpu("g"));
  ASSERT_TRUE(registry_->Readiness().ok());
  std::vector<std::vector<std::string>> before;
  for (int e = 0; e < 8; ++e) before.push_back(Owners(e));
  registry_->Deregister("b");
  EXPECT_FALSE(registry_->Readiness().ok());
  ASSERT_TRUE(registry_->Register(Cpu("b2")).ok());
  EXPECT_THAT(Reason(), HasSubstr("b2 is loading"));
  Ready("b2");
  EXPECT_TRUE(registry_->Readiness().ok());
  for (int e = 0; e < 8; ++e) {
    EXPECT_EQ(Owners(e)[0], before[e][0] == "b" ? "b2" : before[e][0]);
  }
}

TEST_F(RegistryTest, AWorkerAtTheAddressOfAnotherReplacesItAtOnce) {
  Make(2);
  ASSERT_TRUE(registry_->Register(Cpu("a")).ok());
  ASSERT_TRUE(registry_->Register(Cpu("b")).ok());
  RegisterRequest successor = Cpu("b2");
  successor.set_address("b:1");
  ASSERT_TRUE(registry_->Register(successor).ok());
  EXPECT_EQ(registry_->Summary().cpu_workers, 2u);
  EXPECT_EQ(registry_->placement()->workers(1).worker_id(), "b2");
  EXPECT_FALSE(Beat("b", WORKER_STATE_READY, 1).known());
}

TEST_F(RegistryTest, WithReplicasOneLossLeavesTheClusterReady) {
  Make(2, 2);
  ASSERT_TRUE(registry_->Register(Cpu("a")).ok());
  ASSERT_TRUE(registry_->Register(Cpu("b")).ok());
  Ready("a");
  Ready("b");
  RegisterReady(Gpu("g"));
  registry_->Deregister("a");
  EXPECT_TRUE(registry_->Readiness().ok());
  EXPECT_THAT(Owners(0), testing::ElementsAre("b"));
}

TEST_F(RegistryTest, ASpareTakesOverAtOnce) {
  Make(1);
  RegisterReady(Cpu("a"));
  ASSERT_TRUE(registry_->Register(Cpu("spare")).ok());
  EXPECT_EQ(registry_->Summary().cpu_workers, 2u);
  EXPECT_EQ(registry_->Summary().cpu_workers_ready, 1u);
  registry_->Deregister("a");
  EXPECT_THAT(Owners(0), testing::ElementsAre("spare"));
}

TEST_F(RegistryTest, OverdueExpertsAreDealtToTheOthers) {
  Make(2, 1, absl::Seconds(10));
  ASSERT_TRUE(registry_->Register(Cpu("a")).ok());
  ASSERT_TRUE(registry_->Register(Cpu("b")).ok());
  Ready("a");
  Ready("b");
  registry_->Deregister("b");
  clock_.since_start += absl::Seconds(9);
  Ready("a");
  registry_->Tick();
  EXPECT_EQ(registry_->placement()->workers_size(), 1);
  EXPECT_EQ(registry_->Summary().experts_uncovered, 8u);
  clock_.since_start += absl::Seconds(2);
  Beat("a", WORKER_STATE_READY, registry_->placement()->epoch());
  registry_->Tick();
  for (int e = 0; e < 8; ++e) EXPECT_THAT(Owners(e), testing::ElementsAre("a"));
  EXPECT_EQ(registry_->Summary().experts_uncovered, 16u) << "a has not loaded the new ones yet";
  Ready("a");
  EXPECT_EQ(registry_->Summary().experts_uncovered, 0u);
}

TEST_F(RegistryTest, ExpertsThatCannotHaveTheirReplicasAreCountedAndSaidOnce) {
  base::InitLogging("test", base::LogLevel::kWarning, false);
  Make(2, 2, absl::Seconds(10));
  testing::internal::CaptureStderr();
  RegisterReady(Cpu("a"));
  RegisterReady(Cpu("b"));
  EXPECT_EQ(registry_->Summary().experts_below_replicas, 0u);
  registry_->Deregister("b");
  EXPECT_EQ(registry_->Summary().experts_below_replicas, 16u);
  clock_.since_start += absl::Seconds(11);  // dealt to the others: there is one, which has them all
  Ready("a");
  registry_->Tick();
  Ready("a");
  EXPECT_EQ(registry_->Summary().experts_below_replicas, 16u);
  const std::string log = testing::internal::GetCapturedStderr();
  const size_t first = log.find("experts_below_replicas");
  EXPECT_THAT(log, HasSubstr("experts_below_replicas program=test experts=16 replicas=2"));
  EXPECT_EQ(log.find("experts_below_replicas", first + 1), std::string::npos) << log;
}

TEST_F(RegistryTest, ChangesAreTold) {
  int changes = 0;
  RegistryOptions options;
  options.on_change = [&changes] { ++changes; };
  registry_ = std::make_unique<Registry>(options, &clock_);
  ASSERT_TRUE(registry_->Register(Gpu("g")).ok());
  EXPECT_EQ(changes, 1);
  Beat("g", WORKER_STATE_READY, 0);
  EXPECT_EQ(changes, 2);
  Beat("g", WORKER_STATE_READY, 0);
  EXPECT_EQ(changes, 2);
  clock_.since_start += absl::Seconds(4);
  registry_->Tick();
  EXPECT_EQ(changes, 3);
  EXPECT_TRUE(registry_->ReadyGpuWorkers().empty());
}

TEST_F(RegistryTest, TooLittleMemoryIsTheReason) {
  Make(1);
  RegisterRequest small = Cpu("a");
  small.set_expert_memory_bytes(1550);
  ASSERT_TRUE(registry_->Register(small).ok());
  EXPECT_THAT(Reason(), HasSubstr("found memory for 15"));
  ASSERT_TRUE(registry_->Register(Cpu("b")).ok()) << "another worker helps";
  EXPECT_NE(registry_->placement(), nullptr);
}

TEST_F(RegistryTest, NoExpertsNeedNoCpuWorkers) {
  Make(0);
  RegisterRequest gpu = Gpu("g");
  gpu.clear_moe_layers();
  gpu.clear_experts_per_layer();
  RegisterReady(gpu);
  EXPECT_TRUE(registry_->Readiness().ok()) << registry_->Readiness();
}

TEST_F(RegistryTest, ARestartedCoordinatorHasHigherEpochs) {
  Make(1);
  RegisterReady(Cpu("a"));
  const uint64_t epoch = registry_->placement()->epoch();
  clock_.since_start += absl::Seconds(1);
  Make(1);
  RegisterReady(Cpu("a"));
  EXPECT_GT(registry_->placement()->epoch(), epoch);
}

// Whatever happens to workers, the table stays sound: indices in range, owners distinct and
// registered, epochs only rise.
TEST_F(RegistryTest, RandomLifeKeepsTheTableSound) {
  std::mt19937 random(3);
  for (int round = 0; round < 20; ++round) {
    Make(1 + random() % 3, 1, random() % 2 ? absl::Seconds(5) : absl::InfiniteDuration());
    uint64_t epoch_seen = 0;
    for (int i = 0; i < 400; ++i) {
      const std::string id = absl::StrCat("w", random() % 6);
      switch (random() % 5) {
        case 0:
          (void)registry_->Register(Cpu(id));
          break;
        case 1:
          Beat(id, static_cast<WorkerState>(1 + random() % 3), epoch_seen);
          break;
        case 2:
          registry_->Deregister(id);
          break;
        case 3:
          clock_.since_start += absl::Milliseconds(random() % 2000);
          break;
        case 4:
          registry_->Tick();
          break;
      }
      const auto table = registry_->placement();
      if (table == nullptr) continue;
      ASSERT_GE(table->epoch(), epoch_seen);
      epoch_seen = table->epoch();
      for (const LayerPlacement& layer : table->layers()) {
        for (const ExpertReplicas& replicas : layer.experts()) {
          ASSERT_LE(replicas.workers_size(), 1);
          for (const uint32_t w : replicas.workers()) ASSERT_LT(w, uint32_t(table->workers_size()));
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::coordinator
