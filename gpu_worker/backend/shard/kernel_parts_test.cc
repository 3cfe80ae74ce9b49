// What a rank computes on the device is what one rank alone would: parts of a layer's outputs, of a
// batch of heads, of attention's heads, bit for bit. Shapes at which a part alone would be cut
// differently from the whole (SplitsOfLinear).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear.h"
#include "gpu_worker/backend/cuda/kernels/linear/portable_layout.h"
#include "gpu_worker/backend/shard/shard_plan.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

std::vector<float> Normal(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = BF16ToF32(F32ToBF16(normal(random)));
  return values;
}

std::vector<uint16_t> ToBf16(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(F32ToBF16(value));
  return bits;
}

struct Sizes {
  int64_t outputs = 0, inputs = 0, rows = 0, batch = 1;
};

// Outputs `own` of matrices `own_batch` of a random layer, [own_batch, rows, own] f32.
std::vector<float> Part(Kernels kernels, const WeightFormat& format, const Sizes& sizes,
                        const ShardRange& own, const ShardRange& own_batch) {
  const std::vector<float> weights = Normal(sizes.batch * sizes.outputs * sizes.inputs, 1);
  const std::vector<float> x = Normal(sizes.batch * sizes.rows * sizes.inputs, 2);
  DeviceForTest device;
  DeviceMatrix matrix;
  std::vector<std::byte> packed_weights, packed_scales;
  for (int64_t b = own_batch.begin; b < own_batch.end; ++b) {
    const auto packed = PackMatrix(format, own.size(), sizes.inputs, [&](int64_t row, float* dst) {
      std::copy_n(weights.data() + ((b * sizes.outputs) + own.begin + row) * sizes.inputs,
                  sizes.inputs, dst);
    });
    TANDEM_CHECK(packed.ok());
    matrix = packed->shape;
    packed_weights.insert(packed_weights.end(), packed->weights.begin(), packed->weights.end());
    packed_scales.insert(packed_scales.end(), packed->scales.begin(), packed->scales.end());
  }
  matrix.batch = own_batch.size();
  matrix.whole_outputs = sizes.outputs;
  matrix.whole_batch = sizes.batch;
  matrix.weights = device.Upload(packed_weights);
  if (!packed_scales.empty()) matrix.scales = device.Upload(packed_scales);
  const size_t workspace = LinearWorkspaceBytes(kernels, matrix, sizes.rows);
  const int64_t values = own_batch.size() * sizes.rows * own.size();
  float* const y = device.Allocate<float>(values);
  const uint16_t* const all_x = device.Upload(ToBf16(x));
  Linear({.kernels = kernels,
          .w = matrix,
          .x = all_x + own_batch.begin * sizes.rows * sizes.inputs,
          .x_stride = sizes.inputs,
          .x_batch_stride = sizes.rows * sizes.inputs,
          .rows = sizes.rows,
          .y = y,
          .y_stride = own.size(),
          .y_batch_stride = sizes.rows * own.size(),
          .y_storage = Storage::kF32,
          .workspace = device.Allocate<std::byte>(workspace),
          .workspace_bytes = workspace},
         device.stream());
  return device.Download(y, values);
}

void ExpectPartsOfWhole(Kernels kernels, const WeightFormat& format, const Sizes& sizes, int ranks,
                        int64_t multiple) {
  SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(format.kind) << ", outputs "
                                  << sizes.outputs << ", ranks " << ranks);
  const ShardRange all{0, sizes.outputs}, batch{0, sizes.batch};
  const std::vector<float> whole = Part(kernels, format, sizes, all, batch);
  const bool by_batch = sizes.batch > 1;
  const Split split = SplitOutputs(by_batch ? sizes.batch : sizes.outputs, multiple, ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    const ShardRange own = by_batch ? all : split.of(rank);
    const ShardRange own_batch = by_batch ? split.of(rank) : batch;
    const std::vector<float> part = Part(kernels, format, sizes, own, own_batch);
    for (int64_t r = 0; r < own_batch.size() * sizes.rows; ++r) {
      const float* want = whole.data() + (own_batch.begin * sizes.rows + r) * sizes.outputs;
      ASSERT_EQ(std::memcmp(part.data() + r * own.size(), want + own.begin, own.size() * 4), 0)
          << "rank " << rank << ", row " << r;
    }
  }
}

TEST(KernelPartsTest, OutputsOfLayersInEveryFormat) {
  // 18 blocks of outputs are cut into 14 parts of inputs, half of them would be into 15.
  const Sizes sizes{.outputs = 2304, .inputs = 3840, .rows = 1};
  ASSERT_NE(SplitsOfLinear(sizes.outputs, sizes.inputs, 1),
            SplitsOfLinear(sizes.outputs / 2, sizes.inputs, 1));
  ExpectPartsOfWhole(Kernels::kPortable, {WeightKind::kBf16}, sizes, 2, 64);
  ExpectPartsOfWhole(Kernels::kPortable, {WeightKind::kFp8}, sizes, 2, 128);
  ExpectPartsOfWhole(Kernels::kPortable, {WeightKind::kInt8, 128}, sizes, 2, 64);
  ExpectPartsOfWhole(Kernels::kPortable, {WeightKind::kInt4, 64}, sizes, 2, 64);
}

