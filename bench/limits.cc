// tandem-bench-limits: what this machine can do at most, printed as JSON lines: how fast its memory
// can be read with one to all threads on huge and on small pages, and how many operations a second
// its multiply-add instructions give.
#include <cstdio>
#include <iostream>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "bench/limits/compute_peaks.h"
#include "bench/limits/memory_pages.h"
#include "bench/limits/quiet.h"
#include "bench/limits/read_bandwidth.h"
#include "lib/base/program.h"
#include "nlohmann/json.hpp"

namespace tandem::bench {
namespace {

constexpr char kProgram[] = "tandem-bench-limits";
constexpr char kExamples[] = "  tandem-bench-limits --mib 2048 --rounds 5";

using Json = nlohmann::ordered_json;

struct Flags {
  int64_t mib = 2048;
  int rounds = 5;
  int threads_max = static_cast<int>(std::thread::hardware_concurrency());
};

void Print(const Json& line) { std::cout << line.dump() << std::endl; }

void AddLoad(const LoadSample& load, Json* line) {
  (*line)["other_cores"] = load.other_cpu_s / load.wall_s;
  (*line)["stolen_cores"] = load.stolen_s / load.wall_s;
}

absl::Status MeasureReading(const Flags& flags, Pages pages) {
  auto memory = PagedMemory::Create(flags.mib << 20, pages);
  if (!memory.ok()) return memory.status();
  const char* name = pages == Pages::kHuge ? "huge" : "4k";
  for (int threads = 1; threads <= flags.threads_max; ++threads) {
    base::ThreadPool pool(threads);
    for (const ReadPattern& pattern : ReadPatterns()) {
      const LoadMeter meter;
      std::vector<double> gb_s;
      for (int i = 0; i < flags.rounds; ++i) {
        const double seconds = ReadSeconds(&pool, memory->span(), pattern);
        gb_s.push_back(static_cast<double>(memory->size()) / seconds / 1e9);
      }
      Json line = {{"limit", "read"},
                   {"threads", threads},
                   {"pages", name},
                   {"pattern", pattern.name},
                   {"median_gb_s", Median(gb_s)},
                   {"best_gb_s", *std::max_element(gb_s.begin(), gb_s.end())}};
      AddLoad(meter.Read(), &line);
      Print(line);
    }
  }
  return absl::OkStatus();
}

void MeasureComputing(const Flags& flags) {
  for (int threads = 1; threads <= flags.threads_max; ++threads) {
    const LoadMeter meter;
    const std::vector<ComputePeak> peaks = MeasureComputePeaks(threads);
    const LoadSample load = meter.Read();
    for (const ComputePeak& peak : peaks) {
      Json line = {{"limit", NameOf(peak.arithmetic)},
                   {"threads", threads},
                   {"instruction", peak.instruction},
                   {"gops", peak.gops}};
      AddLoad(load, &line);
      Print(line);
    }
  }
}

int Main(int argc, char** argv) {
  CLI::App app("Measures this machine's read bandwidth and instruction peaks", kProgram);
  base::AddStandardOptions(app, kExamples);
  Flags flags;
  app.add_option("--mib", flags.mib, "Memory to read; several times the last cache")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--rounds", flags.rounds, "Readings of each pattern")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads-max", flags.threads_max, "Measures one to this many threads")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  const int exit_code = base::ParseOrExitCode(app, argc, argv);
  if (exit_code >= 0) return exit_code;
  MeasureComputing(flags);
  for (const Pages pages : {Pages::kHuge, Pages::kSmall}) {
    const absl::Status status = MeasureReading(flags, pages);
    if (!status.ok()) return base::CannotStart(kProgram, status);
  }
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) { return tandem::bench::Main(argc, argv); }
