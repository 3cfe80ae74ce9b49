// Prefill against float64, and its promises about bits: chunks of a prompt, pieces of its prefix,
// heads at a time and launches before it change nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <utility>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"
#include "gpu_worker/backend/cuda/kernels/attention/prefill_kernels.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int64_t kUnusedPages = 3;

double ToDouble(float value) { return value; }
double ToDouble(uint16_t value) { return BF16ToF32(value); }
template <typename T>
T Round(double value) {
  if constexpr (sizeof(T) == 2) {
    return F32ToBF16(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}
template <typename T>
constexpr Storage StorageOf() {
  return sizeof(T) == 2 ? Storage::kBf16 : Storage::kF32;
}

MlaShape Tiny(int64_t heads) {
  return {.heads = heads, .latent = 32, .rope = 16, .nope = 32, .v = 32, .softmax_scale = 0.3f};
}

// A sequence in a cache of permuted pages, all that is not part of it NaN, and the weights.
template <typename T>
class Sequence {
 public:
  Sequence(const MlaShape& shape, int64_t tokens, uint32_t seed)
      : shape_(shape), tokens_(tokens), random_(seed) {
    MakeCache();
    q_ = Values(tokens * shape.heads * (shape.nope + shape.rope), 1.0);
    const double up_scale = 1.5 / std::sqrt(static_cast<double>(shape.latent));
    key_up_ = Values(shape.heads * shape.nope * shape.latent, up_scale);
    value_up_ = Values(shape.heads * shape.v * shape.latent, up_scale);
  }

  // Rows [start, start + rows) by one call; out [rows, heads, v].
  std::vector<T> Run(DeviceForTest& device, Kernels kernels, int64_t start, int64_t rows,
                     const PrefillLimits& limits = {}) {
    Upload(device);
    const int64_t row_values = shape_.heads * (shape_.nope + shape_.rope);
    const int64_t count = rows * shape_.heads * shape_.v;
    const size_t bytes = PrefillWorkspaceBytes(shape_, StorageOf<T>(), rows, limits);
    T* const out = device.Allocate<T>(count + 1);
    const std::vector<T> q(q_.begin() + start * row_values,
                           q_.begin() + (start + rows) * row_values);
    MlaPrefill({.kernels = kernels,
                .storage = StorageOf<T>(),
                .shape = shape_,
                .q = device.Upload(q),
                .cache = device_cache_,
                .pages = device_pages_,
                .start_position = start,
                .rows = rows,
                .key_up = device_key_up_,
                .value_up = device_value_up_,
                .out = out,
                .workspace = device.Allocate<std::byte>(bytes),
                .workspace_bytes = bytes,
                .limits = limits},
               device.stream());
    std::vector<T> found = device.Download(out, count + 1);
    EXPECT_TRUE(std::isnan(ToDouble(found.back())));  // nothing was written behind the last row
    found.pop_back();
    return found;
  }

  struct Expected {
    std::vector<double> mean;  // [rows, heads, v]
    // The same of what a value's error goes by: bf16: its size; f32: that of its terms.
    std::vector<double> magnitude;
  };
  Expected Reference(int64_t start, int64_t rows) const {
    Expected expected;
    const int64_t count = rows * shape_.heads * shape_.v;
    expected.mean.resize(count);
    expected.magnitude.resize(count);
    for (int64_t head = 0; head < shape_.heads; ++head) {
      const Up keys = Rebuilt(key_up_, shape_.nope, head, start + rows);
      const Up values = Rebuilt(value_up_, shape_.v, head, start + rows);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = (r * shape_.heads + head) * shape_.v;
        AttendRow(keys.sums, values, start + r, head, &expected.mean[at], &expected.magnitude[at]);
      }
    }
    return expected;
  }

 private:
  std::vector<T> Values(int64_t count, double scale) {
    std::normal_distribution<double> normal(0, scale);
    std::vector<T> values(count);
    for (T& v : values) v = Round<T>(normal(random_));
    return values;
  }

  void MakeCache() {
    const int64_t used = (tokens_ + kPageTokens - 1) / kPageTokens, all = used + kUnusedPages;
    std::vector<int32_t> order(all);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    pages_.assign(order.begin(), order.begin() + used);
    cache_.assign(all * kPageTokens * shape_.key(),
                  Round<T>(std::numeric_limits<double>::quiet_NaN()));
    latents_ = Values(tokens_ * shape_.key(), 1.0);
    for (int64_t t = 0; t < tokens_; ++t) {
      const int64_t slot = pages_[t / kPageTokens] * kPageTokens + t % kPageTokens;
      std::copy_n(latents_.begin() + t * shape_.key(), shape_.key(),
                  cache_.begin() + slot * shape_.key());
    }
    pages_.push_back(2147480000);  // what lies behind the table is not read
  }

  void Upload(DeviceForTest& device) {
    device_cache_ = device.Upload(cache_);
    device_pages_ = device.Upload(pages_);
    device_key_up_ = Pack(device, key_up_, shape_.nope);
    device_value_up_ = Pack(device, value_up_, shape_.v);
  }

  DeviceMatrix Pack(DeviceForTest& device, const std::vector<T>& up, int64_t outputs) const {
    const WeightFormat format{.kind = sizeof(T) == 2 ? WeightKind::kBf16 : WeightKind::kF32};
    std::vector<std::byte> all;
    DeviceMatrix matrix;
    for (int64_t head = 0; head < shape_.heads; ++head) {
      const auto packed = PackMatrix(format, outputs, shape_.latent, [&](int64_t i, float* row) {
        for (int64_t c = 0; c < shape_.latent; ++c) {
          row[c] = static_cast<float>(ToDouble(up[(head * outputs + i) * shape_.latent + c]));
        }
      });
      TANDEM_CHECK(packed.ok());
      all.insert(all.end(), packed->weights.begin(), packed->weights.end());
      matrix = packed->shape;
    }
    matrix.batch = shape_.heads;
    matrix.weights = device.Upload(all);
    return matrix;
  }

  // Of a head: [tokens, outputs], rounded to the storage.
  struct Up {
    std::vector<double> sums, magnitudes;
  };
  Up Rebuilt(const std::vector<T>& up, int64_t outputs, int64_t head, int64_t tokens) const {
    Up rebuilt;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < outputs; ++i) {
        double sum = 0, terms = 0;
        for (int64_t c = 0; c < shape_.latent; ++c) {
          const double term = ToDouble(latents_[t * shape_.key() + c]) *
                              ToDouble(up[(head * outputs + i) * shape_.latent + c]);
          sum += term;
          terms += std::abs(term);
        }
        const double rounded = ToDouble(Round<T>(sum));
        rebuilt.sums.push_back(rounded);
        rebuilt.magnitudes.push_back(sizeof(T) == 2 ? std::abs(rounded) : terms);
      }
    }
    return rebuilt;
  }

  void AttendRow(const std::vector<double>& keys, const Up& values, int64_t position, int64_t head,
                 double* mean, double* magnitude) const {
    const int64_t qk = shape_.nope + shape_.rope;
    const T* const q = &q_[(position * shape_.heads + head) * qk];
    std::vector<double> p(position + 1);
    for (int64_t j = 0; j <= position; ++j) {
      for (int64_t c = 0; c < shape_.nope; ++c) p[j] += ToDouble(q[c]) * keys[j * shape_.nope + c];
      for (int64_t c = 0; c < shape_.rope; ++c) {
        p[j] +=
            ToDouble(q[shape_.nope + c]) * ToDouble(latents_[j * shape_.key() + shape_.latent + c]);
      }
      p[j] *= shape_.softmax_scale;
    }
    const double max = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& v : p) sum += v = std::exp(v - max);
    for (int64_t j = 0; j <= position; ++j) {
      for (int64_t i = 0; i < shape_.v; ++i) {
        mean[i] += p[j] / sum * values.sums[j * shape_.v + i];
        magnitude[i] += p[j] / sum * values.magnitudes[j * shape_.v + i];
      }
    }
  }

  MlaShape shape_;
  int64_t tokens_;
  std::mt19937 random_;
  std::vector<int32_t> pages_;
  std::vector<T> cache_, latents_, q_, key_up_, value_up_;
  T* device_cache_ = nullptr;
  int32_t* device_pages_ = nullptr;
  DeviceMatrix device_key_up_, device_value_up_;
};

