// Norms against f64 within what their roundings allow, and bit for bit where sums are exact.
#include <gtest/gtest.h>

#include "gpu_worker/backend/cuda/kernels/rows/rows_test_support.h"
#include "lib/kernels/linear.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr float kEps = 1e-6f;
// One warp, its tail, its most, a block's least, odd, more than a block holds.
constexpr int64_t kWidths[] = {1, 7, 64, 513, 1024, 1025, 1536, 2057, 8195};

std::vector<float> RandomWeight(int64_t cols, std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(0.25f, 2.0f);
  std::vector<float> weight(cols);
  for (float& w : weight) w = uniform(random);
  return weight;
}

// The host backend's, whose sum is kernels::DotF32's.
std::vector<float> HostNorm(Storage storage, const float* x, const std::vector<float>& weight) {
  const auto n = static_cast<int64_t>(weight.size());
  const float mean = kernels::DotF32(x, x, n) / static_cast<float>(n);
  const float scale = 1.0f / std::sqrt(mean + kEps);
  std::vector<float> out(n);
  for (int64_t i = 0; i < n; ++i) out[i] = InStorage(storage, x[i] * scale * weight[i]);
  return out;
}

struct Norm {
  TestRows x, out;
  std::vector<float> weight;
};

RmsNormArgs ArgsOf(DeviceForTest& device, const Norm& n, const void* x, void* out) {
  RmsNormArgs args;
  args.storage = n.x.storage;
  args.x = x;
  args.x_stride = n.x.stride;
  args.weight = device.Upload(n.weight);
  args.eps = kEps;
  args.cols = n.x.cols;
  args.rows = n.out.rows;
  args.out = out;
  args.out_stride = n.out.stride;
  return args;
}

std::vector<float> Normed(const Norm& n) {
  DeviceForTest device;
  void* const out = AllocateRows(device, n.out);
  RmsNorm(ArgsOf(device, n, UploadRows(device, n.x), out), device.stream());
  return DownloadRows(device, n.out, out);
}

Norm RandomNorm(Storage storage, int64_t rows, int64_t cols, std::mt19937& random) {
  Norm n{RandomRows(storage, rows, cols, cols + 3, 1, random, 6),
         {storage, rows, cols, cols + 5, 3},
         RandomWeight(cols, random)};
  return n;
}

// f32: the sum of n squares by chains of at most 40 + 13 additions is off by 54 * 2^-24, which the
// root halves; division, addition of eps, root, reciprocal and two products add six roundings. In
// bf16 one more, of 2^-8 (8 significant bits).
TEST(RmsNorm, IsTheNormWithinItsRoundings) {
  std::mt19937 random(1);
  for (const Storage storage : kStorages) {
    for (const int64_t cols : kWidths) {
      const Norm n = RandomNorm(storage, 3, cols, random);
      const std::vector<float> found = Normed(n);
      const double tolerance = 33 * std::ldexp(1.0, -24) +
                               (storage == Storage::kBf16 ? 1.01 * std::ldexp(1.0, -8) : 0.0);
      for (int64_t r = 0; r < 3; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < cols; ++c) sum += static_cast<double>(n.x.at(r, c)) * n.x.at(r, c);
        const double scale = 1 / std::sqrt(sum / static_cast<double>(cols) + kEps);
        for (int64_t c = 0; c < cols; ++c) {
          const double expected = n.x.at(r, c) * scale * n.weight[c];
          ASSERT_NEAR(found[r * cols + c], expected, tolerance * std::abs(expected) + 1e-38)
              << cols << " " << r << " " << c;
        }
      }
    }
  }
}

// Squares of small whole numbers: every order of their sum is exact, so the rest must be the
// host's.
TEST(RmsNorm, IsTheHostsWhereTheSumIsExact) {
  std::mt19937 random(2);
  for (const Storage storage : kStorages) {
    for (const int64_t cols : kWidths) {
      Norm n = RandomNorm(storage, 2, cols, random);
      for (float& v : n.x.values) v = static_cast<float>(static_cast<int>(random() % 17) - 8);
      const std::vector<float> found = Normed(n);
      std::vector<float> expected;
      for (int64_t r = 0; r < 2; ++r) {
        const std::vector<float> row = HostNorm(storage, n.x.row(r), n.weight);
        expected.insert(expected.end(), row.begin(), row.end());
      }
      ExpectSameBits(found, expected);
    }
  }
}

