// Hopper's words mean the same in the emulator and on a GPU of that kind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/cuda/simt/hopper_test_kernels.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

using namespace language_test;

class HopperLanguage : public testing::Test {
 protected:
  void SetUp() override {
    const auto properties = UseDevice(0);
    ASSERT_TRUE(properties.ok());
    if (properties->major != 9) GTEST_SKIP() << "needs a GPU of compute capability 9.0";
  }
  DeviceForTest device_;
  std::mt19937 random_{7};

  // Small integers: exact in bf16 and e4m3, in products and sums.
  float Value() { return static_cast<float>(static_cast<int>(random_() % 17) - 8); }
  std::vector<uint16_t> Bf16Values(size_t count) {
    std::vector<uint16_t> values(count);
    for (auto& v : values) v = F32ToBF16(Value());
    return values;
  }
  TensorMap MapOf(const uint16_t* base, int64_t rows, int64_t columns, uint32_t box_rows) {
    return MakeTensorMap({.element = TensorElement::kBf16,
                          .base = base,
                          .rank = 2,
                          .sizes = {columns, rows, 1},
                          .strides_bytes = {columns * 2, 0},
                          .box = {64, box_rows, 1},
                          .swizzle_128 = true});
  }
};

TEST_F(HopperLanguage, ABoxComesWithZerosOutsideOfTheTensor) {
  constexpr int kRows = 20, kColumns = 72;
  std::vector<uint16_t> in(kRows * kColumns);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i + 1);
  const uint16_t* const memory = device_.Upload(in);
  const TensorMap map = MapOf(memory, kRows, kColumns, 16);
  for (const auto& [x, y] : {std::pair(0, 0), std::pair(16, 9), std::pair(-8, -3)}) {
    uint16_t* const out = device_.Allocate<uint16_t>(16 * 64);
    LoadSwizzledBox(map, 16, x, y, out, device_.stream());
    const auto found = device_.Download(out, 16 * 64);
    for (int r = 0; r < 16; ++r) {
      for (int c = 0; c < 64; ++c) {
        const int row = y + r, column = x + c;
        const bool inside = row >= 0 && row < kRows && column >= 0 && column < kColumns;
        EXPECT_EQ(found[r * 64 + c], inside ? in[row * kColumns + column] : 0) << r << " " << c;
      }
    }
  }
}

TEST_F(HopperLanguage, ABoxOfThreeDimensions) {
  std::vector<float> in(5 * 6 * 8);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  const TensorMap map = MakeTensorMap({.element = TensorElement::kF32,
                                       .base = device_.Upload(in),
                                       .rank = 3,
                                       .sizes = {8, 6, 5},
                                       .strides_bytes = {32, 6 * 32},
                                       .box = {4, 3, 2}});
  float* const out = device_.Allocate<float>(24);
  LoadBox3d(map, 24, 4, 4, 2, out, device_.stream());
  const auto found = device_.Download(out, 24);
  for (int z = 0; z < 2; ++z) {
    for (int y = 0; y < 3; ++y) {
      for (int x = 0; x < 4; ++x) {
        const float expected = 4 + y < 6 ? in[((2 + z) * 6 + 4 + y) * 8 + 4 + x] : 0.0f;
        EXPECT_EQ(found[(z * 3 + y) * 4 + x], expected);
      }
    }
  }
}

TEST_F(HopperLanguage, BytesInARow) {
  std::vector<float> in(1000);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  float* const out = device_.Allocate<float>(in.size());
  LoadInARow(device_.Upload(in), out, static_cast<int>(in.size()), device_.stream());
  const auto found = device_.Download(out, in.size());
  for (size_t i = 0; i < in.size(); ++i) EXPECT_EQ(found[i], in[in.size() - 1 - i]);
}

