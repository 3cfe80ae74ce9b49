// tandem-bench-gpu: every kernel of the CUDA backend at the shapes that matter, as JSON lines,
// beside what the device can do at most. Exit code 77 without a GPU. Built against the emulator it
// tries out its own code on tiny shapes.
#include <cmath>
#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "bench/gpu/cases.h"
#include "bench/gpu/rooflines.h"
#include "nlohmann/json.hpp"

namespace tandem::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kNoDevice = 77;  // ctest's word for a test that was skipped
// fp8 products run at twice the rate of bf16 ones; no library routine shows that rate with block
// scales, so the roofline is computed.
constexpr double kFp8Rate = 2;

struct Flags {
  bool quick = false, list = false;
  std::string only;
  int replays = 21;
};

Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json RowOf(const GpuWork& work, const Timing& timing, double error, const GpuRooflines& rooflines) {
  Json row = {{"operation", work.operation},
              {"format", work.format},
              {"shape", work.shape},
              {"rows", work.rows},
              {"kernels", work.kernels}};
  row["us_median"] = timing.us_median;
  row["us_best"] = timing.us_best;
  row["us_warm_median"] = timing.us_warm_median;
  row["gb_s"] = work.bytes / timing.us_median / 1e3;
  row["tflop_s"] = work.flops / timing.us_median / 1e6;
  const double copy_us = work.bytes / rooflines.copy_gb_s / 1e3;
  double floor_us = copy_us;
  row["copy_gb_s"] = rooflines.copy_gb_s;
  row["share_of_copy"] = copy_us / timing.us_median;
  if (rooflines.bf16_tflop_s) {
    const double peak = *rooflines.bf16_tflop_s * (work.fp8_products ? kFp8Rate : 1);
    floor_us = std::max(copy_us, work.flops / peak / 1e6);
    row["peak_tflop_s"] = peak;
    row["share_of_peak"] = work.flops / peak / 1e6 / timing.us_median;
    row["limit"] = floor_us > copy_us ? "arithmetic" : "bandwidth";
    row["share_of_limit"] = floor_us / timing.us_median;
  }
  row["error_vs_reference"] = Number(error);
  row["finite"] = !std::isinf(error);
  row["copies"] = work.copies;
  row["launches"] = timing.launches;
  row["replays"] = timing.replays;
  return row;
}

// Whether the output was sound.
bool RunCase(const GpuCase& gpu_case, const cuda::DeviceProperties& device, cuda::Stream stream,
             const TimingOptions& options, const GpuRooflines& rooflines) {
  DeviceData data(device, stream, std::hash<std::string>()(gpu_case.name) | 1, options.copies_max);
  const GpuWork work = gpu_case.make(&data);
  const Timing timing = TimeWork(work, stream, options);
  const Json row = RowOf(work, timing, work.error(), rooflines);
  std::cout << row.dump() << std::endl;
  return row["finite"];
}

std::vector<GpuCase> AllCases(const cuda::DeviceProperties& device, bool quick) {
  std::vector<Kernels> kernels = {Kernels::kPortable};
  if (device.major == 9) kernels.push_back(Kernels::kHopper);
  std::vector<GpuCase> all;
  for (auto& cases : {LinearCases(kernels, quick), AttentionCases(kernels, quick), RowCases(quick),
                      ExpertCases(quick)}) {
    all.insert(all.end(), cases.begin(), cases.end());
  }
  return all;
}

int Run(const Flags& flags, const cuda::DeviceProperties& device) {
  const cuda::OwnedStream stream = cuda::NewStream();
  const GpuRooflines rooflines = MeasureRooflines(device, stream.get(), flags.quick);
  const Json head = {{"device", device.name},
                     {"multiprocessors", device.multiprocessors},
                     {"l2_bytes", device.l2_bytes},
                     {"copy_gb_s", rooflines.copy_gb_s},
                     {"bf16_tflop_s", Number(rooflines.bf16_tflop_s.value_or(std::nan("")))}};
  std::cout << head.dump() << std::endl;
  TimingOptions options = {.replays = flags.replays};
  if (flags.quick) options = {.replays = 1, .launches_min = 2, .copies_max = 2};
  bool sound = true;
  for (const GpuCase& gpu_case : AllCases(device, flags.quick)) {
    if (gpu_case.name.find(flags.only) == std::string::npos) continue;
    if (!RunCase(gpu_case, device, stream.get(), options, rooflines)) {
      std::cerr << "tandem-bench-gpu: " << gpu_case.name << " gave values that are not finite\n";
      sound = false;
    }
  }
  return sound ? 0 : 1;
}

int Main(int argc, char** argv) {
  CLI::App app("Times every kernel of the CUDA backend on this machine's first GPU",
               "tandem-bench-gpu");
  Flags flags;
  app.add_flag("--quick", flags.quick, "Tiny shapes: tries the program out, measures nothing");
  app.add_flag("--list", flags.list, "Prints the names of all cases and ends");
  app.add_option("--only", flags.only, "Cases whose name contains this text");
  app.add_option("--replays", flags.replays, "Graphs timed of each case")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const auto device = cuda::UseDevice(0);
  if (!device.ok()) {
    std::cerr << "tandem-bench-gpu: " << device.status().message() << "\n";
    return kNoDevice;
  }
  if (!flags.list) return Run(flags, *device);
  for (const GpuCase& gpu_case : AllCases(*device, flags.quick)) std::cout << gpu_case.name << "\n";
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) { return tandem::bench::Main(argc, argv); }
