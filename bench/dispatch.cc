// tandem-bench-dispatch: what the way from a GPU worker to an expert worker and back costs beside
// the arithmetic: dispatch, frame, transport, queue, reply, combine. One JSON line per measurement;
// raw round trips of the same bytes come from the same run.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "bench/wire/raw_ping.h"
#include "bench/wire/wire_worker.h"
#include "gpu_worker/experts/link.h"
#include "lib/base/check.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/spin_wait.h"
#include "lib/rpc/transport.h"
#include "lib/tensor/codec.h"
#include "nlohmann/json.hpp"

namespace tandem::bench {
namespace {

constexpr char kProgram[] = "tandem-bench-dispatch";
constexpr char kExamples[] =
    "  tandem-bench-dispatch --hidden 7168 --experts-per-token 8 --rows 1,8 --rounds 5000\n"
    "  tandem-bench-dispatch --gap-us 0,300   # time between two calls, as attention takes";

// Rounds before the clock starts: connections open, memory is touched, the loop is awake.
constexpr int kWarmUpRounds = 200;

struct Flags {
  WireShape shape;
  std::vector<int> rows = {1, 8};
  std::vector<int> gap_us = {0};
  int rounds = 3000;
  double spin_us = 50;
  std::string serve;
};

// A child process that serves the worker's side; ended with this object.
class WorkerProcess {
 public:
  static absl::StatusOr<std::unique_ptr<WorkerProcess>> Start(const Flags& flags);
  ~WorkerProcess();

  const nlohmann::json& hello() const { return hello_; }