TEST(KernelPartsTest, SmallLayersOnFourRanks) {
  // Last tiles and blocks of outputs that are whole in one and half in the other.
  const Sizes sizes{.outputs = 448, .inputs = 384, .rows = 5};
  for (const Kernels kernels : {Kernels::kReference, Kernels::kPortable}) {
    for (const WeightFormat format : {WeightFormat{WeightKind::kBf16},
                                      {WeightKind::kInt8, 64},
                                      {WeightKind::kInt4, 128},
                                      {WeightKind::kF32}}) {
      ExpectPartsOfWhole(kernels, format, sizes, 4, 64);
      ExpectPartsOfWhole(kernels, format, sizes, 4, 16);
    }
    ExpectPartsOfWhole(kernels, {WeightKind::kFp8}, sizes, 4, 128);
  }
  ExpectPartsOfWhole(Kernels::kHopper, {WeightKind::kFp8}, sizes, 2, 128);
  // Sums in four parts.
  const Sizes long_rows{.outputs = 320, .inputs = 2048, .rows = 3};
  ExpectPartsOfWhole(Kernels::kHopper, {WeightKind::kFp8}, long_rows, 2, 128);
}

TEST(KernelPartsTest, HeadsOfABatch) {
  // 140 heads fill an H200 by themselves; 35 are cut into two parts.
  const Sizes sizes{.outputs = 64, .inputs = 512, .rows = 1, .batch = 140};
  ASSERT_NE(SplitsOfLinear(sizes.outputs, sizes.inputs, sizes.batch),
            SplitsOfLinear(sizes.outputs, sizes.inputs, sizes.batch / 4));
  ExpectPartsOfWhole(Kernels::kPortable, {WeightKind::kBf16}, sizes, 4, 1);
}

// Decode attention of heads `own` of all, [rows, own, latent] bf16.
std::vector<uint16_t> DecodeHeads(Kernels kernels, const MlaShape& all, const ShardRange& own,
                                  const std::vector<int32_t>& lengths) {
  constexpr int kMultiprocessors = 3;
  constexpr size_t kSharedH100 = 227 << 10;
  const auto rows = static_cast<int64_t>(lengths.size());
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const int64_t stride = (longest + kPageTokens - 1) / kPageTokens;
  const std::vector<float> q = Normal(rows * all.heads * all.key(), 3);
  const std::vector<float> cache = Normal(rows * stride * kPageTokens * all.key(), 4);
  MlaShape shape = all;
  shape.heads = own.size();
  shape.whole_heads = all.heads;
  std::vector<float> own_q;
  std::vector<int32_t> table;
  for (int64_t r = 0; r < rows; ++r) {
    const auto begin = q.begin() + (r * all.heads + own.begin) * all.key();
    own_q.insert(own_q.end(), begin, begin + own.size() * all.key());
    for (int64_t p = 0; p < stride; ++p) table.push_back(static_cast<int32_t>(r * stride + p));
  }
  DeviceForTest device;
  const DecodePlan plan = PlanDecode(shape, lengths, rows, longest, kMultiprocessors);
  const size_t workspace = DecodeWorkspaceBytes(shape, rows, longest, kMultiprocessors);
  const int64_t values = rows * own.size() * all.latent;
  uint16_t* const out = device.Allocate<uint16_t>(values);
  MlaDecode({.kernels = kernels,
             .storage = Storage::kBf16,
             .shape = shape,
             .q = device.Upload(ToBf16(own_q)),
             .cache = device.Upload(ToBf16(cache)),
             .page_table = device.Upload(table),
             .page_table_stride = stride,
             .lengths = device.Upload(lengths),
             .rows = rows,
             .out = out,
             .plan = device.Upload(plan.words),
             .workspace = device.Allocate<std::byte>(workspace),
             .workspace_bytes = workspace,
             .multiprocessors = kMultiprocessors,
             .shared_bytes_max = kSharedH100},
            device.stream());
  return device.Download(out, values);
}

void ExpectHeadsOfWhole(Kernels kernels, const MlaShape& all, int ranks) {
  SCOPED_TRACE(testing::Message() << all.heads << " heads, ranks " << ranks);
  const std::vector<int32_t> lengths = {130, 1, 64};
  const std::vector<uint16_t> whole = DecodeHeads(kernels, all, {0, all.heads}, lengths);
  const Split split = SplitOutputs(all.heads, 1, ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    const ShardRange own = split.of(rank);
    const std::vector<uint16_t> part = DecodeHeads(kernels, all, own, lengths);
    const int64_t size = own.size() * all.latent;
    for (size_t r = 0; r < lengths.size(); ++r) {
      const uint16_t* want =
          whole.data() + (static_cast<int64_t>(r) * all.heads + own.begin) * all.latent;
      ASSERT_EQ(std::memcmp(part.data() + static_cast<int64_t>(r) * size, want, size * 2), 0)
          << "rank " << rank << ", row " << r;
    }
  }
}

// The portable kernel adds a row's probabilities in the order of its warps, of which there are more
// to a head where it does fewer heads at once (HeadGroup): whole_heads keeps the order.
TEST(KernelPartsTest, HeadsOfDecodeAttention) {
  MlaShape shape{.heads = 128, .latent = 64, .rope = 64, .softmax_scale = 0.25f};
  ExpectHeadsOfWhole(Kernels::kPortable, shape, 2);
  ExpectHeadsOfWhole(Kernels::kPortable, shape, 8);
  shape.heads = 32;
  ExpectHeadsOfWhole(Kernels::kPortable, shape, 4);
  shape.heads = 16;
  ExpectHeadsOfWhole(Kernels::kPortable, shape, 4);
  ExpectHeadsOfWhole(Kernels::kReference, shape, 4);
}

// Hopper's has one shape, that of real models.
TEST(KernelPartsTest, HeadsOfDecodeAttentionOnHopper) {
  const MlaShape shape{.heads = 64, .latent = 512, .rope = 64, .softmax_scale = 0.07f};
  ExpectHeadsOfWhole(Kernels::kHopper, shape, 4);
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
