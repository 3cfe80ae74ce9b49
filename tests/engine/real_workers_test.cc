// The GPU worker's program with real expert workers over real streams, and the coordinator's real
// membership between them: the oracle's tokens come out, a lost worker with a replica changes
// nothing, one without is named in time.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "coordinator/api/membership_service.h"
#include "cpu_worker/server/worker.h"
#include "lib/base/clock.h"
#include "lib/base/text_file.h"
#include "lib/rpc/engine_link.h"
#include "lib/rpc/grpc_server.h"
#include "tests/engine/harness.h"
#include "tests/engine/trace_check.h"

namespace tandem::gpu_worker {
namespace {

using engine::v1::StepPlan;
using engine::v1::StepResult;

// A loaded machine may take long to start three servers; none of this is slow by itself.
constexpr absl::Duration kWaitMax = absl::Seconds(60);
constexpr absl::Duration kStepTimeout = absl::Seconds(30);

// tandem-gpu-worker as a child process.
class GpuWorkerProcess {
 public:
  explicit GpuWorkerProcess(const std::vector<std::string>& args) {
    const char* build = std::getenv("TANDEM_BINARY_DIR");
    std::vector<std::string> argv = {
        absl::StrCat(build == nullptr ? "." : build, "/bin/tandem-gpu-worker")};
    argv.insert(argv.end(), args.begin(), args.end());
    std::vector<char*> pointers;
    for (std::string& arg : argv) pointers.push_back(arg.data());
    pointers.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::execv(pointers[0], pointers.data());
    ::_exit(127);
  }
  ~GpuWorkerProcess() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  // SIGTERM, then the exit code.
  int Stop() {
    ::kill(pid_, SIGTERM);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = 0;
};

class RealWorkersTest : public testing::Test {
 protected:
  // A model whose experts are as wide as the workers' kernels want (32 at least).
  RealWorkersTest() : golden_(LoadGolden("kimi_k2")) {}

  ~RealWorkersTest() override { StopCluster(); }

  // Ready for another StartCluster.
  void StopCluster() {
    link_.reset();
    gpu_.reset();
    cpu_.clear();
    stop_ = true;
    if (ticker_.joinable()) ticker_.join();
    if (server_ != nullptr) server_->Shutdown(absl::Seconds(1));
    stop_ = false;
  }

  void StartCluster(uint32_t replicas, const std::vector<std::string>& gpu_flags = {}) {
    coordinator::RegistryOptions options;
    options.cpu_workers_expected = 2;
    options.replicas = replicas;
    options.heartbeat_interval = absl::Milliseconds(100);
    options.lease = absl::Seconds(3);
    registry_ = std::make_unique<coordinator::Registry>(options, &base::RealClock());
    membership_ = coordinator::MakeMembershipService(registry_.get());
    auto server = rpc::GrpcServer::Start("127.0.0.1:0", {membership_.get()});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    ticker_ = std::thread([this] {
      while (!stop_) {
        registry_->Tick();
        absl::SleepFor(absl::Milliseconds(100));
      }
    });
    for (int i = 0; i < 2; ++i) cpu_.push_back(StartCpuWorker());
    std::vector<std::string> flags = {"--model",
                                      SourcePath("tests/golden/logits/kimi_k2"),
                                      "--coordinator",
                                      server_->address(),
                                      "--precision",
                                      "f32",
                                      "--threads",
                                      "1",
                                      "--kv-tokens",
                                      "1024",
                                      "--expert-patience-seconds",
                                      "1"};
    flags.insert(flags.end(), gpu_flags.begin(), gpu_flags.end());
    gpu_ = std::make_unique<GpuWorkerProcess>(flags);
    WaitReady();
    link_ = rpc::EngineLink::Make(registry_->ReadyGpuWorkers().at(0).address);
  }

  std::unique_ptr<cpu_worker::Worker> StartCpuWorker() {
    cpu_worker::WorkerOptions options;
    options.model_path = SourcePath("tests/golden/logits/kimi_k2");
    options.coordinator = server_->address();
    auto worker = cpu_worker::Worker::Start(options);
    if (!worker.ok()) ADD_FAILURE() << worker.status();
    return worker.ok() ? *std::move(worker) : nullptr;
  }

