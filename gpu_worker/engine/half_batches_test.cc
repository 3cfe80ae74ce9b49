#include "gpu_worker/engine/half_batches.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "lib/model/synth_presets.h"

namespace tandem::gpu_worker {
namespace {

ModelConfig DeepSeekV3() {
  return ParseHfConfig(SynthPresetConfig("v3-layer").value(), "v3-layer").value();
}

struct Whole {
  StepBatch step;
  std::vector<int64_t> owners;

  void Add(int64_t owner, int64_t rows, int64_t start, RowKind kind = RowKind::kPrefill) {
    step.segments.push_back({kind, step.rows(), rows, start, {}});
    for (int64_t i = 0; i < rows; ++i) {
      step.token_ids.push_back(static_cast<uint32_t>(1000 * owner + i));
      step.positions.push_back(start + i);
      owners.push_back(owner);
    }
  }
};

int64_t Cost(const StepBatch& step) {
  int64_t cost = 0;
  for (const Segment& segment : step.segments) cost += SegmentCost(DeepSeekV3(), segment);
  return cost;
}

// Every row is in one half, with its token and position; segments are whole; no owner is in both.
void ExpectWellCut(const Whole& whole, const std::vector<HalfBatch>& halves) {
  std::set<int64_t> rows;
  std::set<int64_t> owners[2];
  for (size_t h = 0; h < halves.size(); ++h) {
    const StepBatch& step = halves[h].step;
    ASSERT_EQ(step.rows(), static_cast<int64_t>(halves[h].rows.size()));
    int64_t next = 0;
    for (const Segment& segment : step.segments) {
      EXPECT_EQ(segment.row_begin, next);
      next += segment.rows;
      const int64_t from = halves[h].rows[segment.row_begin];
      for (int64_t i = 0; i < segment.rows; ++i) {
        const int64_t row = halves[h].rows[segment.row_begin + i];
        EXPECT_EQ(row, from + i);
        EXPECT_TRUE(rows.insert(row).second);
        EXPECT_EQ(step.token_ids[segment.row_begin + i], whole.step.token_ids[row]);
        EXPECT_EQ(step.positions[segment.row_begin + i], whole.step.positions[row]);
        owners[h].insert(whole.owners[row]);
      }
      EXPECT_EQ(segment.start_position, step.positions[segment.row_begin]);
    }
    EXPECT_EQ(next, step.rows());
  }
  EXPECT_EQ(rows.size(), whole.owners.size());
  for (const int64_t owner : owners[0]) EXPECT_FALSE(owners[1].contains(owner));
}

TEST(HalfBatchesTest, OneSequenceStaysWhole) {
  Whole whole;
  whole.Add(7, 100, 0);
  whole.Add(7, 3, 100, RowKind::kDecode);  // a replay behind its prompt
  const auto halves = SplitStep(DeepSeekV3(), whole.step, whole.owners, 2);
  ASSERT_EQ(halves.size(), 1u);
  ExpectWellCut(whole, halves);
}

TEST(HalfBatchesTest, TheThresholdCountsRows) {
  Whole whole;
  for (int64_t s = 0; s < 8; ++s) whole.Add(s, 1, 50 + s, RowKind::kDecode);
  EXPECT_EQ(SplitStep(DeepSeekV3(), whole.step, whole.owners, 0).size(), 1u);
  EXPECT_EQ(SplitStep(DeepSeekV3(), whole.step, whole.owners, 9).size(), 1u);
  const auto halves = SplitStep(DeepSeekV3(), whole.step, whole.owners, 8);
  ASSERT_EQ(halves.size(), 2u);
  ExpectWellCut(whole, halves);
  EXPECT_EQ(halves[0].step.rows(), 4);
}

TEST(HalfBatchesTest, LongContextsCountMoreThanRows) {
  // Two rows over 100,000 keys cost a row more than the projections of thirty: they are parted.
  Whole whole;
  whole.Add(1, 1, 100'000, RowKind::kDecode);
  whole.Add(2, 1, 100'000, RowKind::kDecode);
  for (int64_t s = 3; s < 33; ++s) whole.Add(s, 1, 10, RowKind::kDecode);
  const auto halves = SplitStep(DeepSeekV3(), whole.step, whole.owners, 2);
  ASSERT_EQ(halves.size(), 2u);
  ExpectWellCut(whole, halves);
  EXPECT_EQ(halves[0].step.rows(), 16);
  EXPECT_EQ(halves[1].step.rows(), 16);
  for (const HalfBatch& half : halves) EXPECT_EQ(half.step.positions[0], 100'000);
}

TEST(HalfBatchesTest, RandomStepsAreWellCutAndBalanced) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    Whole whole;
    const int64_t sequences = 2 + random() % 12;
    int64_t dearest = 0;
    for (int64_t s = 0; s < sequences; ++s) {
      const bool prefill = random() % 2 == 0;
      const int64_t rows = prefill ? 1 + random() % 90 : 1;
      whole.Add(s, rows, random() % 3000, prefill ? RowKind::kPrefill : RowKind::kDecode);
      dearest = std::max(dearest, SegmentCost(DeepSeekV3(), whole.step.segments.back()));
    }
    const auto halves = SplitStep(DeepSeekV3(), whole.step, whole.owners, 2);
    ASSERT_EQ(halves.size(), 2u);
    ExpectWellCut(whole, halves);
    EXPECT_GE(halves[0].step.rows(), halves[1].step.rows());
    // Whatever was given to the cheaper half last cannot have made it dearer by more than itself.
    EXPECT_LE(std::abs(Cost(halves[0].step) - Cost(halves[1].step)), dearest);
    const auto again = SplitStep(DeepSeekV3(), whole.step, whole.owners, 2);
    for (int h = 0; h < 2; ++h) EXPECT_EQ(again[h].rows, halves[h].rows);
  }
}

TEST(HalfBatchesTest, CostIsThatOfTheLayer) {
  // V3, one row over one key, by hand: queries 1536 * (7168 + 128 * 192), keys 7168 * 576, absorbed
  // 128 * 512 * (128 + 128), output 128 * 128 * 7168, shared 3 * 7168 * 2048; one key 128 * 1088.
  EXPECT_EQ(SegmentCost(DeepSeekV3(), {RowKind::kDecode, 0, 1, 0, {}}),
            48'758'784 + 4'128'768 + 16'777'216 + 117'440'512 + 44'040'192 + 139'264);
  // Rows of one segment have 11, 12 and 13 keys.
  const int64_t row = SegmentCost(DeepSeekV3(), {RowKind::kDecode, 0, 1, 0, {}}) - 139'264;
  EXPECT_EQ(SegmentCost(DeepSeekV3(), {RowKind::kPrefill, 0, 3, 10, {}}), 3 * row + 36 * 139'264);
}

TEST(HalfBatchesTest, OnlyDevicesThatWorkByThemselvesSplitByDefault) {
  BackendInfo backend;
  backend.rows_max = 2048;
  EXPECT_EQ(DefaultHalfRowsMin(DeepSeekV3(), backend), 0);
  backend.asynchronous = true;
  EXPECT_EQ(DefaultHalfRowsMin(DeepSeekV3(), backend),
            2048);  // 2 * 32 rows for each expert, 8 of 256
  backend.rows_max = 2047;
  EXPECT_EQ(DefaultHalfRowsMin(DeepSeekV3(), backend), 0);
}

}  // namespace
}  // namespace tandem::gpu_worker
