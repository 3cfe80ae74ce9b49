// Weights of tokens as whole numbers of steps. The sum over a vocabulary decides which token is
// drawn and is part of every log probability, so it must be the same bits on a CPU, on a GPU and
// over any number of ranks. Floats cannot promise that without a fixed order of additions; integers
// can, in any order.
//
// A weight exp((logit - highest) / temperature) is at most 1. One step is 2^-44: the sum of a
// vocabulary of 2^18 tokens stays below 2^62, a weight above 2^-21 is exact, and one below is
// rounded by at most 2^-45, all of a vocabulary together by less than 2^-27 of the sum, which is at
// least 1.
#pragma once

#include <bit>
#include <cstdint>

namespace tandem::gpu_worker {

inline constexpr int kWeightStepBits = 44;

// weight / 2^-44 to the nearest whole number, ties to even, for weights in [0, 256): in doubles
// from 256 to 512 the last bit is worth 2^-44, so that adding 256 rounds to it. Of other weights,
// infinity among them, some number, the same everywhere.
constexpr uint64_t WeightSteps(float weight) {
  return std::bit_cast<uint64_t>(static_cast<double>(weight) + 256.0) -
         std::bit_cast<uint64_t>(256.0);
}

}  // namespace tandem::gpu_worker
