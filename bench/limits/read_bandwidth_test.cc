#include "bench/limits/read_bandwidth.h"

#include <gtest/gtest.h>

#include "bench/limits/compute_peaks.h"
#include "bench/limits/memory_pages.h"
#include "bench/limits/quiet.h"

namespace tandem::bench {
namespace {

constexpr int64_t kBytes = 2 * kReadGrain;
constexpr int64_t kLine = 64;

// A pattern that left lines out would report a bandwidth nobody has.
TEST(ReadPatternsTest, EveryLineIsRead) {
  auto memory = PagedMemory::Create(kBytes, Pages::kHuge);
  ASSERT_TRUE(memory.ok()) << memory.status();
  std::fill_n(memory->data(), kBytes, std::byte{0});
  for (const ReadPattern& pattern : ReadPatterns()) {
    EXPECT_EQ(pattern.read(memory->data(), kBytes), 0u) << pattern.name;
    for (int64_t at = 0; at < kBytes; at += kLine) {
      memory->data()[at] = std::byte{1};
      EXPECT_NE(pattern.read(memory->data(), kBytes), 0u) << pattern.name << ", byte " << at;
      memory->data()[at] = std::byte{0};
    }
  }
}

TEST(ReadSpeedsTest, TheBestPatternCounts) {
  auto memory = PagedMemory::Create(int64_t{1} << 20, Pages::kSmall);
  ASSERT_TRUE(memory.ok()) << memory.status();
  base::ThreadPool pool(2);
  ReadSpeeds speeds;
  for (size_t i = 0; i < 2 * ReadPatterns().size(); ++i) speeds.Sample(&pool, memory->span());
  EXPECT_GT(speeds.median_gb_s(), 0.0);
  EXPECT_GE(speeds.best_gb_s(), speeds.median_gb_s());
}

TEST(MedianTest, MiddleOfValues) {
  EXPECT_EQ(Median({}), 0.0);
  EXPECT_EQ(Median({3.0, 1.0, 2.0}), 2.0);
}

TEST(ComputePeaksTest, OneFigurePerKind) {
  const std::vector<ComputePeak> peaks = MeasureComputePeaks(1);
  for (size_t i = 0; i < peaks.size(); ++i) {
    EXPECT_GT(peaks[i].gops, 0.0) << peaks[i].instruction;
    for (size_t j = i + 1; j < peaks.size(); ++j)
      EXPECT_NE(peaks[i].arithmetic, peaks[j].arithmetic) << peaks[j].instruction;
  }
}

TEST(LoadMeterTest, OwnWorkIsNotOthersWork) {
  const LoadMeter meter;
  const double start = ProcessCpuSeconds();
  while (ProcessCpuSeconds() - start < 0.2) {
  }
  const LoadSample load = meter.Read();
  EXPECT_GE(load.own_cpu_s, 0.2);
  EXPECT_GE(load.wall_s, 0.19);
  EXPECT_GE(load.other_cpu_s, 0.0);
}

}  // namespace
}  // namespace tandem::bench
