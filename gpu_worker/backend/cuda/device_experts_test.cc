// Experts on the device have the bits of lib/experts: every type of weights, both forms of rows and
// of replies.
#include "gpu_worker/backend/cuda/device_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "lib/kernels/expert_grid.h"
#include "lib/kernels/panel.h"
#include "lib/kernels/random_blocks.h"
#include "lib/kernels/row_forms.h"
#include "lib/kernels/weights.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kTopK = 8;
constexpr uint32_t kLayer = 3;

std::vector<DType> AllTypes() {
  std::vector<DType> types;
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    if (kernels::CheckWeightType(static_cast<DType>(i), 256).ok()) {
      types.push_back(static_cast<DType>(i));
    }
  }
  return types;
}

// A matrix [rows, cols] of random blocks, values of about 1 / sqrt(cols), packed in `memory`.
kernels::PackedMatrix RandomMatrix(DType type, int64_t rows, int64_t cols, std::mt19937_64& random,
                                   kernels::AlignedBuffer* memory, float scale = 0.01f) {
  const int64_t row_bytes = RowBytes(type, cols).value();
  const auto probe = kernels::RandomRows(type, 1, cols, scale, -1, random);
  std::vector<float> values(cols);
  DequantizeRow(type, probe.data(), cols, values.data());
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  const auto fitting = static_cast<float>(scale / std::sqrt(squares));
  const auto bytes = kernels::RandomRows(type, rows, cols, fitting, -1, random);
  // A scale for 64 columns, so that a stage of fp8 has several.
  const int64_t fp8_cols = type == DType::kF8E4M3 ? 64 : 0;
  kernels::PackedMatrix matrix;
  matrix.layout = kernels::LayoutOf(type, rows, cols, fp8_cols);
  std::byte* const data = memory->Reserve(matrix.layout.bytes());
  matrix.data = data;
  std::uniform_real_distribution<float> fp8_scale(0.5f, 2.0f);
  for (int64_t p = 0; p < matrix.layout.panels(); ++p) {
    const int64_t here = std::min<int64_t>(kernels::kPanelRows, rows - 16 * p);
    std::vector<float> scales;
    if (fp8_cols > 0) scales.resize(here * ((cols + fp8_cols - 1) / fp8_cols));
    for (float& s : scales) s = fp8_scale(random);
    kernels::PackPanel(matrix.layout, bytes.data() + 16 * p * row_bytes, here,
                       scales.empty() ? nullptr : scales.data(),
                       data + p * matrix.layout.panel_bytes);
  }
  return matrix;
}

struct Expert {
  kernels::AlignedBuffer gate, up, down;
  PackedExpert packed;
};

struct Types {
  DType gate, up, down;
};

std::unique_ptr<Expert> RandomExpert(const Types& types, int64_t hidden, int64_t inter,
                                     std::mt19937_64& random) {
  auto expert = std::make_unique<Expert>();
  expert->packed.gate = RandomMatrix(types.gate, inter, hidden, random, &expert->gate);
  expert->packed.up = RandomMatrix(types.up, inter, hidden, random, &expert->up);
  expert->packed.down = RandomMatrix(types.down, hidden, inter, random, &expert->down);
  return expert;
}

// Experts of a layer in both places.
struct Layer {
  int64_t hidden, inter;
  std::vector<std::unique_ptr<Expert>> experts;
  std::unique_ptr<DeviceExperts> device;

  Layer(const std::vector<Types>& types, int64_t hidden_size, int64_t inter_size, uint64_t seed,
        int64_t rows_max = 24, int64_t pairs_max = 64)
      : hidden(hidden_size), inter(inter_size) {
    std::mt19937_64 random(seed);
    int64_t bytes = 0;
    for (const Types& t : types) {
      experts.push_back(RandomExpert(t, hidden, inter, random));
      bytes += experts.back()->packed.bytes();
    }
    DeviceExpertsOptions options;
    options.hidden = hidden;
    options.inter = inter;
    options.rows_max = rows_max;
    options.pairs_max = pairs_max;
    auto made = DeviceExperts::Make(options);
    TANDEM_CHECK(made.ok());
    device = *std::move(made);
    TANDEM_CHECK(device->Reserve(bytes, static_cast<int64_t>(experts.size())).ok());
    for (uint32_t e = 0; e < experts.size(); ++e) {
      TANDEM_CHECK(device->Hold(kLayer, e, experts[e]->packed).ok());
    }
  }
};