TEST_F(HopperLanguage, AStoreLeavesOutWhatIsOutsideOfTheTensor) {
  constexpr int kRows = 20, kColumns = 72;
  std::vector<uint16_t> memory(kRows * kColumns, 7);
  uint16_t* const tensor = device_.Upload(memory);
  StoreSwizzledBox(MapOf(tensor, kRows, kColumns, 16), 16, 16, 9, device_.stream());
  const auto found = device_.Download(tensor, memory.size());
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      const bool stored = r >= 9 && c >= 16;
      const auto value = static_cast<float>((r - 9) * 64 + c - 16);
      EXPECT_EQ(found[r * kColumns + c], stored ? F32ToBF16(value) : 7) << r << " " << c;
    }
  }
}

// Mistakes in an mbarrier's phases show when there are more boxes than stages.
TEST_F(HopperLanguage, ARingOfMbarriers) {
  constexpr int kStages = 3;
  for (const int boxes : {1, 2, 3, 4, 7}) {
    const auto in = Bf16Values(static_cast<size_t>(boxes) * 64 * 64);
    float* const sums = device_.Allocate<float>(64);
    SumThroughRing(MapOf(device_.Upload(in), boxes * 64, 64, 64), boxes, kStages, sums,
                   device_.stream());
    const auto found = device_.Download(sums, 64);
    for (int row = 0; row < 64; ++row) {
      float expected = 0;
      for (int i = 0; i < boxes * 64; ++i) {
        expected += BF16ToF32(in[(i / 64 * 64 + row) * 64 + i % 64]);
      }
      EXPECT_EQ(found[row], expected) << boxes << " " << row;
    }
  }
}

TEST_F(HopperLanguage, NamedBarriersPassAWordBackAndForth) {
  int* const order = device_.Allocate<int>(2);
  PingPong(order, device_.stream());
  EXPECT_EQ(device_.Download(order, 2), (std::vector<int>{1, 2}));
}

TEST_F(HopperLanguage, BlocksOfAClusterReachEachOther) {
  for (const int blocks : {1, 2, 8}) {
    const std::vector<uint16_t> in = Bf16Values(static_cast<size_t>(blocks) * 8 * 64);
    const TensorMap map = MakeTensorMap({.element = TensorElement::kBf16,
                                         .base = device_.Upload(in),
                                         .rank = 3,
                                         .sizes = {64, 8 * blocks, 1},
                                         .strides_bytes = {128, 8 * blocks * 128},
                                         .box = {64, 8, 1}});
    auto* const out = device_.Allocate<uint16_t>(blocks * in.size());
    auto* const words = device_.Allocate<uint32_t>(blocks * blocks * 4);
    ReachOtherBlocks(map, blocks, out, words, device_.stream());
    const auto found = device_.Download(out, blocks * in.size());
    const auto given = device_.Download(words, blocks * blocks * 4);
    for (int to = 0; to < blocks; ++to) {
      EXPECT_TRUE(std::equal(in.begin(), in.end(), found.begin() + to * in.size())) << to;
      for (int from = 0; from < blocks; ++from) {
        EXPECT_EQ(given[(to * blocks + from) * 4], from);
        EXPECT_EQ(given[(to * blocks + from) * 4 + 1], to);
        EXPECT_EQ(given[(to * blocks + from) * 4 + 2], 1);
      }
    }
  }
}

TEST_F(HopperLanguage, WgmmaOfBf16) {
  for (const int n : {16, 32, 64, 128, 192, 256}) {
    const auto a = Bf16Values(64 * 64), b = Bf16Values(static_cast<size_t>(n) * 64);
    std::vector<uint16_t> b_kn(b.size());
    for (int i = 0; i < n * 64; ++i) b_kn[i % 64 * n + i / 64] = b[i];
    const TensorMap a_map = MapOf(device_.Upload(a), 64, 64, 64);
    const TensorMap b_map = MapOf(device_.Upload(b), n, 64, static_cast<uint32_t>(n));
    std::vector<float*> products;
    for (int i = 0; i < (n < 64 ? 2 : 4); ++i) {
      products.push_back(device_.Allocate<float>(static_cast<size_t>(64) * n));
    }
    WgmmaProduct(n, a_map, b_map, products[0], device_.stream());
    WgmmaProductOfRegisters(n, a_map, b_map, products[1], device_.stream());
    if (n >= 64) {
      const TensorMap kn_map = MapOf(device_.Upload(b_kn), 64, n, 64);
      WgmmaProductTransposed(n, false, a_map, kn_map, products[2], device_.stream());
      WgmmaProductTransposed(n, true, a_map, kn_map, products[3], device_.stream());
    }
    for (float* const product : products) {
      const auto found = device_.Download(product, static_cast<size_t>(64) * n);
      for (int i = 0; i < 64 * n; ++i) {
        float expected = 0;
        for (int k = 0; k < 64; ++k) {
          expected += BF16ToF32(a[i / n * 64 + k]) * BF16ToF32(b[i % n * 64 + k]);
        }
        ASSERT_EQ(found[i], expected) << n << " " << i;
      }
    }
  }
}

