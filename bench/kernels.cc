// tandem-bench-kernels: how fast expert layers run on this machine, for each weight format, number
// of rows per expert and number of threads, as JSON lines. One row reads every weight once, so the
// memory's read bandwidth limits it; many rows are limited by the instructions' peaks. Both limits
// are measured between the very runs they are compared with. bench/run kernels drives it.
#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/expert_set.h"
#include "bench/layer_run.h"
#include "bench/limits/compute_peaks.h"
#include "bench/limits/quiet.h"
#include "bench/limits/read_bandwidth.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/kernels/kernel_table.h"
#include "lib/kernels/weights.h"
#include "nlohmann/json.hpp"

namespace tandem::bench {
namespace {

constexpr char kProgram[] = "tandem-bench-kernels";
constexpr char kExamples[] =
    "  tandem-bench-kernels --types q4_K,iq1_s --rows 1,16 --threads 1,2 --arena-mib 2048";
constexpr int kDistinct = 2;      // packed once; the rest of the arena are copies
constexpr int kReadingsMin = 12;  // of all patterns together: two of each

using Json = nlohmann::ordered_json;

struct Flags {
  std::vector<std::string> types = {"bf16", "q8_0", "q4_K", "q6_K", "iq1_s"};
  std::vector<int64_t> rows = {1, 4, 16, 64, 512};
  std::vector<int> threads = {1};
  int64_t hidden = 7168, inter = 2048;
  int experts = 8;
  int64_t arena_mib = 2048;
  double seconds = 1.0;
  int runs_min = 5;
  std::string isa;
};

// What one cell of the table is measured with.
struct Bench {
  const Flags& flags;
  const kernels::KernelTable& table;
  base::ThreadPool* pool;
  std::string type;
  ExpertShape shape;
  const ExpertSet& set;
  int64_t stored_bytes;  // of one expert
  std::vector<ComputePeak> peaks;
};

// The fastest instruction that can multiply these weights without rounding them.
ComputePeak LimitOf(const std::vector<ComputePeak>& peaks, DType type) {
  std::vector<Arithmetic> usable = {Arithmetic::kFma};
  if (kernels::IsIntegerForm(type)) usable = {Arithmetic::kInt8, Arithmetic::kAmxInt8};
  if (type == DType::kBF16 || type == DType::kF8E4M3)
    usable = {Arithmetic::kFma, Arithmetic::kBf16, Arithmetic::kAmxBf16};
  ComputePeak limit;
  for (const ComputePeak& peak : peaks) {
    if (std::count(usable.begin(), usable.end(), peak.arithmetic) > 0 && peak.gops > limit.gops)
      limit = peak;
  }
  return limit;
}

void AddLimits(const Bench& bench, const ReadSpeeds& reads, double flop, double bytes,
               double seconds, Json* row) {
  const ComputePeak limit = LimitOf(bench.peaks, bench.shape.gate_up);
  const double read_gb_s = reads.median_gb_s();
  (*row)["read_gb_s"] = read_gb_s;
  (*row)["read_gb_s_best"] = reads.best_gb_s();
  (*row)["read_pattern"] = reads.best_pattern();
  for (const Arithmetic each : {Arithmetic::kFma, Arithmetic::kInt8, Arithmetic::kBf16,
                                Arithmetic::kAmxInt8, Arithmetic::kAmxBf16})
    (*row)[std::string("peak_") + NameOf(each) + "_gop_s"] = PeakOf(bench.peaks, each);
  (*row)["peak_instruction"] = limit.instruction;
  const double read_s = bytes / read_gb_s / 1e9;
  const double compute_s = limit.gops > 0 ? flop / limit.gops / 1e9 : 0.0;
  (*row)["share_of_read"] = read_s / seconds;
  (*row)["share_of_peak"] = compute_s / seconds;
  (*row)["limit"] = read_s >= compute_s ? "read" : "compute";
  (*row)["share_of_limit"] = std::max(read_s, compute_s) / seconds;
}

void AddLoad(const LoadSample& load, Json* row) {
  (*row)["wall_s"] = load.wall_s;
  (*row)["own_cpu_s"] = load.own_cpu_s;
  (*row)["other_cores"] = load.other_cpu_s / load.wall_s;
  (*row)["stolen_cores"] = load.stolen_s / load.wall_s;
}

// One run after the other, each on the next experts of the arena and each after a reading of the
// ones before: no byte is read again before the whole arena has passed through the caches.
Json MeasureCell(const Bench& bench, int64_t rows) {
  const Flags& flags = bench.flags;
  LayerRun layer(bench.table, bench.pool, RandomInputs(rows * flags.hidden, 7), flags.hidden,
                 flags.experts);
  int first = 0;
  const auto next = [&] {
    const int at = first;
    first = (first + flags.experts) % bench.set.size();
    return at;
  };
  layer.Run(bench.set, next());  // sizes the scratch memory
  ReadSpeeds reads;
  std::vector<double> seconds, cpu_seconds;
  const LoadMeter meter;
  LoadSample load;
  int readings = 0;
  do {
    reads.Sample(bench.pool, bench.set.Bytes(next(), flags.experts));
    const double cpu_start = ProcessCpuSeconds();
    seconds.push_back(layer.Run(bench.set, next()));
    cpu_seconds.push_back((ProcessCpuSeconds() - cpu_start) / bench.pool->threads());
    ++readings;
    load = meter.Read();
  } while (load.wall_s < flags.seconds || static_cast<int>(seconds.size()) < flags.runs_min);
  for (; readings < kReadingsMin; ++readings)
    reads.Sample(bench.pool, bench.set.Bytes(next(), flags.experts));

  const double bytes = static_cast<double>(bench.set.expert_bytes() * flags.experts);
  const double flop = bench.shape.flop_per_row() * static_cast<double>(rows * flags.experts);
  const double median = Median(seconds), best = *std::min_element(seconds.begin(), seconds.end());
  Json row = {{"type", bench.type},
              {"gate_up_type", NameOf(bench.shape.gate_up)},
              {"down_type", NameOf(bench.shape.down)},
              {"hidden", flags.hidden},
              {"inter", flags.inter},
              {"isa", bench.table.isa},
              {"threads", bench.pool->threads()},
              {"rows_per_expert", rows},
              {"experts", flags.experts},
              {"runs", seconds.size()},
              {"packed_bytes_per_expert", bench.set.expert_bytes()},
              {"stored_bytes_per_expert", bench.stored_bytes},
              {"arena_bytes", bench.set.memory().size()},
              {"us_median", median * 1e6},
              {"us_best", best * 1e6},
              {"us_cpu_median", Median(cpu_seconds) * 1e6},
              {"gb_s", bytes / median / 1e9},
              {"gb_s_best", bytes / best / 1e9},
              {"gflop_s", flop / median / 1e9},
              {"gflop_s_best", flop / best / 1e9}};
  AddLimits(bench, reads, flop, bytes, median, &row);
  AddLoad(load, &row);
  return row;
}

absl::Status MeasureType(const Flags& flags, const kernels::KernelTable& table,
                         const std::string& type) {
  TANDEM_ASSIGN_OR_RETURN(const ExpertShape shape, ExpertShapeOf(type, flags.hidden, flags.inter));
  std::vector<StoredExpert> stored;
  for (int i = 0; i < kDistinct; ++i) stored.push_back(MakeStoredExpert(shape, i));
  base::ThreadPool packers(*std::max_element(flags.threads.begin(), flags.threads.end()));
  TANDEM_ASSIGN_OR_RETURN(
      const ExpertSet set,
      ExpertSet::Create(shape, stored, flags.arena_mib << 20, flags.experts, &packers));
  const double huge_share = static_cast<double>(set.memory().BytesOnHugePages()) /
                            static_cast<double>(set.memory().size());
  for (const int threads : flags.threads) {
    base::ThreadPool pool(threads);
    const Bench bench{flags,
                      table,
                      &pool,
                      type,
                      shape,
                      set,
                      stored.front().bytes(),
                      MeasureComputePeaks(threads)};
    for (const int64_t rows : flags.rows) {
      Json row = MeasureCell(bench, rows);
      row["huge_page_share"] = huge_share;
      std::cout << row.dump() << std::endl;
    }
  }
  return absl::OkStatus();
}

void AddFlags(CLI::App& app, Flags& flags) {
  app.add_option("--types", flags.types, "Weight formats")->delimiter(',')->capture_default_str();
  app.add_option("--rows", flags.rows, "Rows per expert")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", flags.threads, "Thread counts")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--hidden", flags.hidden, "Hidden size")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--inter", flags.inter, "Intermediate size of an expert")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--experts", flags.experts, "Experts in one run, each with that many rows")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--arena-mib", flags.arena_mib, "Packed experts the runs rotate over, in MiB")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seconds", flags.seconds, "Time for each cell")->capture_default_str();
  app.add_option("--runs-min", flags.runs_min, "Runs of each cell at least")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--isa", flags.isa, "Instruction set of the kernels; the fastest when empty");
}

int Main(int argc, char** argv) {
  CLI::App app("Measures expert layers by format and rows per expert", kProgram);
  base::AddStandardOptions(app, kExamples);
  Flags flags;
  AddFlags(app, flags);
  const int exit_code = base::ParseOrExitCode(app, argc, argv);
  if (exit_code >= 0) return exit_code;
  const auto table = kernels::FindTable(flags.isa);
  if (!table.ok()) return base::CannotStart(kProgram, table.status());
  for (const std::string& type : flags.types) {
    const absl::Status status = MeasureType(flags, **table, type);
    if (!status.ok()) return base::CannotStart(kProgram, status);
  }
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) { return tandem::bench::Main(argc, argv); }