// Distances over all values; NaN where there is one.
struct Distance {
  double cos_diff = 0, rel_l2 = 0;
};
template <typename T>
Distance DistanceOf(const std::vector<T>& found, const std::vector<double>& expected) {
  double xy = 0, xx = 0, yy = 0, dd = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double x = ToDouble(found[i]), y = expected[i];
    xy += x * y;
    xx += x * x;
    yy += y * y;
    dd += (x - y) * (x - y);
  }
  return {1 - 2 * xy / (xx + yy), std::sqrt(dd / yy)};
}

// The gates of published tests for bf16 attention, and a bound for each value. bf16 has 8 bits: the
// result is rounded by at most 2^-8 of it, each weight before it meets its value by 2^-8, which
// gives 2^-8 of the mean magnitude (a value that an f32 sum rounds to the other neighbour is 2^-7
// off where it alone counts, and then the weight is 1, exact). f32: fewer than 2^8 roundings of
// 2^-24 each, of sums of 32 to 230 terms and of scores up to about 10.
template <typename T>
void ExpectNear(const std::vector<T>& found, const typename Sequence<T>::Expected& expected) {
  constexpr bool kBf16 = sizeof(T) == 2;
  const Distance distance = DistanceOf(found, expected.mean);
  EXPECT_LT(distance.cos_diff, kBf16 ? 5e-6 : 1e-11);
  EXPECT_LT(distance.rel_l2, kBf16 ? 4e-3 : 5e-6);
  for (size_t i = 0; i < found.size(); ++i) {
    const double bound = kBf16 ? 0x1p-8 * (std::abs(expected.mean[i]) + expected.magnitude[i])
                               : 0x1p-16 * expected.magnitude[i];
    ASSERT_NEAR(ToDouble(found[i]), expected.mean[i], bound) << i;
  }
}

