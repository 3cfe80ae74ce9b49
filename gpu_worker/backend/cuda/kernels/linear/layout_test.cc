// What of the portable linear kernel can be gone through address by address and code by code on the
// host: every access to shared memory is free of bank conflicts, every weight is decoded to what
// the format says, every input is some part's.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>
#include <vector>

#include "gpu_worker/backend/cuda/kernels/linear/decode.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "gpu_worker/backend/cuda/kernels/linear/portable_layout.h"
#include "lib/kernels/marlin_linear.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

// Shared memory serves 16 bytes for eight lanes at a time, from 32 banks of 4 bytes: eight groups
// of banks, each of which eight lanes must ask once.
void ExpectAllGroups(const std::vector<int>& chunks) {
  ASSERT_EQ(chunks.size(), 8u);
  std::set<int> groups;
  for (const int chunk : chunks) groups.insert(chunk % 8);
  EXPECT_EQ(groups.size(), 8u);
}

TEST(LinearLayout, InputsAreReadAndWrittenWithoutConflicts) {
  for (const int per_row : {8, 16}) {
    for (int row = 0; row < 64; row += 8) {
      for (int chunk = 0; chunk < per_row; ++chunk) {  // ldmatrix: one matrix is eight rows
        std::vector<int> places;
        for (int i = 0; i < 8; ++i) places.push_back(InputChunkPlace(row + i, chunk, per_row));
        ExpectAllGroups(places);
      }
    }
    std::set<int> all;
    for (int first = 0; first < 64 * per_row; first += 8) {  // copies: chunks in order
      std::vector<int> places;
      for (int i = first; i < first + 8; ++i) {
        places.push_back(InputChunkPlace(i / per_row, i % per_row, per_row));
        all.insert(places.back());
      }
      ExpectAllGroups(places);
    }
    EXPECT_EQ(static_cast<int>(all.size()), 64 * per_row);
    EXPECT_EQ(*all.rbegin(), 64 * per_row - 1);
  }
}

TEST(LinearLayout, WeightsAreReadAndWrittenWithoutConflicts) {
  for (const WeightKind kind :
       {WeightKind::kBf16, WeightKind::kFp8, WeightKind::kInt8, WeightKind::kInt4}) {
    const int chunks = static_cast<int>(kTileInputs * kTileOutputs * WeightBits(kind) / 8 / 16);
    std::set<int> all;
    for (int first = 0; first < chunks; first += 8) {  // copies, and the reads of all but int8
      std::vector<int> places;
      for (int i = first; i < first + 8; ++i) {
        places.push_back(WeightChunkPlace(kind, i));
        all.insert(places.back());
      }
      ExpectAllGroups(places);
    }
    EXPECT_EQ(static_cast<int>(all.size()), chunks);
    EXPECT_EQ(*all.rbegin(), chunks - 1);
  }
  for (int part = 0; part < 2; ++part) {
    for (int lane = 0; lane < 32; lane += 8) {
      std::vector<int> places;
      for (int i = lane; i < lane + 8; ++i) {
        places.push_back(WeightChunkPlace(WeightKind::kInt8, 2 * i + part));
      }
      ExpectAllGroups(places);
    }
  }
}

template <WeightKind kKind, int kRows>
void ExpectExchangeIsSound() {
  using Shape = PortableShape<kKind, kRows>;
  std::set<int> all;
  for (int n = 0; n < kWarpsAlongOutputs; ++n) {
    for (int to = 0; to < kWarpsAlongInputs; ++to) {
      for (int from = 0; from < kWarpsAlongInputs; ++from) {
        if (from == to) continue;
        for (int sum = 0; sum < Shape::kSumsHanded; ++sum) {
          const int first = ExchangePlace(n, to, from, sum, Shape::kSumsHanded, 0);
          for (int lane = 0; lane < 32; ++lane) {  // one bank a lane
            const int place = ExchangePlace(n, to, from, sum, Shape::kSumsHanded, lane);
            EXPECT_EQ(place, first + lane);
            EXPECT_TRUE(all.insert(place).second);
            EXPECT_TRUE(place >= 0 && place * 4 < Shape::kExchangeBytes);
          }
        }
      }
    }
  }
  EXPECT_GE(Shape::kStages, 3);
  EXPECT_LE(Shape::kSharedBytes, 99 << 10);
  // Two blocks a multiprocessor: 228 KB, of which each takes one more.
  if (kRows <= 32) {
    EXPECT_LE(2 * (Shape::kSharedBytes + 1024), 228 << 10);
  }
  // The weights under way while one stage is worked on; see portable_layout.h.
  EXPECT_GE((kRows <= 32 ? 2 : 1) * (Shape::kStages - 1) * Shape::kWeightBytes, 23 << 10);
}

TEST(LinearLayout, StagesAndExchangeFit) {
  ExpectExchangeIsSound<WeightKind::kBf16, 16>();
  ExpectExchangeIsSound<WeightKind::kBf16, 32>();
  ExpectExchangeIsSound<WeightKind::kBf16, 64>();
  ExpectExchangeIsSound<WeightKind::kFp8, 16>();
  ExpectExchangeIsSound<WeightKind::kFp8, 32>();
  ExpectExchangeIsSound<WeightKind::kInt8, 16>();
  ExpectExchangeIsSound<WeightKind::kInt8, 32>();
  ExpectExchangeIsSound<WeightKind::kInt8, 64>();
  ExpectExchangeIsSound<WeightKind::kInt4, 16>();
  ExpectExchangeIsSound<WeightKind::kInt4, 32>();
  ExpectExchangeIsSound<WeightKind::kInt4, 64>();
}