TEST(RmsNorm, ARowAloneAnywhereHasTheSameBits) {
  std::mt19937 random(3);
  for (const Storage storage : kStorages) {
    for (const int64_t cols : {24, 1024, 1536, 8200}) {
      const Norm n = RandomNorm(storage, 9, cols, random);
      const std::vector<float> all = Normed(n);
      ExpectSameBits(Normed(n), all);
      for (const int64_t r : {0, 5, 8}) {
        Norm alone{{storage, 1, cols, cols + 8, 16}, {storage, 1, cols, cols, 0}, n.weight};
        alone.x.values.assign(n.x.row(r), n.x.row(r) + cols);
        ExpectSameBits(Normed(alone), {all.begin() + r * cols, all.begin() + (r + 1) * cols});
      }
    }
  }
}

TEST(RmsNorm, InPlaceAndGathered) {
  std::mt19937 random(4);
  for (const Storage storage : kStorages) {
    for (const int64_t cols : {100, 1100, 8200}) {
      const Norm n = RandomNorm(storage, 5, cols, random);
      const std::vector<float> expected = Normed(n);
      DeviceForTest device;
      void* const x = UploadRows(device, n.x);
      RmsNormArgs args = ArgsOf(device, n, x, x);
      args.out_stride = n.x.stride;
      RmsNorm(args, device.stream());
      ExpectSameBits(DownloadRows(device, n.x, x), expected);

      Norm some = n;
      some.out = {storage, 3, cols, cols, 0};
      void* const out = AllocateRows(device, some.out);
      args = ArgsOf(device, some, UploadRows(device, n.x), out);
      args.row_ids = device.Upload(std::vector<uint32_t>{4, 0, 4});
      RmsNorm(args, device.stream());
      std::vector<float> gathered;
      for (const int64_t r : {4, 0, 4}) {
        gathered.insert(gathered.end(), expected.begin() + r * cols,
                        expected.begin() + (r + 1) * cols);
      }
      ExpectSameBits(DownloadRows(device, some.out, out), gathered);
    }
  }
}

TEST(RmsNorm, ANanStaysInItsRowAndNoRowsAreNoWork) {
  std::mt19937 random(5);
  Norm n = RandomNorm(Storage::kBf16, 3, 1030, random);
  const std::vector<float> clean = Normed(n);
  n.x.values[1030 + 7] = kNan;
  const std::vector<float> found = Normed(n);
  for (int64_t i = 0; i < 3 * 1030; ++i) {
    if (i / 1030 == 1) {
      EXPECT_TRUE(std::isnan(found[i]));
    } else {
      ASSERT_TRUE(SameBits(found[i], clean[i]));
    }
  }
  n.out.rows = 0;
  EXPECT_TRUE(Normed(n).empty());
}

struct Keys {
  Storage storage;
  int64_t latent, rope, rows;
  bool halves;
  TestRows kv;
  std::vector<float> weight, cos = {}, sin = {};
  std::vector<int64_t> slots = {};
};

Keys RandomKeys(Storage storage, int64_t latent, int64_t rope, bool halves, std::mt19937& random) {
  Keys k{storage,
         latent,
         rope,
         3,
         halves,
         RandomRows(storage, 3, latent + rope, latent + rope, 0, random),
         RandomWeight(latent, random)};
  for (float& v : k.kv.values) v = InStorage(storage, std::round(v * 4));  // sums are exact
  std::uniform_real_distribution<float> angle(-4, 4);
  for (int64_t i = 0; i < k.rows * rope / 2; ++i) {
    const float a = angle(random);
    k.cos.push_back(std::cos(a));
    k.sin.push_back(std::sin(a));
  }
  k.slots = {6, -1, 2};
  return k;
}

