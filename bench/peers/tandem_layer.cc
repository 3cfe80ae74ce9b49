// tandem-bench-layer: Tandem's side of bench/run peers. `make` writes experts of random weights in
// the form GGUF files hold them, the same in bf16, and rows of inputs, for every engine to read;
// `serve` packs them and runs the layer on commands from stdin, so that engines take turns on a
// quiet machine. docs/benchmarks.md has the commands.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "bench/expert_set.h"
#include "bench/layer_run.h"
#include "bench/limits/compute_peaks.h"
#include "bench/limits/read_bandwidth.h"
#include "lib/base/clock.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/kernel_table.h"
#include "lib/tensor/codec.h"
#include "nlohmann/json.hpp"

namespace tandem::bench {
namespace {

constexpr char kProgram[] = "tandem-bench-layer";
constexpr char kExamples[] =
    "  tandem-bench-layer make --type q4_K --hidden 7168 --inter 2048 --out /tmp/v3-q4_K\n"
    "  echo 'run 2 16 5 1.0' | tandem-bench-layer serve --type q4_K --hidden 7168 --inter 2048 "
    "--in /tmp/v3-q4_K";
constexpr int64_t kInputRows = 512;  // no engine is asked with more rows

using Json = nlohmann::ordered_json;

struct Flags {
  std::string type, prefix;
  int64_t hidden = 7168, inter = 2048;
  int distinct = 2;
  int experts = 8;  // in one run
  int64_t arena_mib = 2048;
};

void Print(const Json& line) { std::cout << line.dump() << std::endl; }

absl::Status WriteTo(std::ofstream* file, const void* data, size_t bytes) {
  file->write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  return file->good() ? absl::OkStatus() : absl::DataLossError("cannot write: is the disk full?");
}

// The rows' values rounded to bf16: what an engine that brings a format of its own starts from.
absl::Status WriteAsBf16(std::ofstream* file, DType type, const std::vector<std::byte>& rows,
                         int64_t cols) {
  const int64_t row_bytes = RowBytes(type, cols).value();
  std::vector<float> values(cols);
  std::vector<uint16_t> rounded(cols);
  for (int64_t at = 0; at < static_cast<int64_t>(rows.size()); at += row_bytes) {
    DequantizeRow(type, rows.data() + at, cols, values.data());
    std::transform(values.begin(), values.end(), rounded.begin(), F32ToBF16);
    TANDEM_RETURN_IF_ERROR(WriteTo(file, rounded.data(), rounded.size() * sizeof(uint16_t)));
  }
  return absl::OkStatus();
}

absl::Status Make(const Flags& flags) {
  TANDEM_ASSIGN_OR_RETURN(const ExpertShape shape,
                          ExpertShapeOf(flags.type, flags.hidden, flags.inter));
  if (shape.gate_up == DType::kF8E4M3)
    return absl::UnimplementedError("no other engine reads fp8 with block scales from a file");
  std::ofstream stored(flags.prefix + ".stored", std::ios::binary);
  std::ofstream bf16(flags.prefix + ".bf16", std::ios::binary);
  int64_t bytes = 0, down_bytes = 0;
  for (int i = 0; i < flags.distinct; ++i) {
    const StoredExpert expert = MakeStoredExpert(shape, i);
    bytes = expert.bytes();
    down_bytes = static_cast<int64_t>(expert.down.size());
    for (const auto* rows : {&expert.gate, &expert.up, &expert.down}) {
      const bool down = rows == &expert.down;
      TANDEM_RETURN_IF_ERROR(WriteTo(&stored, rows->data(), rows->size()));
      TANDEM_RETURN_IF_ERROR(WriteAsBf16(&bf16, down ? shape.down : shape.gate_up, *rows,
                                         down ? flags.inter : flags.hidden));
    }
  }
  std::vector<float> inputs = RandomInputs(kInputRows * flags.hidden, 7);
  for (float& value : inputs) value = BF16ToF32(F32ToBF16(value));
  std::ofstream x(flags.prefix + ".inputs", std::ios::binary);
  TANDEM_RETURN_IF_ERROR(WriteTo(&x, inputs.data(), inputs.size() * sizeof(float)));
  Print({{"gate_up_type", NameOf(shape.gate_up)},
         {"down_type", NameOf(shape.down)},
         {"stored_bytes_per_expert", bytes},
         {"stored_down_bytes_per_expert", down_bytes}});
  return absl::OkStatus();
}

absl::Status ReadFrom(std::ifstream* file, std::vector<std::byte>* out, int64_t bytes) {
  out->resize(bytes);
  file->read(reinterpret_cast<char*>(out->data()), bytes);
  return file->good() ? absl::OkStatus() : absl::DataLossError("the weights file is too short");
}

absl::StatusOr<std::vector<StoredExpert>> ReadExperts(const Flags& flags,
                                                      const ExpertShape& shape) {
  std::ifstream file(flags.prefix + ".stored", std::ios::binary);
  TANDEM_ASSIGN_OR_RETURN(const int64_t gate_row, RowBytes(shape.gate_up, flags.hidden));
  TANDEM_ASSIGN_OR_RETURN(const int64_t down_row, RowBytes(shape.down, flags.inter));
  std::vector<StoredExpert> experts(flags.distinct);
  for (StoredExpert& expert : experts) {
    TANDEM_RETURN_IF_ERROR(ReadFrom(&file, &expert.gate, gate_row * flags.inter));
    TANDEM_RETURN_IF_ERROR(ReadFrom(&file, &expert.up, gate_row * flags.inter));
    TANDEM_RETURN_IF_ERROR(ReadFrom(&file, &expert.down, down_row * flags.hidden));
  }
  return experts;
}

absl::StatusOr<std::vector<float>> ReadInputs(const Flags& flags) {
  std::ifstream file(flags.prefix + ".inputs", std::ios::binary);
  std::vector<std::byte> bytes;
  TANDEM_RETURN_IF_ERROR(ReadFrom(&file, &bytes, kInputRows * flags.hidden * sizeof(float)));
  const auto* values = reinterpret_cast<const float*>(bytes.data());
  return std::vector<float>(values, values + kInputRows * flags.hidden);
}

double Seconds() { return absl::ToDoubleSeconds(base::RealClock().Monotonic()); }

// Answers the commands of one line each:
//   run THREADS ROWS RUNS_MIN SECONDS   {"seconds": [...]}
//   check THREADS ROWS VALUES           {"y": [...]}: outputs of the first experts
//   read THREADS SAMPLES                {"read_gb_s": ..., "read_gb_s_best": ...}
//   peaks THREADS                       {"fma": ..., "int8": ..., ...} in 1e9 operations a second
class Server {
 public:
  Server(const Flags& flags, ExpertSet set, std::vector<float> inputs)
      : flags_(flags), set_(std::move(set)), inputs_(std::move(inputs)) {}

