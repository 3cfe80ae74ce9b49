// tandem-expert-bench: how fast one expert layer runs on this machine, per format and number of
// rows per expert. Prints CSV. Weight bytes per second matter at one row, arithmetic at many; the
// machine's read bandwidth, measured in the same run, is the limit.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "cpu_worker/experts/expert_ffn.h"
#include "cpu_worker/experts/expert_store.h"
#include "cpu_worker/experts/test_experts.h"
#include "lib/base/clock.h"
#include "lib/kernels/expert_grid.h"
#include "lib/tensor/codec.h"

namespace tandem::cpu_worker {
namespace {

struct Flags {
  std::vector<std::string> types = {"bf16", "q8_0", "q4_K", "q6_K", "iq1_s"};
  std::vector<int64_t> rows = {1, 16};
  int64_t hidden = 7168, inter = 2048;
  int experts = 4;
  int threads = 1;
  int repeats = 5;
  std::string isa;
};

double Seconds() { return absl::ToDoubleSeconds(base::RealClock().Monotonic()); }

// Processor time of all threads of this process: unlike the clock on the wall it does not count
// time given to other programs, so it says something on a machine that is not quiet.
double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Reads `bytes` once on all threads; the sum keeps the loads alive.
double ReadSeconds(base::ThreadPool* pool, const std::vector<uint64_t>& memory) {
  std::atomic<uint64_t> total{0};
  const double start = Seconds();
  pool->ParallelFor(static_cast<int64_t>(memory.size()), 1 << 16, [&](int64_t begin, int64_t end) {
    total += std::accumulate(memory.begin() + begin, memory.begin() + end, uint64_t{0});
  });
  const double seconds = Seconds() - start;
  if (total.load() == 1) std::printf("#\n");
  return seconds;
}

void Measure(const Flags& flags, const kernels::KernelTable& table, base::ThreadPool* pool,
             DType type) {
  std::mt19937_64 random(1);
  std::vector<TestExpert> experts;
  int64_t weight_bytes = 0;
  for (int e = 0; e < flags.experts; ++e) {
    experts.push_back(MakeTestExpert(type, type, type, flags.hidden, flags.inter, random));
    weight_bytes += PlacedBytes(experts.back().weights);
  }
  for (int64_t rows : flags.rows) {
    std::vector<uint16_t> x(rows * flags.hidden);
    std::normal_distribution<float> normal;
    for (uint16_t& value : x) value = F32ToBF16(normal(random));
    std::vector<int32_t> sums(rows * flags.hidden);
    std::vector<uint8_t> row_flags(rows);
    FfnBatch batch;
    batch.grid_limit = kernels::GridLimit(8);
    for (int64_t r = 0; r < rows; ++r) {
      batch.rows.push_back({reinterpret_cast<const std::byte*>(&x[r * flags.hidden]), -20,
                            &sums[r * flags.hidden], &row_flags[r]});
      for (int e = 0; e < flags.experts; ++e) {
        batch.pairs.push_back({r, static_cast<uint32_t>(e), 0.1f, nullptr});
      }
    }
    ExpertFfn ffn(table, pool);
    std::vector<double> seconds, cpu_seconds;
    for (int i = 0; i < flags.repeats + 1; ++i) {
      std::fill(sums.begin(), sums.end(), 0);
      const double start = Seconds(), cpu_start = CpuSeconds();
      ffn.Run(batch, [&](uint32_t expert) { return &experts[expert].weights; });
      if (i == 0) continue;  // the first run warms scratch memory
      seconds.push_back(Seconds() - start);
      cpu_seconds.push_back((CpuSeconds() - cpu_start) / pool->threads());
    }
    const double flop = 6.0 * flags.hidden * flags.inter * rows * flags.experts;
    std::printf("%s,%s,%d,%ld,%.2f,%.2f,%.1f,%.1f\n", NameOf(type), table.isa, pool->threads(),
                rows, weight_bytes / Median(seconds) / 1e9,
                weight_bytes / Median(cpu_seconds) / 1e9, flop / Median(seconds) / 1e9,
                flop / Median(cpu_seconds) / 1e9);
    std::fflush(stdout);
  }
}

int Run(int argc, char** argv) {
  CLI::App app("Speed of expert layers by format and rows per expert.", "tandem-expert-bench");
  Flags flags;
  app.add_option("--types", flags.types, "weight formats")->delimiter(',')->capture_default_str();
  app.add_option("--rows", flags.rows, "rows per expert")->delimiter(',')->capture_default_str();
  app.add_option("--hidden", flags.hidden)->capture_default_str();
  app.add_option("--inter", flags.inter)->capture_default_str();
  app.add_option("--experts", flags.experts)->capture_default_str();
  app.add_option("--threads", flags.threads)->capture_default_str();
  app.add_option("--repeats", flags.repeats)->capture_default_str();
  app.add_option("--isa", flags.isa, "instruction set; the fastest when empty");
  CLI11_PARSE(app, argc, argv);
  const auto table = kernels::FindTable(flags.isa);
  if (!table.ok()) {
    std::fprintf(stderr, "%s\n", std::string(table.status().message()).c_str());
    return 2;
  }
  base::ThreadPool pool(flags.threads);
  const std::vector<uint64_t> memory(int64_t{512} << 17, 3);  // 512 MiB
  std::vector<double> read;
  for (int i = 0; i < 5; ++i) read.push_back(memory.size() * 8 / ReadSeconds(&pool, memory) / 1e9);
  std::printf("# read bandwidth median %.1f best %.1f GB/s, %d threads\n", Median(read),
              *std::max_element(read.begin(), read.end()), flags.threads);
  std::printf("type,isa,threads,rows,gb_per_s,gb_per_cpu_s,gflop_per_s,gflop_per_cpu_s\n");
  for (const std::string& name : flags.types) {
    const auto type = ParseDType(name);
    if (!type.ok()) {
      std::fprintf(stderr, "%s\n", std::string(type.status().message()).c_str());
      return 2;
    }
    Measure(flags, **table, &pool, *type);
  }
  return 0;
}

}  // namespace
}  // namespace tandem::cpu_worker

int main(int argc, char** argv) { return tandem::cpu_worker::Run(argc, argv); }