 private:
  std::string folder_;
  pid_t pid_ = 0;
  int input_ = -1;
  nlohmann::json hello_;
};

std::string ReadLine(int fd) {
  std::string line;
  char c = 0;
  while (::read(fd, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

absl::StatusOr<std::unique_ptr<WorkerProcess>> WorkerProcess::Start(const Flags& flags) {
  std::string folder = (std::filesystem::temp_directory_path() / "tandem-wire-XXXXXX").string();
  int to_child[2], from_child[2];
  if (::mkdtemp(folder.data()) == nullptr || ::pipe2(to_child, O_CLOEXEC) != 0 ||
      ::pipe2(from_child, O_CLOEXEC) != 0) {
    return absl::ErrnoToStatus(errno, "making a folder and pipes for the worker");
  }
  auto worker = std::make_unique<WorkerProcess>();
  worker->folder_ = folder;
  worker->pid_ = ::fork();
  if (worker->pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(to_child[0], STDIN_FILENO);
    ::dup2(from_child[1], STDOUT_FILENO);
    const std::string hidden = absl::StrCat(flags.shape.hidden);
    const std::string top_k = absl::StrCat(flags.shape.experts_per_token);
    ::execl("/proc/self/exe", kProgram, "--serve", folder.c_str(), "--hidden", hidden.c_str(),
            "--experts-per-token", top_k.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(to_child[0]);
  ::close(from_child[1]);
  worker->input_ = to_child[1];
  const std::string line = ReadLine(from_child[0]);
  ::close(from_child[0]);
  worker->hello_ = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (worker->hello_.is_discarded()) {
    return absl::UnavailableError("the worker's side ended before it was ready");
  }
  return worker;
}

WorkerProcess::~WorkerProcess() {
  if (input_ >= 0) ::close(input_);
  if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
  if (!folder_.empty()) std::filesystem::remove_all(folder_);
}

std::shared_ptr<const membership::v1::Placement> PlacementOn(const std::string& address) {
  auto placement = std::make_shared<membership::v1::Placement>();
  placement->set_epoch(1);
  auto* worker = placement->add_workers();
  worker->set_worker_id("wire");
  worker->set_address(address);
  worker->set_ready(true);
  auto* layer = placement->add_layers();
  layer->set_layer(kWireLayer);
  for (int64_t e = 0; e < kWireExperts; ++e) layer->add_experts()->add_workers(0);
  return placement;
}

struct Times {
  std::vector<double> way_us;      // everything but arithmetic
  std::vector<double> compute_us;  // what the worker says
  std::vector<double> send_us;     // of the way, until the call has left
};

// The engine's side of one layer, again and again: what forward.cc does around it.
class Caller {
 public:
  Caller(const Flags& flags, const std::string& address, const std::string& digest,
         rpc::TransportChoice choice)
      : flags_(flags),
        placement_(PlacementOn(address)),
        pool_({[this] { return placement_; }, [](uint64_t, absl::Duration) { return false; },
               [choice](const std::string& to) { return rpc::MakeTransport(to, choice); }}),
        link_(pool_, {.model_digest = digest,
                      .patience = absl::ZeroDuration(),
                      .spin_max = absl::Microseconds(flags.spin_us)}) {}

  absl::StatusOr<Times> Measure(int rows, int gap_us) {
    FillRows(rows);
    Times times;
    for (int i = -kWarmUpRounds; i < flags_.rounds; ++i) {
      const int64_t begin = rpc::MonotonicNanos();
      while (rpc::MonotonicNanos() - begin < int64_t{gap_us} * 1000) {
      }
      TANDEM_RETURN_IF_ERROR(Round(rows, i >= 0 ? &times : nullptr));
    }
    return times;
  }

 private:
  void FillRows(int rows) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    x_.resize(rows * flags_.shape.hidden * sizeof(uint16_t));
    for (int64_t i = 0; i < rows * flags_.shape.hidden; ++i) {
      const uint16_t value = F32ToBF16(normal(random));
      std::memcpy(x_.data() + i * sizeof value, &value, sizeof value);
    }
    // One expert a row: of V3's 256 experts on 32 workers a token finds about so many on each.
    choice_.experts_per_row = 1;
    choice_.expert_ids.resize(rows);
    choice_.weights.assign(rows, 0.5f);
    for (int r = 0; r < rows; ++r) choice_.expert_ids[r] = static_cast<uint32_t>(r % kWireExperts);
    routed_.resize(rows * flags_.shape.hidden);
  }

  absl::Status Round(int rows, Times* times) {
    gpu_worker::RoutedLayer layer{.layer = kWireLayer,
                                  .hidden = flags_.shape.hidden,
                                  .choice = &choice_,
                                  .dtype = tensor::v1::WIRE_DTYPE_BF16,
                                  .x = x_,
                                  .grid_exponents = {},
                                  .activation_form = experts::v1::ACTIVATION_FORM_NATIVE};
    const std::vector<bool> alive(rows, true);
    std::vector<absl::Status> row_status;
    const uint64_t compute_ns = link_.counters().compute_ns;
    const int64_t start = rpc::MonotonicNanos();
    link_.Start(/*slot=*/0, layer, alive, absl::Now() + absl::Seconds(10));
    const int64_t sent = rpc::MonotonicNanos();
    link_.Finish(/*slot=*/0, routed_, &row_status);
    const int64_t end = rpc::MonotonicNanos();
    for (const absl::Status& status : row_status) TANDEM_RETURN_IF_ERROR(status);
    if (times == nullptr) return absl::OkStatus();
    const double compute_us = static_cast<double>(link_.counters().compute_ns - compute_ns) / 1e3;
    times->way_us.push_back(static_cast<double>(end - start) / 1e3 - compute_us);
    times->compute_us.push_back(compute_us);
    times->send_us.push_back(static_cast<double>(sent - start) / 1e3);
    return absl::OkStatus();
  }

  const Flags& flags_;
  const std::shared_ptr<const membership::v1::Placement> placement_;
  gpu_worker::WorkerPool pool_;
  gpu_worker::ExpertLink link_;
  std::vector<std::byte> x_;
  gpu_worker::RouterChoice choice_;
  std::vector<float> routed_;
};

double Quantile(std::vector<double> values, double q) {
  TANDEM_CHECK(!values.empty());
  const size_t at = std::min(values.size() - 1, static_cast<size_t>(q * values.size()));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[at];
}

void Print(const Flags& flags, const std::string& way, int rows, int gap_us,
           const std::vector<double>& micros, nlohmann::json more) {
  more.update({{"way", way},
               {"hidden", flags.shape.hidden},
               {"rows", rows},
               {"gap_us", gap_us},
               {"rounds", micros.size()},
               {"p50_us", Quantile(micros, 0.5)},
               {"p99_us", Quantile(micros, 0.99)},
               {"best_us", Quantile(micros, 0)}});
  std::printf("%s\n", more.dump().c_str());
  std::fflush(stdout);
}

// bf16 there, int32 back.
absl::Status MeasureRaw(const Flags& flags) {
  const std::pair<RawWay, const char*> ways[] = {
      {RawWay::kTcp, "raw-tcp"}, {RawWay::kUnix, "raw-unix"}, {RawWay::kShm, "raw-shm"}};
  for (const int rows : flags.rows) {
    for (const auto& [way, name] : ways) {
      const int64_t values = rows * flags.shape.hidden;
      TANDEM_ASSIGN_OR_RETURN(
          std::vector<double> micros,
          MeasureRawPing(way, {values * 2, values * 4, flags.rounds + kWarmUpRounds}));
      micros.erase(micros.begin(), micros.begin() + kWarmUpRounds);
      Print(flags, name, rows, 0, micros, {});
    }
  }
  return absl::OkStatus();
}

absl::Status MeasurePaths(const Flags& flags) {
  TANDEM_ASSIGN_OR_RETURN(const auto worker, WorkerProcess::Start(flags));
  const nlohmann::json& hello = worker->hello();
  struct Way {
    const char* name;
    const char* address;
    rpc::TransportChoice choice;
  };
  const Way ways[] = {{"grpc-tcp", "tcp", rpc::TransportChoice::kGrpc},
                      {"grpc-unix", "unix", rpc::TransportChoice::kGrpc},
                      {"shm", "tcp", rpc::TransportChoice::kShm}};
  for (const int gap_us : flags.gap_us) {
    for (const int rows : flags.rows) {
      for (const Way& way : ways) {
        Caller caller(flags, hello[way.address], hello["digest"], way.choice);
        TANDEM_ASSIGN_OR_RETURN(const Times times, caller.Measure(rows, gap_us));
        Print(flags, way.name, rows, gap_us, times.way_us,
              {{"compute_p50_us", Quantile(times.compute_us, 0.5)},
               {"send_p50_us", Quantile(times.send_us, 0.5)}});
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Measure(const Flags& flags) {
  // First what forks, then what starts threads.
  TANDEM_RETURN_IF_ERROR(MeasureRaw(flags));
  return MeasurePaths(flags);
}

int Main(int argc, char** argv) {
  CLI::App app("Measures the way of a row to an expert worker and back", kProgram);
  base::AddStandardOptions(app, kExamples);
  Flags flags;
  app.add_option("--hidden", flags.shape.hidden, "Values of a row")
      ->check(CLI::Range(256, 1 << 16))
      ->capture_default_str();
  app.add_option("--experts-per-token", flags.shape.experts_per_token, "Of the model")
      ->check(CLI::Range(int64_t{1}, kWireExperts))
      ->capture_default_str();
  app.add_option("--rows", flags.rows, "Rows of a call, several with commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 512));
  app.add_option("--gap-us", flags.gap_us, "Microseconds between two calls, several with commas")
      ->delimiter(',')
      ->check(CLI::Range(0, 1'000'000));
  app.add_option("--rounds", flags.rounds, "Round trips of each measurement")
      ->check(CLI::Range(10, 10'000'000))
      ->capture_default_str();
  app.add_option("--spin-us", flags.spin_us, "How long the caller waits awake")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--serve", flags.serve, "Be the worker's side, with files in this folder");
  const int exit_code = base::ParseOrExitCode(app, argc, argv);
  if (exit_code >= 0) return exit_code;
  const absl::Status status =
      flags.serve.empty() ? Measure(flags) : ServeWire(flags.shape, flags.serve);
  return status.ok() ? 0 : base::CannotStart(kProgram, status);
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) { return tandem::bench::Main(argc, argv); }