struct Call {
  DType x_dtype = DType::kBF16;
  std::vector<float> x;  // [rows, hidden]
  std::vector<int> exponents;
  std::vector<std::vector<std::pair<uint32_t, float>>> experts;  // of each row: id, weight

  size_t rows() const { return exponents.size(); }
};

Call RandomCall(const Layer& layer, int64_t rows, int per_row, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> weight(0.05f, 1.0f);
  Call call;
  for (int64_t r = 0; r < rows; ++r) {
    float largest = 0;
    for (int64_t k = 0; k < layer.hidden; ++k) {
      call.x.push_back(BF16ToF32(F32ToBF16(normal(random))));
      largest = std::max(largest, std::abs(call.x.back()));
    }
    call.exponents.push_back(kernels::GridExponent(largest, 1.0f, kTopK));
    std::vector<uint32_t> ids(layer.experts.size());
    for (uint32_t e = 0; e < ids.size(); ++e) ids[e] = e;
    std::shuffle(ids.begin(), ids.end(), random);
    call.experts.emplace_back();
    for (int i = 0; i < per_row; ++i) call.experts.back().push_back({ids[i], weight(random)});
  }
  return call;
}

struct Answer {
  std::vector<int32_t> sums;   // [rows, hidden]
  std::vector<uint8_t> flags;  // [rows]
  std::vector<float> apart;    // [pairs, hidden]
};

template <typename Run>
Answer AnswerOf(const Layer& layer, const Call& call, ActivationForm activation, ReplyForm reply,
                Run run) {
  const int64_t hidden = layer.hidden;
  Answer answer;
  answer.sums.assign(call.rows() * hidden, 0);
  answer.flags.assign(call.rows(), 0);
  std::vector<uint16_t> narrow;
  for (const float value : call.x) narrow.push_back(F32ToBF16(value));
  FfnBatch batch;
  batch.x_dtype = call.x_dtype;
  batch.activation = activation;
  batch.reply = reply;
  batch.grid_limit = kernels::GridLimit(kTopK);
  for (size_t r = 0; r < call.rows(); ++r) {
    const void* const x = call.x_dtype == DType::kF32
                              ? static_cast<const void*>(call.x.data() + r * hidden)
                              : narrow.data() + r * hidden;
    batch.rows.push_back({static_cast<const std::byte*>(x), call.exponents[r],
                          answer.sums.data() + r * hidden, &answer.flags[r]});
    for (const auto& [expert, weight] : call.experts[r]) {
      batch.pairs.push_back({static_cast<int64_t>(r), expert, weight, nullptr});
    }
  }
  if (reply == ReplyForm::kPerExpertF32) {
    answer.apart.assign(batch.pairs.size() * hidden, NAN);
    for (size_t i = 0; i < batch.pairs.size(); ++i) {
      batch.pairs[i].out = answer.apart.data() + i * hidden;
    }
  }
  run(batch);
  return answer;
}

Answer OnDevice(const Layer& layer, const Call& call, ActivationForm activation, ReplyForm reply) {
  return AnswerOf(layer, call, activation, reply,
                  [&](const FfnBatch& batch) { layer.device->Run(batch, kLayer); });
}

Answer OnHost(const Layer& layer, const Call& call, ActivationForm activation, ReplyForm reply) {
  base::ThreadPool pool(1);
  ExpertFfn ffn(kernels::ActiveTable(), &pool);
  return AnswerOf(layer, call, activation, reply, [&](const FfnBatch& batch) {
    ffn.Run(batch, [&](uint32_t expert) { return &layer.experts[expert]->packed; });
  });
}

// Bits, but that a NaN is a NaN.
void ExpectSameFloats(const std::vector<float>& found, const std::vector<float>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::isnan(expected[i]) && std::isnan(found[i])) continue;
    ASSERT_EQ(std::memcmp(&found[i], &expected[i], sizeof(float)), 0)
        << i << ": " << found[i] << " " << expected[i];
  }
}

