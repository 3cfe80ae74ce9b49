// The program itself against a coordinator of the test's own: start, placement, answers, memory,
// idleness, drain, and how it refuses to start.
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "lib/experts/expert_store.h"
#include "lib/experts/test_model.h"
#include "lib/kernels/expert_grid.h"
#include "lib/model/container_builders.h"
#include "lib/rpc/grpc_server.h"
#include "lib/rpc/tensor_frame.h"
#include "lib/rpc/transport.h"
#include "lib/tensor/codec.h"
#include "proto/membership.grpc.pb.h"

namespace tandem::cpu_worker {
namespace {

using membership::v1::WorkerState;

// Answers one worker: gives it every expert in epoch 1, then whatever the test sets.
class TestCoordinator final : public membership::v1::Membership::Service {
 public:
  grpc::Status Register(grpc::ServerContext*, const membership::v1::RegisterRequest* request,
                        membership::v1::RegisterResponse* response) override {
    absl::MutexLock lock(&mutex_);
    registration_ = *request;
    if (placement_.epoch() == 0) PlaceFirst(request->experts_per_layer());
    response->set_heartbeat_interval_ms(200);
    response->set_lease_ms(5000);
    return grpc::Status::OK;
  }
  grpc::Status Heartbeat(grpc::ServerContext*, const membership::v1::HeartbeatRequest* request,
                         membership::v1::HeartbeatResponse* response) override {
    absl::MutexLock lock(&mutex_);
    last_ = *request;
    if (request->state() == membership::v1::WORKER_STATE_DRAINING) drained_ = true;
    response->set_known(true);
    response->set_epoch(placement_.epoch());
    return grpc::Status::OK;
  }
  grpc::Status Deregister(grpc::ServerContext*, const membership::v1::DeregisterRequest*,
                          membership::v1::DeregisterResponse*) override {
    absl::MutexLock lock(&mutex_);
    deregistered_ = true;
    return grpc::Status::OK;
  }
  grpc::Status GetPlacement(grpc::ServerContext*, const membership::v1::GetPlacementRequest*,
                            membership::v1::Placement* response) override {
    absl::MutexLock lock(&mutex_);
    *response = placement_;
    return grpc::Status::OK;
  }

  // The worker holds the first `experts` of every layer under a new epoch.
  void PlaceFirst(uint32_t experts) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    membership::v1::Placement next;
    next.set_epoch(placement_.epoch() + 1);
    next.set_model_digest(registration_.model_digest());
    membership::v1::PlacedWorker* worker = next.add_workers();
    worker->set_worker_id(registration_.worker_id());
    worker->set_address(registration_.address());
    for (uint32_t layer : registration_.moe_layers()) {
      membership::v1::LayerPlacement* placed = next.add_layers();
      placed->set_layer(layer);
      for (uint32_t e = 0; e < registration_.experts_per_layer(); ++e) {
        membership::v1::ExpertReplicas* replicas = placed->add_experts();
        if (e < experts) replicas->add_workers(0);
      }
    }
    placement_ = next;
  }

  bool WaitFor(const std::function<bool()>& condition) {
    const absl::Time end = absl::Now() + absl::Seconds(60);
    while (absl::Now() < end) {
      {
        absl::MutexLock lock(&mutex_);
        if (condition()) return true;
      }
      absl::SleepFor(absl::Milliseconds(20));
    }
    return false;
  }
  bool WaitReady(uint64_t epoch) {
    return WaitFor([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return last_.state() == membership::v1::WORKER_STATE_READY && last_.epoch() == epoch;
    });
  }

