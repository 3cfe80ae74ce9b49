// Every format against the gguf package (and torch for fp8), bit for bit, from the goldens of
// tests/golden/tensor.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "lib/tensor/codec.h"
#include "lib/tensor/golden_test_support.h"

namespace tandem {
namespace {

class GoldenTypes : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    entry_ = ReadManifest()["types"][GetParam()];
    type_ = *ParseDType(GetParam());
  }
  int64_t BlockElems() const { return InfoOf(type_).block_elems; }
  int64_t BlockBytes() const { return InfoOf(type_).block_bytes; }

  nlohmann::json entry_;
  DType type_ = DType::kF32;
};

TEST_P(GoldenTypes, BlocksDecodeBitForBit) {
  const int64_t blocks = entry_["blocks"];
  const std::vector<std::byte> golden = ReadGolden(GetParam() + ".bin");
  ASSERT_EQ(golden.size(), static_cast<size_t>(blocks * (BlockBytes() + 4 * BlockElems())));
  // One byte off, because rows may start anywhere.
  std::vector<std::byte> shifted(golden.size() + 1);
  std::memcpy(shifted.data() + 1, golden.data(), golden.size());
  std::vector<float> found(blocks * BlockElems());
  DequantizeRow(type_, shifted.data() + 1, blocks * BlockElems(), found.data());
  for (size_t i = 0; i < found.size(); ++i) {
    uint32_t expected;
    std::memcpy(&expected, golden.data() + blocks * BlockBytes() + 4 * i, 4);
    ASSERT_EQ(std::bit_cast<uint32_t>(found[i]), expected)
        << "value " << i % BlockElems() << " of block " << i / BlockElems() << ": " << found[i]
        << " expected " << std::bit_cast<float>(expected);
  }
}

TEST_P(GoldenTypes, ManyRandomBlocksDecodeToTheSameDigest) {
  const int64_t blocks = entry_["many_blocks"];
  std::vector<std::byte> bytes = RandomBytes(entry_["many_seed"], blocks * BlockBytes());
  for (int64_t b = 0; b < blocks; ++b) {
    for (const int64_t offset : entry_["f16_high_bytes"])
      bytes[b * BlockBytes() + offset] &= std::byte{0xBF};
  }
  EXPECT_TRUE(ValidateRow(type_, bytes.data(), blocks * BlockElems()).ok());
  std::vector<float> found(blocks * BlockElems());
  DequantizeRow(type_, bytes.data(), blocks * BlockElems(), found.data());
  EXPECT_EQ(Sha256<float>(found), entry_["many_sha256"].get<std::string>());
}

TEST_P(GoldenTypes, ValidateNamesTheBlockWithABadScale) {
  for (const int64_t offset : entry_["f16_high_bytes"]) {
    std::vector<std::byte> bytes(4 * BlockBytes());
    bytes[2 * BlockBytes() + offset] = std::byte{0x7C};  // infinity, in one piece
    if (type_ == DType::kIQ1_M) {                        // in four pieces: 0xFC00, minus infinity
      bytes[2 * BlockBytes() + 53] = std::byte{0xC0};
      bytes[2 * BlockBytes() + 55] = std::byte{0xF0};
    }
    const absl::Status status = ValidateRow(type_, bytes.data(), 4 * BlockElems());
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_NE(status.message().find("block 2 "), absl::string_view::npos) << status;
    EXPECT_NE(status.message().find(GetParam()), absl::string_view::npos) << status;
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, GoldenTypes,
                         testing::Values("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q2_K",
                                         "q3_K", "q4_K", "q5_K", "q6_K", "iq1_s", "iq1_m",
                                         "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s",
                                         "iq4_xs"),
                         [](const auto& info) { return info.param; });

TEST(GoldenTypesTest, EveryQuantizedTypeHasGoldens) {
  const nlohmann::json types = ReadManifest()["types"];
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    const DTypeInfo& info = InfoOf(static_cast<DType>(i));
    EXPECT_EQ(types.contains(info.name), info.is_quantized) << info.name;
  }
}

