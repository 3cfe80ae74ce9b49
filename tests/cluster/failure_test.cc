// What a user sees when a process dies: a clear error in time, a cluster that comes back by itself,
// nothing left behind. Whether experts are asked through shared memory or gRPC, and whatever the
// GPU worker's backend.
#include <signal.h>

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/cluster/inference_client.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/quiz_prompts.h"

namespace tandem::cluster_test {
namespace {

struct Setting {
  std::string name;
  std::string transport;
  std::vector<std::string> flags;
  int tokens = 200;
  int kill_at_token = 20;
};

void PrintTo(const Setting& setting, std::ostream* out) { *out << setting.name; }

class FailureTest : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    ClusterOptions options;
    options.model = QuizModelPath();
    options.flags = GetParam().flags;
    options.flags.push_back(absl::StrCat("--expert-transport=", GetParam().transport));
    auto cluster = LocalCluster::Start(options);
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = std::make_unique<LocalCluster>(*std::move(cluster));
    client_ = std::make_unique<InferenceClient>(cluster_->address());
    auto requests = QuizRequests(1, GetParam().tokens, 0);
    ASSERT_TRUE(requests.ok()) << requests.status();
    request_ = (*requests)[0];
    auto baseline = client_->Generate(request_, absl::Seconds(120));
    ASSERT_TRUE(baseline.ok()) << baseline.status();
    baseline_ = baseline->ids;
    ExpectTransportInUse();
  }

  // Every answer of an expert so far has come the way this test is about.
  void ExpectTransportInUse() {
    const std::string admin = FirstOf("gpu_worker").admin_address;
    for (const std::string transport : {"shm", "grpc"}) {
      const auto answers = MetricOf(
          admin, absl::StrCat("tandem_engine_expert_answers_total{transport=\"", transport, "\"}"));
      ASSERT_TRUE(answers.ok()) << answers.status();
      if (transport == GetParam().transport) {
        EXPECT_GT(*answers, GetParam().tokens);
      } else {
        EXPECT_EQ(*answers, 0);
      }
    }
  }

  // Shared memory has no name and its sockets are abstract: nothing can stay behind, and this holds
  // it to that.
  static std::set<std::string> SharedFiles() {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
      const std::string name = entry.path().filename();
      if (name.find("tandem") != std::string::npos) names.insert(name);
    }
    return names;
  }

  ProcessInfo FirstOf(const std::string& role) {
    auto processes = cluster_->Processes();
    EXPECT_TRUE(processes.ok()) << processes.status();
    for (const auto& process : *processes) {
      if (process.role == role) return process;
    }
    ADD_FAILURE() << "no " << role;
    return {};
  }

  void ExpectCleanStop() {
    auto processes = cluster_->Processes();
    ASSERT_TRUE(processes.ok());
    std::vector<std::string> sockets;
    for (const auto& process : *processes) {
      for (std::string& name : ShmSocketsOf(process.pid)) sockets.push_back(std::move(name));
    }
    EXPECT_FALSE(sockets.empty()) << "expert workers have a socket each";
    auto code = cluster_->Stop();
    ASSERT_TRUE(code.ok()) << code.status();
    for (const std::string& name : sockets) EXPECT_FALSE(SocketExists(name)) << name;
    EXPECT_EQ(SharedFiles(), std::set<std::string>());
    for (const auto& process : *processes) {
      EXPECT_TRUE(WaitUntilGone(process.pid, absl::Seconds(5))) << process.name << " leaked";
    }
  }

  std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<InferenceClient> client_;
  inference::v1::GenerateRequest request_;
  std::vector<uint32_t> baseline_;
};

TEST_P(FailureTest, KilledExpertWorkerFailsInTimeAndTheClusterRecovers) {
  const ProcessInfo victim = FirstOf("cpu_worker");
  absl::Time killed;
  auto answer = client_->Generate(request_, absl::Seconds(60), [&](int tokens) {
    if (tokens < GetParam().kill_at_token || killed != absl::Time()) return;
    ::kill(victim.pid, SIGKILL);
    killed = absl::Now();
  });
  const absl::Duration waited = absl::Now() - killed;
  ASSERT_NE(killed, absl::Time()) << "the answer ended before the kill";
  // Either the answer survived on the restarted worker, and then it must be the same, or it failed
  // in the documented way.
  if (answer.ok()) {
    EXPECT_EQ(answer->ids, baseline_);
  } else {
    EXPECT_EQ(answer.status().code(), absl::StatusCode::kUnavailable) << answer.status();
    EXPECT_NE(answer.status().message().find("expert"), absl::string_view::npos) << answer.status();
  }
  EXPECT_LT(waited, absl::Seconds(30));
  const absl::Status ready = client_->WaitReady(absl::Seconds(60));
  ASSERT_TRUE(ready.ok()) << ready;
  auto again = client_->Generate(request_, absl::Seconds(120));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->ids, baseline_);
  ExpectCleanStop();
}

TEST_P(FailureTest, KilledGpuWorkerIsRestartedAndTheAnswerGoesOnUnchanged) {
  const ProcessInfo victim = FirstOf("gpu_worker");
  bool killed = false;
  auto answer = client_->Generate(request_, absl::Seconds(60), [&](int tokens) {
    if (tokens < GetParam().kill_at_token || killed) return;
    ::kill(victim.pid, SIGKILL);
    killed = true;
  });
  ASSERT_TRUE(killed) << "the answer ended before the kill";
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->ids, baseline_);
  EXPECT_NE(FirstOf("gpu_worker").pid, victim.pid);
  ExpectCleanStop();
}

TEST_P(FailureTest, DeadlineEndsARequestAndFreesItsPages) {
  auto answer = client_->Generate(request_, absl::Milliseconds(30));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kDeadlineExceeded) << answer.status();
  auto again = client_->Generate(request_, absl::Seconds(120));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->ids, baseline_);
  ExpectCleanStop();
}

INSTANTIATE_TEST_SUITE_P(Transports, FailureTest,
                         testing::Values(Setting{"shm", "shm", {}}, Setting{"grpc", "grpc", {}}),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Cuda, FailureTest,
                         testing::Values(Setting{"emulated", "shm", EmulatedCuda(), 6, 2}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tandem::cluster_test