  absl::Mutex mutex_;
  membership::v1::RegisterRequest registration_;
  membership::v1::HeartbeatRequest last_;
  membership::v1::Placement placement_;
  bool drained_ = false;
  bool deregistered_ = false;
};

// The program as a child process with its stderr in a file.
class Process {
 public:
  Process(std::vector<std::string> arguments, const std::string& stderr_path)
      : stderr_path_(stderr_path) {
    const char* build = std::getenv("TANDEM_BINARY_DIR");
    const std::string program =
        std::string(build == nullptr ? "." : build) + "/bin/tandem-cpu-worker";
    arguments.insert(arguments.begin(), program);
    // All memory is allocated before the fork: another thread may hold the allocator's lock at that
    // moment.
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const int fd = open(stderr_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    pid_ = fork();
    if (pid_ != 0) {
      close(fd);
      return;
    }
    dup2(fd, 2);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  ~Process() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }

  void Signal(int signal) { kill(pid_, signal); }
  // The exit code, -1 when it ended otherwise or not within `wait_max`.
  int Wait(absl::Duration wait_max) {
    const absl::Time end = absl::Now() + wait_max;
    int status = 0;
    while (absl::Now() < end) {
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      }
      absl::SleepFor(absl::Milliseconds(10));
    }
    return -1;
  }
  // A field of /proc/<pid>/status in KiB.
  int64_t StatusKiB(const std::string& field) const {
    std::ifstream file("/proc/" + std::to_string(pid_) + "/status");
    std::string name;
    int64_t kib = 0;
    for (std::string line; std::getline(file, line);) {
      std::istringstream words(line);
      words >> name >> kib;
      if (name == field + ":") return kib;
    }
    return 0;
  }
  // Seconds of processor time used so far.
  double CpuSeconds() const {
    std::ifstream file("/proc/" + std::to_string(pid_) + "/stat");
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    std::istringstream words(text.substr(text.rfind(')') + 2));
    std::string skipped;
    for (int i = 0; i < 11; ++i) words >> skipped;  // fields 3..13; 14 and 15 are utime and stime
    double user = 0, system = 0;
    words >> user >> system;
    return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  std::string Stderr() const {
    std::ifstream file(stderr_path_);
    return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  }

 private:
  const std::string stderr_path_;
  pid_t pid_ = -1;
};

// About 53 MB of routed experts.
ModelConfig LargerConfig() {
  ModelConfig config = TestConfig();
  config.hidden_size = 1024;
  config.moe_intermediate_size = 512;
  config.n_routed_experts = 16;
  return config;
}

void WriteModel(const ModelConfig& config, const std::string& path) {
  SynthOptions options;
  options.config = config;
  options.format = *ParseSynthFormat("q8_0", false);
  options.out = path;
  const auto written = SynthesizeModel(options, [](int64_t, int64_t) { return true; });
  ASSERT_TRUE(written.ok()) << written.status();
}

experts::v1::ExpertRows CallFor(const std::string& digest, uint64_t epoch, uint32_t expert) {
  experts::v1::ExpertRows call;
  call.set_epoch(epoch);
  call.set_model_digest(digest);
  call.set_layer(1);
  call.set_reply_form(experts::v1::REPLY_FORM_GRID_SUM);
  call.set_activation_form(experts::v1::ACTIVATION_FORM_NATIVE);
  std::vector<uint16_t> x(1024);
  for (size_t k = 0; k < x.size(); ++k) x[k] = F32ToBF16(std::sin(static_cast<float>(k)));
  rpc::WritePayload(tensor::v1::WIRE_DTYPE_BF16, 1, 1024, x.data(), call.mutable_x());
  call.add_experts_per_row(1);
  call.add_expert_ids(expert);
  call.add_expert_weights(1.0f);
  call.add_grid_exponents(kernels::GridExponent(1.0f, 1.0f, kTestTopK));
  return call;
}

absl::StatusOr<rpc::Answer> Ask(rpc::Transport* transport, const experts::v1::ExpertRows& call) {
  absl::Notification done;
  absl::StatusOr<rpc::Answer> answer;
  std::vector<const std::byte*> rows;
  transport->Call(rpc::OutgoingOf(call, &rows).value(), absl::Seconds(20), [&](auto sums) {
    answer = std::move(sums);
    done.Notify();
  });
  done.WaitForNotification();
  return answer;
}

std::string SumBytes(const rpc::Answer& answer) {
  return std::string(reinterpret_cast<const char*>(answer.sums.data), kTestHidden * 4);
}

TEST(WorkerProcess, LivesFromPlacementToDrain) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteModel(LargerConfig(), path);
  TestCoordinator coordinator;
  auto server = rpc::GrpcServer::Start("127.0.0.1:0", {&coordinator});
  ASSERT_TRUE(server.ok()) << server.status();
  Process process(
      {"--model", path, "--coordinator", (*server)->address(), "--threads", "2", "--name", "cpu-0"},
      folder.path() + "/stderr");
  ASSERT_TRUE(coordinator.WaitReady(1)) << process.Stderr();
  std::string address, digest;
  int64_t expert_bytes = 0;
  {
    absl::MutexLock lock(&coordinator.mutex_);
    EXPECT_EQ(coordinator.registration_.worker_id(), "cpu-0");
    EXPECT_EQ(coordinator.registration_.experts_per_layer(), 16u);
    EXPECT_EQ(coordinator.registration_.moe_layers_size(), 2);
    address = coordinator.registration_.address();
    digest = coordinator.registration_.model_digest();
    expert_bytes = static_cast<int64_t>(coordinator.registration_.bytes_per_expert()) * 32;
  }
  const auto transport = rpc::MakeGrpcTransport(address);
  const auto first = Ask(transport.get(), CallFor(digest, 1, 9));
  ASSERT_TRUE(first.ok()) << first.status();
  // Stays connected from here on, so that what follows is true of a worker with callers.
  const auto shm = rpc::MakeTransport(address, rpc::TransportChoice::kShm);
  const auto same = Ask(shm.get(), CallFor(digest, 1, 9));
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_TRUE(same->over_shm);
  EXPECT_EQ(SumBytes(*same), SumBytes(*first));