  absl::StatusOr<Json> Answer(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    int threads = 0;
    words >> command >> threads;
    if (threads < 1) return absl::InvalidArgumentError(absl::StrCat("cannot do: ", line));
    base::ThreadPool* pool = PoolOf(threads);
    if (command == "peaks") return Peaks(threads);
    int64_t rows = 0, count = 0;
    double seconds = 0;
    words >> rows >> count >> seconds;
    if (rows < 1 || rows > kInputRows)
      return absl::InvalidArgumentError(absl::StrCat("cannot do: ", line));
    if (command == "read") return Read(pool, rows);
    if (command == "check") return Check(pool, rows, count);
    if (command == "run") return Run(pool, rows, count, seconds);
    return absl::InvalidArgumentError(absl::StrCat("cannot do: ", line));
  }

 private:
  base::ThreadPool* PoolOf(int threads) {
    auto& pool = pools_[threads];
    if (pool == nullptr) pool = std::make_unique<base::ThreadPool>(threads);
    return pool.get();
  }

  LayerRun* LayerOf(base::ThreadPool* pool, int64_t rows) {
    auto& layer = layers_[{pool->threads(), rows}];
    if (layer == nullptr) {
      const std::vector<float> x(inputs_.begin(), inputs_.begin() + rows * flags_.hidden);
      layer = std::make_unique<LayerRun>(kernels::ActiveTable(), pool, x, flags_.hidden,
                                         flags_.experts);
    }
    return layer.get();
  }

  int Next() {
    const int at = first_;
    first_ = (first_ + flags_.experts) % set_.size();
    return at;
  }