template <typename T>
void ExpectNearAtAllPlaces(Kernels kernels) {
  uint32_t seed = 1;
  for (const int64_t start : {0, 1, 63, 64, 100}) {
    for (const int64_t rows : {1, 2, 64, 65, 130}) {
      SCOPED_TRACE(testing::Message() << "start " << start << " rows " << rows);
      DeviceForTest device;
      Sequence<T> sequence(Tiny(2), start + rows, ++seed);
      ExpectNear<T>(sequence.Run(device, kernels, start, rows), sequence.Reference(start, rows));
    }
  }
}

TEST(Prefill, ReferenceInF32IsFloat64s) { ExpectNearAtAllPlaces<float>(Kernels::kReference); }
TEST(Prefill, ReferenceInBf16IsFloat64s) { ExpectNearAtAllPlaces<uint16_t>(Kernels::kReference); }
TEST(Prefill, PortableIsFloat64s) { ExpectNearAtAllPlaces<uint16_t>(Kernels::kPortable); }

// In f32 there is one kernel of attention; keys come from whatever Linear has.
TEST(Prefill, PortableInF32IsFloat64s) {
  DeviceForTest device;
  Sequence<float> sequence(Tiny(2), 80, 5);
  ExpectNear<float>(sequence.Run(device, Kernels::kPortable, 3, 77), sequence.Reference(3, 77));
}

TEST(Prefill, EveryShapeOfPortable) {
  for (const MlaShape& shape :
       {MlaShape{.heads = 1, .latent = 64, .rope = 32, .nope = 64, .v = 64, .softmax_scale = 0.1f},
        MlaShape{.heads = 1,
        .latent = 512,
        .rope = 64,
        .nope = 128,
        .v = 128,
        .softmax_scale = 0.07f}}) {
    ASSERT_TRUE(HasPortablePrefill(shape, Storage::kBf16));
    DeviceForTest device;
    Sequence<uint16_t> sequence(shape, 130, 7);
    ExpectNear<uint16_t>(sequence.Run(device, Kernels::kPortable, 61, 69),
                         sequence.Reference(61, 69));
  }
}

// Scores whose exponentials span more than f32 has: the maximum must move, and rows must not
// overflow on the way.
TEST(Prefill, LargeScores) {
  MlaShape shape = Tiny(1);
  shape.softmax_scale = 20.0f;
  for (const Kernels kernels : {Kernels::kReference, Kernels::kPortable}) {
    DeviceForTest device;
    Sequence<uint16_t> sequence(shape, 150, 3);
    const auto found = sequence.Run(device, kernels, 0, 150);
    for (const uint16_t v : found) ASSERT_TRUE(std::isfinite(BF16ToF32(v)));
  }
}