TEST_F(HopperLanguage, WgmmaOfE4m3) {
  const auto codes = [&](size_t count) {
    std::vector<uint8_t> values(count);
    for (auto& v : values) v = F32ToF8E4M3(Value());
    return values;
  };
  const auto map_of = [](const uint8_t* base, int rows) {
    return MakeTensorMap({.element = TensorElement::kByte,
                          .base = base,
                          .sizes = {128, rows, 1},
                          .strides_bytes = {128, 0},
                          .box = {128, static_cast<uint32_t>(rows), 1},
                          .swizzle_128 = true});
  };
  for (const int n : {16, 32, 64, 128, 192, 256}) {
    const auto a = codes(64 * 128), b = codes(static_cast<size_t>(n) * 128);
    float* const d = device_.Allocate<float>(static_cast<size_t>(64) * n);
    WgmmaProductE4m3(n, map_of(device_.Upload(a), 64), map_of(device_.Upload(b), n), d,
                     device_.stream());
    const auto found = device_.Download(d, static_cast<size_t>(64) * n);
    for (int i = 0; i < 64 * n; ++i) {
      float expected = 0;
      for (int k = 0; k < 128; ++k) {
        expected += F8E4M3ToF32(a[i / n * 128 + k]) * F8E4M3ToF32(b[i % n * 128 + k]);
      }
      ASSERT_EQ(found[i], expected) << n << " " << i;
    }
  }
}

TEST(TensorMapRules, AreChecked) {
  alignas(16) static const unsigned char memory[64] = {};
  const TensorMapSpec fine{.element = TensorElement::kBf16,
                           .base = memory,
                           .sizes = {72, 20, 1},
                           .strides_bytes = {144, 0},
                           .box = {64, 16, 1},
                           .swizzle_128 = true};
  EXPECT_EQ(TensorMapProblem(fine), "");
  const auto problem = [&fine](auto change) {
    TensorMapSpec spec = fine;
    change(spec);
    return TensorMapProblem(spec);
  };
  EXPECT_THAT(problem([](auto& s) { s.base = memory + 8; }), testing::HasSubstr("multiple of 16"));
  EXPECT_THAT(problem([](auto& s) { s.base = nullptr; }), testing::HasSubstr("multiple of 16"));
  EXPECT_THAT(problem([](auto& s) { s.rank = 4; }), testing::HasSubstr("2 or 3"));
  EXPECT_THAT(problem([](auto& s) { s.strides_bytes[0] = 152; }), testing::HasSubstr("stride"));
  EXPECT_THAT(problem([](auto& s) { s.strides_bytes[0] = 128; }), testing::HasSubstr("stride"));
  EXPECT_THAT(problem([](auto& s) { s.box[1] = 21; }), testing::HasSubstr("1 to 20"));
  EXPECT_THAT(problem([](auto& s) { s.box[1] = 0; }), testing::HasSubstr("1 to 20"));
  EXPECT_THAT(problem([](auto& s) { s.sizes[1] = 1000, s.box[1] = 257; }),
              testing::HasSubstr("1 to 256"));
  EXPECT_THAT(problem([](auto& s) { s.box[0] = 32; }), testing::HasSubstr("rows of 128 bytes"));
  EXPECT_THAT(problem([](auto& s) { s.box[0] = 33; }), testing::HasSubstr("multiple of 16"));
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