  void WaitReady() {
    const absl::Time end = absl::Now() + kWaitMax;
    while (!registry_->Readiness().ok() && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    const absl::Status ready = registry_->Readiness();
    ASSERT_TRUE(ready.ok()) << ready;
  }

  // Prefills the golden prompt as a new sequence.
  StepResult Prefill(uint64_t id, uint32_t page) {
    StepPlan plan;
    plan.add_starts()->set_sequence_id(id);
    plan.mutable_starts(0)->set_prompt_tokens(static_cast<uint32_t>(golden_.prompt_tokens));
    auto* slice = plan.add_slices();
    slice->set_sequence_id(id);
    slice->set_kind(engine::v1::SLICE_KIND_PREFILL);
    slice->mutable_token_ids()->Add(golden_.tokens.begin(),
                                    golden_.tokens.begin() + golden_.prompt_tokens);
    slice->add_new_pages(page);
    slice->set_sample(true);
    return Run(plan);
  }

  StepResult Decode(uint64_t id, size_t position) {
    StepPlan plan;
    auto* slice = plan.add_slices();
    slice->set_sequence_id(id);
    slice->set_kind(engine::v1::SLICE_KIND_DECODE);
    slice->set_start_position(static_cast<uint32_t>(position));
    slice->add_token_ids(golden_.tokens[position]);
    slice->set_sample(true);
    return Run(plan);
  }

  StepResult Run(const StepPlan& plan) {
    absl::StatusOr<StepResult> result = link_->RunStep(plan, kStepTimeout);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return {};
    EXPECT_EQ(result->status_code(), 0u) << result->status_message();
    return *std::move(result);
  }

  // The golden answer, with `in_the_middle` called after three tokens.
  void ExpectGoldenAnswer(uint64_t id, uint32_t page, const std::function<void()>& in_the_middle) {
    StepResult result = Prefill(id, page);
    for (size_t t = golden_.prompt_tokens; t < golden_.tokens.size(); ++t) {
      ASSERT_EQ(result.slices_size(), 1);
      ASSERT_EQ(result.slices(0).status_code(), 0u) << result.slices(0).status_message();
      EXPECT_EQ(result.slices(0).token_id(), golden_.tokens[t]) << "position " << t;
      if (t == static_cast<size_t>(golden_.prompt_tokens) + 3 && in_the_middle) in_the_middle();
      result = Decode(id, t);
    }
  }

  // Three sequences with the golden answer, side by side in every step; `in_the_middle` as above.
  void ExpectGoldenAnswers(const std::function<void()>& in_the_middle) {
    StepPlan plan;
    for (uint64_t id = 1; id <= 3; ++id) {
      auto* start = plan.add_starts();
      start->set_sequence_id(id);
      start->set_prompt_tokens(static_cast<uint32_t>(golden_.prompt_tokens));
      auto* slice = plan.add_slices();
      slice->set_sequence_id(id);
      slice->set_kind(engine::v1::SLICE_KIND_PREFILL);
      slice->mutable_token_ids()->Add(golden_.tokens.begin(),
                                      golden_.tokens.begin() + golden_.prompt_tokens);
      slice->add_new_pages(static_cast<uint32_t>(id));
      slice->set_sample(true);
    }
    for (size_t t = golden_.prompt_tokens; t < golden_.tokens.size(); ++t) {
      const StepResult result = Run(plan);
      ASSERT_EQ(result.slices_size(), 3);
      for (const auto& slice : result.slices()) {
        ASSERT_EQ(slice.status_code(), 0u) << slice.status_message();
        EXPECT_EQ(slice.token_id(), golden_.tokens[t]) << "position " << t;
      }
      if (t == static_cast<size_t>(golden_.prompt_tokens) + 3 && in_the_middle) in_the_middle();
      plan.Clear();
      for (uint64_t id = 1; id <= 3; ++id) {
        auto* slice = plan.add_slices();
        slice->set_sequence_id(id);
        slice->set_kind(engine::v1::SLICE_KIND_DECODE);
        slice->set_start_position(static_cast<uint32_t>(t));
        slice->add_token_ids(golden_.tokens[t]);
        slice->set_sample(true);
      }
    }
  }

  const GoldenModel golden_;
  std::unique_ptr<coordinator::Registry> registry_;
  std::shared_ptr<grpc::Service> membership_;
  std::unique_ptr<rpc::GrpcServer> server_;
  std::atomic<bool> stop_ = false;
  std::thread ticker_;
  std::vector<std::unique_ptr<cpu_worker::Worker>> cpu_;
  std::unique_ptr<GpuWorkerProcess> gpu_;
  std::unique_ptr<rpc::EngineLink> link_;
};

TEST_F(RealWorkersTest, AnswersAsTheOracleAndStopsCleanly) {
  StartCluster(/*replicas=*/1);
  if (HasFatalFailure()) return;
  ExpectGoldenAnswer(1, 0, nullptr);
  link_.reset();
  EXPECT_EQ(gpu_->Stop(), 0);
}

TEST_F(RealWorkersTest, ALostReplicaChangesNothing) {
  StartCluster(/*replicas=*/2);
  if (HasFatalFailure()) return;
  ExpectGoldenAnswer(1, 0, [this] { cpu_[0].reset(); });
}

// Over shared memory and over gRPC, with a replica lost on the way.
TEST_F(RealWorkersTest, TwoHalvesInFlightAnswerTheSame) {
  for (const std::string transport : {"shm", "grpc"}) {
    StopCluster();
    StartCluster(/*replicas=*/2, {"--half-batches", "2", "--expert-transport", transport});
    if (HasFatalFailure()) return;
    ExpectGoldenAnswers([this] { cpu_[0].reset(); });
  }
}

// The file has the last steps, is there once they are and again at the end.
TEST_F(RealWorkersTest, WritesATraceOfItsLastSteps) {
  const std::string file = testing::TempDir() + "/trace.json";
  StartCluster(/*replicas=*/1, {"--half-batches", "2", "--trace", file, "--trace-steps", "4"});
  if (HasFatalFailure()) return;
  EXPECT_TRUE(SpansOf(CheckTrace(base::ReadTextOrEmpty(file)), "steps").empty());
  ExpectGoldenAnswers(nullptr);
  const absl::Time end = absl::Now() + kWaitMax;
  const auto steps = [&] { return SpansOf(CheckTrace(base::ReadTextOrEmpty(file)), "steps"); };
  while (steps().empty() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(steps().empty());
  link_.reset();
  EXPECT_EQ(gpu_->Stop(), 0);
  const nlohmann::json events = CheckTrace(base::ReadTextOrEmpty(file));
  int whole_steps = 0;
  for (const auto& span : SpansOf(events, "steps")) {
    if (!span.at("name").get<std::string>().starts_with("step ")) continue;
    ++whole_steps;
    EXPECT_EQ(span.at("args").at("rows"), 3);
    EXPECT_EQ(span.at("args").at("halves"), 2);
  }
  EXPECT_EQ(whole_steps, 4);
  // Each MoE layer of each half asks at least one of the two workers.
  EXPECT_GE(SpansOf(events, "127.0.0.1").size(), SpansOf(events, "half ", "dispatch").size());
  EXPECT_FALSE(SpansOf(events, "half ", "dispatch").empty());
}

TEST_F(RealWorkersTest, ALostWorkerWithoutReplicaIsNamedAndReplaced) {
  StartCluster(/*replicas=*/1);
  if (HasFatalFailure()) return;
  ASSERT_EQ(Prefill(1, 0).slices(0).status_code(), 0u);
  const std::string address = cpu_[0]->address();
  cpu_[0].reset();
  const absl::Time lost = absl::Now();
  const StepResult failed = Decode(1, golden_.prompt_tokens);
  EXPECT_LT(absl::Now() - lost, absl::Seconds(15));
  ASSERT_EQ(failed.slices_size(), 1);
  EXPECT_EQ(failed.slices(0).status_code(), static_cast<uint32_t>(absl::StatusCode::kUnavailable));
  EXPECT_TRUE(absl::StrContains(failed.slices(0).status_message(), "expert"));
  EXPECT_TRUE(absl::StrContains(failed.slices(0).status_message(), address))
      << failed.slices(0).status_message();
  cpu_.push_back(StartCpuWorker());
  WaitReady();
  if (HasFatalFailure()) return;
  ExpectGoldenAnswer(2, 1, nullptr);
}

}  // namespace
}  // namespace tandem::gpu_worker