// One call == any cut into calls.
void ExpectChunksChangeNothing(Kernels kernels) {
  constexpr int64_t kTokens = 200;
  DeviceForTest device;
  Sequence<uint16_t> sequence(Tiny(2), kTokens, 11);
  const std::vector<uint16_t> whole = sequence.Run(device, kernels, 0, kTokens);
  const std::vector<std::vector<int64_t>> cuts = {{64, 64, 72},    {1, 199},  {199, 1},
                                                  {63, 1, 1, 135}, {130, 70}, {17, 47, 100, 36}};
  for (const auto& cut : cuts) {
    std::vector<uint16_t> joined;
    int64_t start = 0;
    for (const int64_t rows : cut) {
      const auto part = sequence.Run(device, kernels, start, rows);
      joined.insert(joined.end(), part.begin(), part.end());
      start += rows;
    }
    EXPECT_EQ(joined, whole) << "cut that begins with " << cut[0];
  }
}
TEST(PrefillChunks, ChangeNothingInReference) { ExpectChunksChangeNothing(Kernels::kReference); }
TEST(PrefillChunks, ChangeNothingInPortable) { ExpectChunksChangeNothing(Kernels::kPortable); }

// The state that goes from piece to piece loses nothing, whichever tiles end in which piece.
void ExpectPiecesChangeNothing(Kernels kernels) {
  constexpr int64_t kTokens = 270;
  DeviceForTest device;
  Sequence<uint16_t> sequence(Tiny(3), kTokens, 12);
  for (const int64_t start : {0, 269}) {
    const auto whole = sequence.Run(device, kernels, start, kTokens - start);
    for (const PrefillLimits limits :
         {PrefillLimits{128, 1}, PrefillLimits{128, 2}, PrefillLimits{256, 64}}) {
      EXPECT_EQ(sequence.Run(device, kernels, start, kTokens - start, limits), whole)
          << start << " " << limits.piece_tokens << " " << limits.heads;
    }
  }
}
TEST(PrefillPieces, ChangeNothingInReference) { ExpectPiecesChangeNothing(Kernels::kReference); }
TEST(PrefillPieces, ChangeNothingInPortable) { ExpectPiecesChangeNothing(Kernels::kPortable); }

// Linear cuts the sums over many inputs by how much work the whole is: it must not take the heads
// of a call for the whole.
TEST(PrefillPieces, HeadsAtATimeChangeNothing) {
  MlaShape shape = Tiny(89);
  shape.latent = 520;
  DeviceForTest device;
  Sequence<uint16_t> sequence(shape, 3, 14);
  EXPECT_TRUE(sequence.Run(device, Kernels::kPortable, 2, 1, {128, 45}) ==
              sequence.Run(device, Kernels::kPortable, 2, 1, {128, 89}));
}

// Hopper's kernel has one shape. Five blocks of 128 keys, more than its two stages; one head more
// than is done at a time.
MlaShape Real(int64_t heads) {
  return {.heads = heads, .latent = 72, .rope = 64, .nope = 128, .v = 128, .softmax_scale = 0.07f};
}

TEST(HopperPrefill, IsFloat64s) {
  ASSERT_TRUE(HasHopperPrefill(Real(1)));
  uint32_t seed = 40;
  const std::vector<std::pair<int64_t, int64_t>> places = {{0, 1},    {0, 130}, {63, 2},  {64, 64},
                                                           {100, 65}, {1, 128}, {513, 90}};
  for (const auto& [start, rows] : places) {
    SCOPED_TRACE(testing::Message() << "start " << start << " rows " << rows);
    DeviceForTest device;
    Sequence<uint16_t> sequence(Real(2), start + rows, ++seed);
    ExpectNear<uint16_t>(sequence.Run(device, Kernels::kHopper, start, rows),
                         sequence.Reference(start, rows));
  }
}

