// The codebooks of the i-quants: a code in a file is an index into one of these tables of short
// vectors. They are constants of the formats (published with llama.cpp), kept here in a compact
// form and expanded at compile time; sha256 digests of the expanded tables are checked in
// iquant_grids_test.cc.
#pragma once

#include <bit>
#include <cstdint>

namespace tandem {

// Each returns a table that lives as long as the program, aligned to 64 bytes. Entry i is the
// `dims` bytes at i * dims.
const int8_t* GridIQ1_S();     // [2048, 8], values -1, 0, 1; iq1_m uses it too
const uint8_t* GridIQ2_XXS();  // [256, 8], values 8, 25, 43
const uint8_t* GridIQ2_XS();   // [512, 8], values 8, 25, 43
const uint8_t* GridIQ2_S();    // [1024, 8], values 8, 25, 43
const uint8_t* GridIQ3_XXS();  // [256, 4], values 4, 12, 20, 28, 36, 44, 52, 62
const uint8_t* GridIQ3_S();    // [512, 4], odd values 1..15

// iq2_xxs, iq2_xs and iq3_xxs store seven signs of eight; the eighth makes the number of negative
// values even. Bit k of the result is set when value k is negative. `code` is 0..127.
inline uint8_t SignsFromSeven(uint32_t code) {
  return static_cast<uint8_t>(code | ((std::popcount(code) & 1u) << 7));
}

}  // namespace tandem
