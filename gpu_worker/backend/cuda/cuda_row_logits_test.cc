// What a device says of its logits is what the host says of the same ones.
#include "gpu_worker/backend/cuda/cuda_row_logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/host/host_logits.h"

namespace tandem::gpu_worker::cuda {
namespace {

// The same random rows, many of them with ties, on both; own: what they have of the vocabulary.
class Both {
 public:
  Both(int64_t rows_max, int64_t vocab, ShardRange own)
      : vocab_(vocab), own_(own), host(vocab, own, pool_) {
    logits_ = device_.Allocate<float>(std::max<int64_t>(1, rows_max * own.size()));
    device = *CudaRowLogits::Create({rows_max, vocab, own}, logits_, device_.stream());
  }

  // Returns the highest of each row, over this share.
  std::vector<float> Fill(int64_t rows, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal(0, 4);
    const std::span<float> values = host.Reset(rows);
    std::vector<float> highest(rows, 0.0f);
    for (size_t i = 0; i < values.size(); ++i) {
      const float value = normal(random);
      values[i] = random() % 2 == 0 ? std::round(value) : value;
      float& top = highest[static_cast<int64_t>(i) / own_.size()];
      top = std::max(top, values[i]);
    }
    Send(values);
    device->SetRows(rows);
    return highest;
  }
  void Send(std::span<const float> values) {
    if (!values.empty()) {
      CopyToDevice(logits_, values.data(), values.size_bytes(), device_.stream());
    }
    Synchronize(device_.stream());
  }

  void ExpectSameBest(int64_t k) {
    BestLogits expected, found;
    found.tokens.resize(3);  // of another question
    host.Best(k, &expected);
    device->Best(k, &found);
    EXPECT_EQ(found.k, k);
    EXPECT_EQ(found.not_finite, expected.not_finite);
    ASSERT_EQ(found.tokens.size(), expected.tokens.size());
    for (size_t i = 0; i < found.tokens.size(); ++i) {
      if (expected.not_finite[i / k] == kNoToken) {
        ASSERT_EQ(found.tokens[i], expected.tokens[i]);
      }
    }
  }

  void ExpectSameSums(const std::vector<WeightSumAsk>& asks) {
    std::vector<uint64_t> expected, found;
    host.WeightSums(asks, &expected);
    device->WeightSums(asks, &found);
    EXPECT_EQ(found, expected);
  }

  void ExpectSameValues(const std::vector<LogitPlace>& places) {
    std::vector<float> expected(places.size(), -7), found(places.size(), -7);
    host.At(places, &expected);
    device->At(places, &found);
    EXPECT_EQ(found, expected) << "what is not here is left alone";
  }

  void ExpectSameRows(const std::vector<int64_t>& rows) {
    std::vector<float> expected(rows.size() * vocab_, -7), found(rows.size() * vocab_, -7);
    host.Rows(rows, &expected);
    device->Rows(rows, &found);
    EXPECT_EQ(found, expected);
  }

  void ExpectSame(int64_t rows, uint64_t seed) {
    std::mt19937_64 random(seed);
    const std::vector<float> highest = Fill(rows, seed);
    for (const int64_t k : {1, 7, 64}) {
      if (k <= vocab_) ExpectSameBest(k);
    }
    std::vector<WeightSumAsk> asks;
    std::vector<LogitPlace> places;
    std::vector<int64_t> whole;
    for (uint32_t r = 0; r < rows; ++r) {
      asks.push_back({r, highest[r], 1});
      asks.push_back({r, highest[r] + 1, 0.3f});
      for (int i = 0; i < 3; ++i) {
        places.push_back(
            {static_cast<uint32_t>(random() % rows), static_cast<uint32_t>(random() % vocab_)});
      }
      if (r % 3 != 1) whole.insert(whole.begin(), r);
    }
    ExpectSameSums(asks);
    ExpectSameValues(places);
    ExpectSameRows(whole);
  }

 private:
  const int64_t vocab_;
  const ShardRange own_;
  base::ThreadPool pool_{1};
  DeviceForTest device_;
  float* logits_ = nullptr;

 public:
  HostLogits host;
  std::unique_ptr<CudaRowLogits> device;
};

TEST(CudaRowLogits, SayWhatTheHostSays) {
  Both whole(20, 5000, {0, 5000});
  for (const int64_t rows : {20, 1, 9}) whole.ExpectSame(rows, 10 + rows);
  Both(3, 1, {0, 1}).ExpectSame(3, 1);
  Both(3, 64, {0, 64}).ExpectSame(2, 2);
}

TEST(CudaRowLogits, OfAShareOfTheVocabulary) {
  Both(6, 300, {100, 200}).ExpectSame(5, 1);
  Both(6, 300, {290, 300}).ExpectSame(6, 2);  // fewer than are asked for
  Both(6, 300, {300, 300}).ExpectSame(6, 3);  // nothing
}

TEST(CudaRowLogits, MoreQuestionsThanOneLaunchTakes) {
  Both both(2, 200, {0, 200});
  const std::vector<float> highest = both.Fill(2, 1);
  std::vector<WeightSumAsk> asks;
  std::vector<LogitPlace> places;
  for (uint32_t i = 0; i < 5000; ++i) {
    asks.push_back({i % 2, highest[i % 2], 1 + static_cast<float>(i)});
    places.push_back({i % 2, i % 200});
  }
  both.ExpectSameSums(asks);
  both.ExpectSameValues(places);
  both.ExpectSameSums({});
  both.ExpectSameValues({});
  both.ExpectSameRows({});
}

TEST(CudaRowLogits, TheLowestThatIsNotFinite) {
  Both both(3, 500, {100, 300});
  both.Fill(3, 1);
  const std::span<float> values = both.host.Reset(3);
  std::vector<float> copy(values.begin(), values.end());
  copy[1 * 200 + 199] = -HUGE_VALF;
  copy[2 * 200 + 50] = NAN;
  copy[2 * 200 + 60] = HUGE_VALF;
  std::copy(copy.begin(), copy.end(), values.begin());
  both.Send(values);
  both.ExpectSameBest(5);
  BestLogits best;
  both.device->Best(1, &best);
  EXPECT_EQ(best.not_finite, (std::vector<uint32_t>{kNoToken, 299, 150}));
}

TEST(CudaRowLogits, NoRows) {
  Both both(2, 100, {0, 100});
  both.device->SetRows(0);
  BestLogits best;
  both.device->Best(3, &best);
  EXPECT_TRUE(best.tokens.empty() && best.not_finite.empty());
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