TEST(Q8_0Test, EncodesBitForBitAsTheGgufPackage) {
  const int64_t blocks = ReadManifest()["q8_0_encode"]["blocks"];
  const std::vector<std::byte> golden = ReadGolden("q8_0_encode.bin");
  ASSERT_EQ(golden.size(), static_cast<size_t>(blocks * (128 + 34)));
  std::vector<float> values(blocks * 32);
  std::memcpy(values.data(), golden.data(), values.size() * 4);
  std::vector<std::byte> found(blocks * 34);
  ASSERT_TRUE(QuantizeRow(DType::kQ8_0, values.data(), blocks * 32, found.data()).ok());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(found[i], golden[values.size() * 4 + i])
        << "byte " << i % 34 << " of block " << i / 34;
  }
}

// f32 bits with every NaN as 0x7FC00000: which NaN a conversion makes is nobody's promise.
std::vector<uint32_t> CanonicalBits(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  for (const float v : values)
    bits.push_back(std::isnan(v) ? 0x7FC00000 : std::bit_cast<uint32_t>(v));
  return bits;
}

TEST(FloatFormatsTest, EveryCodeDecodesAsElsewhere) {
  const nlohmann::json floats = ReadManifest()["floats"];
  std::vector<float> f16, bf16;
  for (int i = 0; i < 65536; ++i) {
    f16.push_back(F16ToF32(static_cast<uint16_t>(i)));
    bf16.push_back(BF16ToF32(static_cast<uint16_t>(i)));
  }
  EXPECT_EQ(Sha256<uint32_t>(CanonicalBits(f16)),
            floats["f16_decode_all_sha256"].get<std::string>());
  EXPECT_EQ(Sha256<uint32_t>(CanonicalBits(bf16)),
            floats["bf16_decode_all_sha256"].get<std::string>());

  const std::vector<std::byte> golden = ReadGolden("f8_e4m3.bin");
  ASSERT_EQ(golden.size(), size_t{1024});
  for (int i = 0; i < 256; ++i) {
    float expected;
    std::memcpy(&expected, golden.data() + 4 * i, 4);
    const float found = F8E4M3ToF32(static_cast<uint8_t>(i));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(found)) << i;
    } else {
      EXPECT_EQ(std::bit_cast<uint32_t>(found), std::bit_cast<uint32_t>(expected)) << i;
    }
  }
}

TEST(FloatFormatsTest, RandomValuesEncodeAsElsewhere) {
  const nlohmann::json floats = ReadManifest()["floats"];
  const int count = floats["count"];
  SplitMix64 random(floats["seed"]);
  std::vector<uint16_t> f16, f16_near, bf16;
  std::vector<uint8_t> f8;
  for (int i = 0; i < count; ++i) {
    const auto bits = static_cast<uint32_t>(random.Next());
    const float any = std::bit_cast<float>(bits);
    // The script folds exponents around 1 in the same way.
    const float near =
        std::bit_cast<float>((bits & 0x807FFFFF) | ((100 + (bits >> 23) % 45) << 23));
    f16.push_back(F32ToF16(std::isnan(any) ? 0.0f : any));
    f16_near.push_back(F32ToF16(near));
    bf16.push_back(F32ToBF16(any));
    f8.push_back(F32ToF8E4M3(near));  // saturates where the script clips
  }
  EXPECT_EQ(Sha256<uint16_t>(f16), floats["f16_encode_sha256"].get<std::string>());
  EXPECT_EQ(Sha256<uint16_t>(f16_near), floats["f16_encode_near_sha256"].get<std::string>());
  EXPECT_EQ(Sha256<uint16_t>(bf16), floats["bf16_encode_sha256"].get<std::string>());
  EXPECT_EQ(Sha256<uint8_t>(f8), floats["f8_e4m3_encode_near_clipped_sha256"].get<std::string>());
}

}  // namespace
}  // namespace tandem
