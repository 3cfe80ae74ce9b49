// The codebooks against digests of the published tables (tests/golden/tensor/make_grid_bitmaps.py
// prints them from the gguf package; the iq1 digest is also that of llama.cpp's iq1s_grid read as
// little-endian words).
#include "lib/tensor/iquant_grids.h"

#include <gtest/gtest.h>

#include "lib/tensor/golden_test_support.h"

namespace tandem {
namespace {

template <typename T>
std::string DigestOf(const T* table, size_t values) {
  return Sha256<T>(std::span<const T>(table, values));
}

TEST(IquantGrids, TablesHaveTheirPublishedDigests) {
  EXPECT_EQ(DigestOf(GridIQ1_S(), 2048 * 8),
            "07540ffc1aeaf6ad4d97e96b0fcc765aae39671d4ae4a27bbd0e796fde167c6a");
  EXPECT_EQ(DigestOf(GridIQ2_XXS(), 256 * 8),
            "05826b5d3e472a3a78f196be62ac78acf81df0f909626e12ab9fa2a5d490dd54");
  EXPECT_EQ(DigestOf(GridIQ2_XS(), 512 * 8),
            "06e47aaca60b4dc1d9b5a3f34540437058a6b142b4d7a59d5ded769b4d1bf1de");
  EXPECT_EQ(DigestOf(GridIQ2_S(), 1024 * 8),
            "e1aa1473412b0552c2174c30ef22ab4073f6a181b85a17056e8249bd2932fd88");
  EXPECT_EQ(DigestOf(GridIQ3_XXS(), 256 * 4),
            "46e35f5a997efdee6c99ce57854c8a0d4f0ff8ca57e5e8a60c0793ea580acf5d");
  EXPECT_EQ(DigestOf(GridIQ3_S(), 512 * 4),
            "bd1af4945a1717c65610b0284e4628b9a1ba3b306fae3a06f6e5f597356e349f");
}

TEST(IquantGrids, TablesAreAligned) {
  EXPECT_EQ(reinterpret_cast<uintptr_t>(GridIQ1_S()) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(GridIQ2_S()) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(GridIQ3_S()) % 64, 0u);
}

TEST(IquantGrids, EverySignCodeNegatesAnEvenNumber) {
  for (uint32_t code = 0; code < 128; ++code) {
    EXPECT_EQ(SignsFromSeven(code) & 127, code);
    EXPECT_EQ(std::popcount(SignsFromSeven(code)) % 2, 0) << code;
  }
}

}  // namespace
}  // namespace tandem