void ExpectSameBits(const Layer& layer, const Call& call, ActivationForm activation) {
  const Answer found = OnDevice(layer, call, activation, ReplyForm::kGridSum);
  const Answer expected = OnHost(layer, call, activation, ReplyForm::kGridSum);
  EXPECT_EQ(found.sums, expected.sums);
  EXPECT_EQ(found.flags, expected.flags);
  ExpectSameFloats(OnDevice(layer, call, activation, ReplyForm::kPerExpertF32).apart,
                   OnHost(layer, call, activation, ReplyForm::kPerExpertF32).apart);
}

class EveryType : public testing::TestWithParam<DType> {
 protected:
  Types types() const { return {GetParam(), GetParam(), GetParam()}; }
};

TEST_P(EveryType, HasTheBitsOfTheHost) {
  // Five stages of quantized rows: every buffer of a warp's ring is used again.
  const int64_t inter = InfoOf(GetParam()).block_elems == 256 ? 256 : 64;
  const Layer layer({types()}, 1280, inter, 1);
  const Call call = RandomCall(layer, 3, 1, 2);
  ExpectSameBits(layer, call, ActivationForm::kNative);
  ExpectSameBits(layer, RandomCall(layer, 1, 1, 3), ActivationForm::kF32);
  // Something was computed.
  const Answer answer = OnDevice(layer, call, ActivationForm::kNative, ReplyForm::kGridSum);
  EXPECT_GT(std::count_if(answer.sums.begin(), answer.sums.end(), [](int32_t s) { return s != 0; }),
            static_cast<int64_t>(answer.sums.size()) / 2);
}

// Lengths that fill no stage, no group and no panel.
TEST_P(EveryType, OddSizes) {
  const bool block_of_32 = InfoOf(GetParam()).block_elems == 32;
  const bool block_of_1 = InfoOf(GetParam()).block_elems == 1;
  const int64_t hidden = block_of_1 ? 330 : block_of_32 ? 352 : 768;
  const int64_t inter = block_of_1 ? 70 : block_of_32 ? 96 : 256;
  const Layer layer({types()}, hidden, inter, 4);
  const Call call = RandomCall(layer, 9, 1, 5);
  ExpectSameBits(layer, call, ActivationForm::kNative);
  ExpectSameBits(layer, RandomCall(layer, 2, 1, 6), ActivationForm::kF32);
}

