// The best logits: exactly those of a sort.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "gpu_worker/backend/cuda/kernels/rows/rows_test_support.h"

namespace tandem::gpu_worker::cuda {
namespace {

struct Top {
  std::vector<float> values;
  std::vector<uint32_t> ids;
  std::vector<uint32_t> not_finite;
};

Top OnDevice(const std::vector<float>& logits, int64_t rows, int64_t k) {
  DeviceForTest device;
  TopLogitsArgs args;
  args.logits = device.Upload(logits);
  args.rows = rows;
  args.vocab = rows == 0 ? 1 : static_cast<int64_t>(logits.size()) / rows;
  args.k = k;
  args.values = device.Allocate<float>(rows * k);
  args.ids = device.Allocate<uint32_t>(rows * k);
  args.not_finite = device.Allocate<uint32_t>(rows);
  args.workspace_bytes = TopLogitsWorkspaceBytes(rows, args.vocab, k);
  args.workspace = device.Allocate<std::byte>(args.workspace_bytes);
  TopLogits(args, device.stream());
  return {device.Download(args.values, rows * k), device.Download(args.ids, rows * k),
          device.Download(args.not_finite, rows)};
}

// The order of the engine's sampler: value, then lower id.
std::vector<uint32_t> Sorted(std::span<const float> logits) {
  std::vector<uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  return order;
}

void ExpectTop(const std::vector<float>& logits, int64_t rows, int64_t k) {
  const Top found = OnDevice(logits, rows, k);
  const auto vocab = static_cast<int64_t>(logits.size()) / rows;
  for (int64_t r = 0; r < rows; ++r) {
    const std::span<const float> row = std::span(logits).subspan(r * vocab, vocab);
    const std::vector<uint32_t> order = Sorted(row);
    EXPECT_EQ(found.not_finite[r], kNoRow);
    for (int64_t i = 0; i < k; ++i) {
      ASSERT_EQ(found.ids[r * k + i], order[i]) << "row " << r << " rank " << i;
      ASSERT_TRUE(SameBits(found.values[r * k + i], row[order[i]]));
    }
  }
}

std::vector<float> Normal(int64_t count, float spread, std::mt19937& random) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

TEST(TopLogits, AreTheFirstOfASort) {
  std::mt19937 random(1);
  for (const int64_t vocab : {1, 3, 63, 64, 255, 4096, 4097, 9000, 12289}) {
    for (const int64_t k : {1, 5, 20, 64}) {
      if (k <= vocab) ExpectTop(Normal(2 * vocab, 4, random), 2, k);
    }
  }
}

TEST(TopLogits, ALargeVocabulary) {
  std::mt19937 random(2);
  ExpectTop(Normal(163840, 3, random), 1, 64);
  ExpectTop(Normal(129280, 300, random), 1, 3);
}

TEST(TopLogits, TiesGoToTheLowerId) {
  std::mt19937 random(3);
  std::vector<float> logits = Normal(9000, 2, random);
  for (float& v : logits) v = std::round(v);
  ExpectTop(logits, 1, 64);
  ExpectTop(std::vector<float>(9000, -1.5f), 1, 64);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = i % 3 == 0 ? 0.0f : -0.0f;
  ExpectTop(logits, 1, 10);  // zeros of both signs are equal
}

// All of the best where one thread looks, in one chunk, and in ascending or descending order.
TEST(TopLogits, UnevenlySpread) {
  std::mt19937 random(4);
  std::vector<float> logits = Normal(8192, 1, random);
  for (int i = 0; i < 32; ++i) logits[128 * i + 77] = 50.0f + static_cast<float>(i % 5);
  ExpectTop(logits, 1, 40);
  for (int i = 0; i < 300; ++i) logits[5000 + i] = 90.0f - static_cast<float>(i % 90);
  ExpectTop(logits, 1, 64);
  std::sort(logits.begin(), logits.end());
  ExpectTop(logits, 1, 64);
  std::reverse(logits.begin(), logits.end());
  ExpectTop(logits, 1, 64);
}

TEST(TopLogits, ARowThatIsNotFiniteIsReported) {
  std::mt19937 random(5);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {kNan, infinity, -infinity}) {
    std::vector<float> logits = Normal(3 * 5000, 3, random);
    const Top clean = OnDevice(logits, 3, 4);
    logits[5000 + 4567] = bad;
    const Top found = OnDevice(logits, 3, 4);
    EXPECT_EQ(found.not_finite, (std::vector<uint32_t>{kNoRow, 4567, kNoRow})) << bad;
    for (const int64_t r : {0, 2}) {
      EXPECT_TRUE(std::equal(clean.ids.begin() + r * 4, clean.ids.begin() + r * 4 + 4,
                             found.ids.begin() + r * 4));
    }
    for (const uint32_t id : found.ids) EXPECT_LT(id, 5000u);
    // The lowest of several, in one thread, one chunk and different chunks.
    for (const int64_t id : {4566, 4439, 3000, 7}) {
      logits[5000 + id] = infinity - bad;
      EXPECT_EQ(OnDevice(logits, 3, 4).not_finite[1], id);
    }
  }
  const Top none = OnDevice(std::vector<float>(70, kNan), 1, 64);
  EXPECT_EQ(none.not_finite[0], 0u);
  for (const uint32_t id : none.ids) EXPECT_LT(id, 70u);
}

TEST(TopLogits, TheLargestNumbersAreFinite) {
  const float largest = std::numeric_limits<float>::max();
  std::vector<float> logits(1000, -largest);
  logits[500] = largest;
  const Top found = OnDevice(logits, 1, 2);
  EXPECT_EQ(found.ids, (std::vector<uint32_t>{500, 0}));
  EXPECT_EQ(found.not_finite[0], kNoRow);
}

TEST(TopLogits, ARowAloneHasTheSameAnswerAndNoRowsAreNoWork) {
  std::mt19937 random(6);
  const std::vector<float> logits = Normal(4 * 6000, 3, random);
  const Top all = OnDevice(logits, 4, 8);
  const Top one = OnDevice({logits.begin() + 2 * 6000, logits.begin() + 3 * 6000}, 1, 8);
  EXPECT_TRUE(std::equal(one.ids.begin(), one.ids.end(), all.ids.begin() + 16));
  EXPECT_TRUE(OnDevice({}, 0, 8).ids.empty());
}

// One workspace for launches of different shapes, as a server has it.
TEST(TopLogits, AWorkspaceMayBeDirty) {
  std::mt19937 random(7);
  const std::vector<float> large = Normal(2 * 9000, 3, random), small = Normal(70, 3, random);
  const Top expected = OnDevice(small, 1, 5);
  DeviceForTest device;
  TopLogitsArgs args;
  args.workspace_bytes = TopLogitsWorkspaceBytes(2, 9000, 64);
  args.workspace = device.Allocate<std::byte>(args.workspace_bytes);
  args.values = device.Allocate<float>(2 * 64);
  args.ids = device.Allocate<uint32_t>(2 * 64);
  args.not_finite = device.Allocate<uint32_t>(2);
  args.logits = device.Upload(large);
  args.rows = 2, args.vocab = 9000, args.k = 64;
  TopLogits(args, device.stream());
  args.logits = device.Upload(small);
  args.rows = 1, args.vocab = 70, args.k = 5;
  TopLogits(args, device.stream());
  EXPECT_EQ(device.Download(args.ids, 5), expected.ids);
  ExpectSameBits(device.Download(args.values, 5), expected.values);
  EXPECT_EQ(device.Download(args.not_finite, 1), expected.not_finite);
}

TEST(TopLogitsDeathTest, RefusesWhatItHasNoRoomFor) {
  TopLogitsArgs args;
  args.rows = 1, args.vocab = 100, args.k = 65;
  args.workspace_bytes = 1 << 20;
  EXPECT_DEATH(TopLogits(args, nullptr), "kTopLogitsMax");
  args.k = 64;
  args.workspace_bytes = TopLogitsWorkspaceBytes(1, 100, 64) - 1;
  EXPECT_DEATH(TopLogits(args, nullptr), "workspace_bytes");
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