  Json Run(base::ThreadPool* pool, int64_t rows, int64_t count, double seconds) {
    LayerRun* layer = LayerOf(pool, rows);
    std::vector<double> took;
    const double end = Seconds() + seconds;
    while (static_cast<int64_t>(took.size()) < count || Seconds() < end)
      took.push_back(layer->Run(set_, Next()));
    return {{"seconds", took}};
  }

  Json Check(base::ThreadPool* pool, int64_t rows, int64_t count) {
    LayerRun* layer = LayerOf(pool, rows);
    layer->Run(set_, 0);
    std::vector<float> y = layer->Output();
    y.resize(std::min<int64_t>(count, static_cast<int64_t>(y.size())));
    return {{"y", y}};
  }

  Json Read(base::ThreadPool* pool, int64_t samples) {
    ReadSpeeds speeds;
    for (int64_t i = 0; i < samples; ++i) speeds.Sample(pool, set_.Bytes(Next(), flags_.experts));
    return {{"read_gb_s", speeds.median_gb_s()},
            {"read_gb_s_best", speeds.best_gb_s()},
            {"read_pattern", speeds.best_pattern()}};
  }

  static Json Peaks(int threads) {
    Json answer = Json::object();
    for (const ComputePeak& peak : MeasureComputePeaks(threads))
      answer[NameOf(peak.arithmetic)] = peak.gops;
    return answer;
  }

  const Flags& flags_;
  ExpertSet set_;
  std::vector<float> inputs_;
  std::map<int, std::unique_ptr<base::ThreadPool>> pools_;
  std::map<std::pair<int, int64_t>, std::unique_ptr<LayerRun>> layers_;
  int first_ = 0;
};

absl::Status Serve(const Flags& flags) {
  TANDEM_ASSIGN_OR_RETURN(const ExpertShape shape,
                          ExpertShapeOf(flags.type, flags.hidden, flags.inter));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<StoredExpert> stored, ReadExperts(flags, shape));
  TANDEM_ASSIGN_OR_RETURN(std::vector<float> inputs, ReadInputs(flags));
  base::ThreadPool packer(1);
  TANDEM_ASSIGN_OR_RETURN(ExpertSet set, ExpertSet::Create(shape, stored, flags.arena_mib << 20,
                                                           flags.experts, &packer));
  Print({{"ready", "tandem"},
         {"form", absl::StrCat("packed for ", kernels::ActiveTable().isa)},
         {"packed_bytes_per_expert", set.expert_bytes()},
         {"experts", set.size()}});
  Server server(flags, std::move(set), std::move(inputs));
  for (std::string line; std::getline(std::cin, line);) {
    TANDEM_ASSIGN_OR_RETURN(const Json answer, server.Answer(line));
    Print(answer);
  }
  return absl::OkStatus();
}

void AddShapeFlags(CLI::App* command, Flags& flags) {
  command->add_option("--type", flags.type, "Weight format")->required();
  command->add_option("--hidden", flags.hidden, "Hidden size")->check(CLI::PositiveNumber);
  command->add_option("--inter", flags.inter, "Intermediate size")->check(CLI::PositiveNumber);
  command->add_option("--distinct", flags.distinct, "Experts in the file")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

int Main(int argc, char** argv) {
  CLI::App app("Tandem's side of the comparison of expert layers", kProgram);
  base::AddStandardOptions(app, kExamples);
  app.require_subcommand(1);
  Flags flags;
  CLI::App* make = app.add_subcommand("make", "Write experts and inputs");
  AddShapeFlags(make, flags);
  make->add_option("--out", flags.prefix, "Path before .stored, .bf16 and .inputs")->required();
  CLI::App* serve = app.add_subcommand("serve", "Run the layer on commands from stdin");
  AddShapeFlags(serve, flags);
  serve->add_option("--in", flags.prefix, "What make was told as --out")->required();
  serve->add_option("--experts", flags.experts, "Experts in one run")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  serve->add_option("--arena-mib", flags.arena_mib, "Packed experts the runs rotate over, in MiB")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  const int exit_code = base::ParseOrExitCode(app, argc, argv);
  if (exit_code >= 0) return exit_code;
  const absl::Status status = make->parsed() ? Make(flags) : Serve(flags);
  return status.ok() ? 0 : base::CannotStart(kProgram, status);
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) { return tandem::bench::Main(argc, argv); }