TEST(HopperPrefill, ChunksAndPiecesChangeNothing) {
  constexpr int64_t kTokens = 600;
  DeviceForTest device;
  Sequence<uint16_t> sequence(Real(1), kTokens, 50);
  const auto whole = sequence.Run(device, Kernels::kHopper, 0, kTokens);
  for (const PrefillLimits limits : {PrefillLimits{128, 1}, PrefillLimits{384, 1}}) {
    std::vector<uint16_t> joined;
    int64_t start = 0;
    for (const int64_t rows : {1, 190, 409}) {
      const auto part = sequence.Run(device, Kernels::kHopper, start, rows, limits);
      joined.insert(joined.end(), part.begin(), part.end());
      start += rows;
    }
    EXPECT_EQ(joined, whole) << limits.piece_tokens;
  }
}

// Where Hopper has no kernel, the portable one is taken.
TEST(HopperPrefill, ElsewhereIsPortable) {
  EXPECT_FALSE(HasHopperPrefill(Tiny(2)));
  DeviceForTest device;
  Sequence<uint16_t> sequence(Tiny(2), 70, 51);
  EXPECT_EQ(sequence.Run(device, Kernels::kHopper, 0, 70),
            sequence.Run(device, Kernels::kPortable, 0, 70));
}

TEST(PrefillPieces, InF32) {
  DeviceForTest device;
  Sequence<float> sequence(Tiny(2), 200, 13);
  EXPECT_EQ(sequence.Run(device, Kernels::kReference, 50, 150, {128, 1}),
            sequence.Run(device, Kernels::kReference, 50, 150));
}

// A workspace that other shapes were computed in, and again.
TEST(Prefill, AWorkspaceMayHoldAnything) {
  DeviceForTest device;
  Sequence<uint16_t> large(Tiny(3), 140, 20), small(Tiny(1), 70, 21);
  for (const Kernels kernels : {Kernels::kReference, Kernels::kPortable}) {
    const auto first = large.Run(device, kernels, 3, 137);
    small.Run(device, kernels, 69, 1);
    EXPECT_EQ(large.Run(device, kernels, 3, 137), first);
  }
}

TEST(Prefill, NoRowsAreNoWork) {
  DeviceForTest device;
  Sequence<uint16_t> sequence(Tiny(1), 5, 30);
  EXPECT_TRUE(sequence.Run(device, Kernels::kPortable, 5, 0).empty());
}

TEST(Prefill, SaysWhichShapesPortableHas) {
  EXPECT_TRUE(HasPortablePrefill(Tiny(2), Storage::kBf16));
  EXPECT_FALSE(HasPortablePrefill(Tiny(2), Storage::kF32));
  MlaShape odd = Tiny(2);
  odd.v = 40;
  EXPECT_FALSE(HasPortablePrefill(odd, Storage::kBf16));
}

// Pieces are whole pages, all of it fits the workspace, and the workspace of a short prompt is
// enough for the same rows at any start.
TEST(PrefillCut, StaysWithinTheLimits) {
  const MlaShape shape{.heads = 128, .latent = 512, .rope = 64, .nope = 128, .v = 128};
  const PrefillLimits limits;
  for (const int64_t rows : {1, 100, 128, 500, 2048, 8192}) {
    for (const int64_t start : {0, 1000, 4096, 100000}) {
      const PrefillCut cut = CutPrefill(shape, limits, rows, start + rows);
      EXPECT_EQ(cut.piece_tokens % kPrefillBlockTokens, 0);
      EXPECT_GE(cut.piece_tokens, kPrefillBlockTokens);
      EXPECT_LE(cut.piece_tokens, limits.piece_tokens);
      EXPECT_LE(cut.heads * cut.piece_tokens, limits.heads * limits.piece_tokens);
      EXPECT_GE(cut.heads, limits.heads);
      EXPECT_LE(cut.heads, shape.heads);
    }
  }
  EXPECT_EQ(CutPrefill(shape, limits, 1000, 1000).heads, 128);          // 1024 tokens: all at once
  EXPECT_EQ(CutPrefill(shape, limits, 1000, 1000).piece_tokens, 1024);  // pages of it, and padding
  EXPECT_EQ(CutPrefill(shape, limits, 4096, 4096).heads, 32);
  EXPECT_EQ(CutPrefill(shape, limits, 100, 100000).heads, 128);  // one tile: all heads
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