uint16_t Half(uint32_t word, int half) { return static_cast<uint16_t>(word >> (16 * half)); }

TEST(LinearLayout, EveryFp8CodeIsDecodedExactly) {
  for (uint32_t code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;  // NaN is refused when weights are packed
    for (int byte = 0; byte < 4; ++byte) {
      uint32_t b[2];
      DecodeFp8((0x11223344u & ~(0xffu << 8 * byte)) | code << 8 * byte, b);
      const uint16_t expected = F32ToBF16(F8E4M3ToF32(static_cast<uint8_t>(code)));
      EXPECT_EQ(Half(b[byte % 2], byte / 2), expected) << code << " " << byte;
    }
  }
}

// Scales of all exponents and some mantissas.
TEST(LinearLayout, EveryIntCodeIsDecodedAsTheHostDoes) {
  for (uint32_t scale = 0; scale < 0x7f80; scale += 0x1d) {
    const auto scale16 = static_cast<uint16_t>(scale);
    for (uint32_t code = 0; code < 256; code += scale % 7 == 0 ? 1 : 5) {
      const uint16_t expected =
          kernels::MarlinWeight({8, 128}, static_cast<uint8_t>(code), scale16);
      for (int byte = 0; byte < 4; ++byte) {
        uint32_t b[2];
        DecodeInt8((0x11f23384u & ~(0xffu << 8 * byte)) | code << 8 * byte, scale * 0x10001u, b);
        ASSERT_EQ(Half(b[byte % 2], byte / 2), expected) << code << " " << byte << " " << scale;
      }
    }
    for (uint32_t code = 0; code < 16; ++code) {
      const uint16_t expected =
          kernels::MarlinWeight({4, 128}, static_cast<uint8_t>(code), scale16);
      for (int nibble = 0; nibble < 8; ++nibble) {
        uint32_t b[2];
        const uint32_t word = (0x19f2338au & ~(0xfu << 4 * nibble)) | code << 4 * nibble;
        DecodeInt4(word, nibble % 4 / 2, scale * 0x10001u, b);
        ASSERT_EQ(Half(b[nibble % 2], nibble / 4), expected)
            << code << " " << nibble << " " << scale;
      }
    }
  }
}

// Words as Marlin packs them come apart as an mma wants them: of lane 4 g + t, inputs 2 t, 2 t + 1
// in b[0] and 2 t + 8, 2 t + 9 in b[1], of output g.
TEST(LinearLayout, WordsHoldTheOperandsOfAnMma) {
  constexpr int64_t kN = 64;
  constexpr uint32_t kOne = 0x3f803f80u;
  for (const int bits : {4, 8}) {
    for (int64_t k = 0; k < 16; ++k) {
      for (int64_t n = 0; n < kN; ++n) {
        const kernels::MarlinPlace place = kernels::MarlinCodePlace(bits, k, n, kN);
        const int64_t lane = n % 8 * 4 + k % 8 / 2, tile = n / 8;
        const uint32_t zeros = bits == 4 ? 0x88888888u : 0x80808080u;
        const uint32_t word = zeros ^ 3u << place.shift;  // code 3
        uint32_t b[2];
        if (bits == 4) {
          EXPECT_EQ(place.word, lane * 4 + tile / 2);
          DecodeInt4(word, static_cast<int>(tile % 2), kOne, b);
        } else {
          EXPECT_EQ(place.word, lane * 8 + tile);
          DecodeInt8(word, kOne, b);
        }
        for (int i = 0; i < 2; ++i) {
          for (int half = 0; half < 2; ++half) {
            const bool here = i == k / 8 && half == k % 2;
            EXPECT_EQ(Half(b[i], half) & 0x7fff, here ? F32ToBF16(3.0f) : 0) << k << " " << n;
          }
        }
      }
    }
  }
}

TEST(LinearLayout, SplitsAreSensible) {
  for (int64_t outputs = 1; outputs < 140000; outputs += outputs / 3 + 1) {
    for (int64_t inputs = 1; inputs < 40000; inputs += inputs / 3 + 1) {
      for (const int64_t batch : {1, 16, 128}) {
        const int64_t splits = SplitsOfLinear(outputs, inputs, batch);
        EXPECT_GE(splits, 1);
        EXPECT_LE(splits, 16);
        EXPECT_LE(splits, (inputs + 127) / 128) << inputs;  // none is empty
        const int64_t blocks = (outputs + 127) / 128 * batch;
        if (splits > 1) {
          EXPECT_LE(splits * blocks, 264);  // one wave on an H200
        }
      }
    }
  }
  EXPECT_EQ(SplitsOfLinear(7168, 16384, 1), 4);
  EXPECT_EQ(SplitsOfLinear(2112, 7168, 1), 15);
  EXPECT_EQ(SplitsOfLinear(24576, 1536, 1), 1);
  EXPECT_EQ(SplitsOfLinear(129280, 7168, 1), 1);
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