  // Memory: 1.15 times the experts and 64 MiB for everything else.
  EXPECT_GT(expert_bytes, 50 << 20);
#if !defined(__SANITIZE_ADDRESS__)
  EXPECT_LT(process.StatusKiB("VmHWM") * 1024, expert_bytes * 1.15 + (64 << 20));
#endif

  // Idleness: at most 1 % of a core, with five heartbeats a second.
  absl::SleepFor(absl::Milliseconds(300));
  const double before = process.CpuSeconds();
  absl::SleepFor(absl::Seconds(5));
  EXPECT_LE(process.CpuSeconds() - before, 0.05);

  // A smaller share: what is gone is refused, what stays is answered with the same bits and the new
  // epoch.
  {
    absl::MutexLock lock(&coordinator.mutex_);
    coordinator.PlaceFirst(10);
  }
  ASSERT_TRUE(coordinator.WaitReady(2)) << process.Stderr();
  const auto again = Ask(transport.get(), CallFor(digest, 1, 9));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->epoch, 2u);
  EXPECT_EQ(SumBytes(*again), SumBytes(*first));
  EXPECT_EQ(Ask(transport.get(), CallFor(digest, 1, 12)).status().code(),
            absl::StatusCode::kFailedPrecondition);
#if !defined(__SANITIZE_ADDRESS__)
  EXPECT_LT(process.StatusKiB("VmRSS") * 1024, expert_bytes * 10 / 16 + (64 << 20));
#endif

  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(absl::Seconds(20)), 0) << process.Stderr();
  absl::MutexLock lock(&coordinator.mutex_);
  EXPECT_TRUE(coordinator.drained_);
  EXPECT_TRUE(coordinator.deregistered_);
}

TEST(WorkerProcess, RefusesToStartWithOneSentence) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteModel(TestConfig(), path);
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--model", folder.path() + "/absent.gguf", "--coordinator", "127.0.0.1:1"}, "absent.gguf"},
      {{"--model", path}, "--coordinator"},
      {{"--model", path, "--coordinator", "127.0.0.1:1", "--threads", "-1"}, "--threads"},
      {{"--model", path, "--coordinator", "127.0.0.1:1", "--listen", "0.0.0.0:0"}, "--advertise"},
      {{"--model", path, "--coordinator", "127.0.0.1:1", "--listen", "203.0.113.1:1"},
       "203.0.113.1"},
  };
  for (const auto& [arguments, in_message] : cases) {
    Process process(arguments, folder.path() + "/stderr");
    EXPECT_EQ(process.Wait(absl::Seconds(30)), 2) << in_message;
    const std::string text = process.Stderr();
    EXPECT_NE(text.find(in_message), std::string::npos) << text;
  }
}

TEST(WorkerProcess, UnknownInstructionSetIsRefused) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteModel(TestConfig(), path);
  setenv("TANDEM_ISA", "mmx", 1);
  Process process({"--model", path, "--coordinator", "127.0.0.1:1"}, folder.path() + "/stderr");
  const int code = process.Wait(absl::Seconds(30));
  unsetenv("TANDEM_ISA");
  EXPECT_EQ(code, 2);
  EXPECT_NE(process.Stderr().find("unknown instruction set \"mmx\""), std::string::npos);
}

}  // namespace
}  // namespace tandem::cpu_worker