INSTANTIATE_TEST_SUITE_P(Types, EveryType, testing::ValuesIn(AllTypes()),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

const Types kMixed[] = {{DType::kQ4_K, DType::kQ5_K, DType::kQ6_K},
                        {DType::kQ4_K, DType::kQ4_K, DType::kBF16},
                        {DType::kF8E4M3, DType::kIQ2_XS, DType::kQ4_K}};

Layer MixedLayer(int64_t rows_max = 24, int64_t pairs_max = 64) {
  return Layer({kMixed[0], kMixed[1], kMixed[2], kMixed[0]}, 256, 256, 7, rows_max, pairs_max);
}

TEST(DeviceExperts, TypesMayDifferWithinALayer) {
  const Layer layer = MixedLayer();
  const Call call = RandomCall(layer, 20, 3, 8);
  ExpectSameBits(layer, call, ActivationForm::kNative);
  ExpectSameBits(layer, RandomCall(layer, 3, 4, 9), ActivationForm::kF32);
}

TEST(DeviceExperts, RowsInF32AreNotRoundedFirst) {
  const Layer layer = MixedLayer();
  Call call = RandomCall(layer, 3, 4, 10);
  call.x_dtype = DType::kF32;
  for (float& value : call.x) value *= 1.0f + 0x1p-12f;
  ExpectSameBits(layer, call, ActivationForm::kNative);
  ExpectSameBits(layer, call, ActivationForm::kF32);
}

TEST(DeviceExperts, TurnsAndTheRowsBesideDoNotMatter) {
  const Layer layer = MixedLayer(), turns = MixedLayer(5, 3);
  const Call call = RandomCall(layer, 5, 4, 11);
  const Answer all = OnDevice(layer, call, ActivationForm::kNative, ReplyForm::kGridSum);
  EXPECT_EQ(OnDevice(turns, call, ActivationForm::kNative, ReplyForm::kGridSum).sums, all.sums);
  const Answer apart = OnDevice(layer, call, ActivationForm::kNative, ReplyForm::kPerExpertF32);
  ExpectSameFloats(OnDevice(turns, call, ActivationForm::kNative, ReplyForm::kPerExpertF32).apart,
                   apart.apart);
  for (size_t r = 0; r < call.rows(); ++r) {
    Call alone = call;
    for (size_t other = 0; other < call.rows(); ++other) {
      if (other != r) alone.experts[other].clear();
    }
    const Answer one = OnDevice(layer, alone, ActivationForm::kNative, ReplyForm::kGridSum);
    const auto begin = static_cast<int64_t>(r) * layer.hidden;
    EXPECT_TRUE(std::equal(one.sums.begin() + begin, one.sums.begin() + begin + layer.hidden,
                           all.sums.begin() + begin));
    // Rows without experts stay as they were.
    EXPECT_EQ(std::count_if(one.sums.begin(), one.sums.end(), [](int32_t s) { return s != 0; }),
              std::count_if(one.sums.begin() + begin, one.sums.begin() + begin + layer.hidden,
                            [](int32_t s) { return s != 0; }));
  }
}

TEST(DeviceExperts, NoPairsChangeNothing) {
  const Layer layer = MixedLayer();
  Call call = RandomCall(layer, 4, 0, 12);
  const Answer answer = OnDevice(layer, call, ActivationForm::kNative, ReplyForm::kGridSum);
  EXPECT_EQ(answer.sums, std::vector<int32_t>(4 * layer.hidden, 0));
  call = RandomCall(layer, 0, 0, 12);
  EXPECT_TRUE(OnDevice(layer, call, ActivationForm::kNative, ReplyForm::kGridSum).sums.empty());
}

TEST(DeviceExperts, WhatIsOffTheGridIsFlagged) {
  const Layer layer = MixedLayer();
  Call call = RandomCall(layer, 4, 3, 13);
  call.exponents[1] -= 20;
  call.x[2 * layer.hidden + 5] = std::numeric_limits<float>::infinity();
  ExpectSameBits(layer, call, ActivationForm::kNative);
  ExpectSameBits(layer, call, ActivationForm::kF32);
  const Answer answer = OnDevice(layer, call, ActivationForm::kNative, ReplyForm::kGridSum);
  EXPECT_THAT(answer.flags, testing::ElementsAre(0, 1, 1, 0));
}

// Numbers at the lower end of f32. Rows of 2^e give about 2^2e between the matrices and behind
// them: with e from -55 on int8 blocks become zeros, from -61 on products and sums are subnormal.
TEST(DeviceExperts, TinyNumbers) {
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF8E4M3, DType::kF32, DType::kQ4_0}) {
    const Types types = {type, type, type};
    const Layer layer({types}, 256, 96, 14);
    int tiny = 0;
    for (const int exponent : {-50, -55, -58, -61, -62, -63, -64, -70, -110}) {
      Call call = RandomCall(layer, 2, 1, 15);
      call.x_dtype = DType::kF32;
      for (float& value : call.x) value = std::ldexp(value, exponent);
      for (int& e : call.exponents) e = kernels::kGridExponentMin;
      ExpectSameBits(layer, call, ActivationForm::kNative);
      ExpectSameBits(layer, call, ActivationForm::kF32);
      for (const float y :
           OnHost(layer, call, ActivationForm::kNative, ReplyForm::kPerExpertF32).apart) {
        tiny += y != 0 && std::fabs(y) < 0x1p-120f;
      }
    }
    // Else this would prove nothing; int8 rows end before.
    if (type != DType::kQ4_0) {
      EXPECT_GT(tiny, 0) << NameOf(type);
    }
  }
}

TEST(DeviceExperts, WhatDoesNotFitIsSaidInOneSentence) {
  DeviceExpertsOptions options;
  options.hidden = options.inter = 256;
  auto made = DeviceExperts::Make(options);
  ASSERT_TRUE(made.ok()) << made.status();
  const absl::Status status = (*made)->Reserve(int64_t{1} << 50, 1000);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("1000 hot experts"));
  options.device = 1000;
  EXPECT_EQ(DeviceExperts::Make(options).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
