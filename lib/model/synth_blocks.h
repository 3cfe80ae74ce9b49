// Random weights in any number format, made directly as blocks: random codes under scales chosen so
// that the dequantized values have a given standard deviation. No quantizer runs, so a model of any
// size is written at the speed of the disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lib/tensor/dtype.h"

namespace tandem {

// A well-mixed number from two: seeds of rows from seeds of tensors. (splitmix64's finalizer:
// Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.)
uint64_t MixSeed(uint64_t seed, uint64_t part);

// xoshiro256++ (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021).
class RandomBits {
 public:
  explicit RandomBits(uint64_t seed);
  uint64_t Next();

 private:
  uint64_t state_[4];
};

class RandomRows {
 public:
  // Rows of `cols` values of `type` (a multiple of its block) with standard deviation about
  // `std_dev`, mean about 0. For f8_e4m3 the codes cover the whole range, and a block scale of
  // Fp8ScaleInv gives the deviation.
  RandomRows(DType type, int64_t cols, double std_dev);

  int64_t row_bytes() const { return row_bytes_; }
  // Writes one row to `dst` [row_bytes()]. The same seed gives the same row; f32, f16 and bf16 rows
  // of one seed are the same numbers up to rounding.
  void Fill(uint64_t row_seed, std::byte* dst) const;

 private:
  void FillBlocks(RandomBits& bits, std::byte* dst) const;
  void FillCodes(RandomBits& bits, std::byte* dst) const;

  DType type_;
  int64_t cols_;
  int64_t row_bytes_;
  float amplitude_;                     // f32: values are uniform in [-amplitude, amplitude)
  std::vector<uint16_t> code_of_bits_;  // f16, bf16, f8: 16 random bits to a code
  // Block formats: the scale (f16 bits) and the offset that centres the block, picked by four
  // random bits.
  std::vector<uint16_t> scale_, offset_;
};

// The weight_scale_inv that turns full-range e4m3 codes of RandomRows into values of deviation
// `std_dev`.
float Fp8ScaleInv(double std_dev);

}  // namespace tandem