// The host backend's Rope::Apply and rounding.
std::vector<float> HostRotated(Storage storage, bool halves, const float* v, int64_t rope,
                               const float* cos, const float* sin) {
  std::vector<float> out(v, v + rope);
  const int64_t half = rope / 2;
  for (int64_t i = 0; i < half; ++i) {
    float& a = halves ? out[i] : out[2 * i];
    float& b = halves ? out[i + half] : out[2 * i + 1];
    const float turned_a = a * cos[i] - b * sin[i], turned_b = b * cos[i] + a * sin[i];
    a = InStorage(storage, turned_a);
    b = InStorage(storage, turned_b);
  }
  return out;
}

std::vector<float> RunKeys(const Keys& k, int64_t kv_stride) {
  DeviceForTest device;
  TestRows kv = k.kv;
  kv.stride = kv_stride == 0 ? k.latent + k.rope : kv_stride;
  FinishKeysArgs args;
  args.storage = k.storage;
  args.kv = UploadRows(device, kv);
  args.kv_stride = kv_stride;
  args.weight = device.Upload(k.weight);
  args.eps = kEps;
  args.latent = k.latent;
  args.rows = k.rows;
  args.rope = {device.Upload(k.cos), device.Upload(k.sin), k.rope, k.halves};
  args.slots = device.Upload(k.slots);
  const TestRows cache{k.storage, 8, k.latent + k.rope, k.latent + k.rope, 0};
  args.cache = AllocateRows(device, cache);
  FinishKeys(args, device.stream());
  return DownloadRows(device, cache, args.cache);
}

TEST(FinishKeys, WritesTheHostsRowsToTheirSlotsAndNothingElse) {
  std::mt19937 random(6);
  for (const Storage storage : kStorages) {
    for (const bool halves : {false, true}) {
      for (const auto& [latent, rope] :
           {std::pair<int64_t, int64_t>{512, 64}, {40, 8}, {33, 6}, {1100, 34}}) {
        const Keys k = RandomKeys(storage, latent, rope, halves, random);
        const int64_t width = latent + rope;
        std::vector<float> expected(8 * width, kNan);
        for (const int64_t r : {0, 2}) {
          float* const to = expected.data() + k.slots[r] * width;
          const std::vector<float> normed = HostNorm(storage, k.kv.row(r), k.weight);
          const std::vector<float> turned =
              HostRotated(storage, halves, k.kv.row(r) + latent, rope, k.cos.data() + r * rope / 2,
                          k.sin.data() + r * rope / 2);
          std::copy(normed.begin(), normed.end(), to);
          std::copy(turned.begin(), turned.end(), to + latent);
        }
        ExpectSameBits(RunKeys(k, 0), expected);
        ExpectSameBits(RunKeys(k, width + 7), expected);
      }
    }
  }
}

TEST(RotateQueries, AreTheHosts) {
  std::mt19937 random(7);
  for (const Storage storage : kStorages) {
    for (const bool halves : {false, true}) {
      for (const auto& [heads, head_dim, rope] :
           {std::array<int64_t, 3>{16, 192, 64}, {3, 21, 6}, {1, 10, 10}, {70, 40, 34}}) {
        const int64_t rows = 2, width = heads * head_dim;
        const Keys k = RandomKeys(storage, 8, rope, halves, random);
        TestRows q = RandomRows(storage, rows, width, width, 0, random);
        DeviceForTest device;
        void* const memory = UploadRows(device, q);
        TestRows wider = q;  // another product's outputs lie behind these
        wider.stride += 13;
        RotateQueriesArgs args = {
            .storage = storage,
            .rope = {device.Upload(k.cos), device.Upload(k.sin), rope, halves},
            .heads = heads,
            .head_dim = head_dim,
            .rows = rows,
            .q = memory};
        RotateQueries(args, device.stream());
        args.from = UploadRows(device, wider);
        args.from_stride = wider.stride;
        args.q = AllocateRows(device, q);
        RotateQueries(args, device.stream());
        for (int64_t i = 0; i < rows * heads; ++i) {
          const int64_t r = i / heads;
          float* const v = q.values.data() + (i + 1) * head_dim - rope;
          const std::vector<float> turned = HostRotated(
              storage, halves, v, rope, k.cos.data() + r * rope / 2, k.sin.data() + r * rope / 2);
          std::copy(turned.begin(), turned.end(), v);
        }
        ExpectSameBits(DownloadRows(device, q, memory), q.values);
        ExpectSameBits(DownloadRows(device, q, args.q), q.values);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
