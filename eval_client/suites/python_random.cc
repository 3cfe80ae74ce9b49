#include "eval_client/suites/python_random.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <unordered_set>

#include "lib/base/check.h"

namespace tandem::eval {

// The constants are those of the MT19937 paper and of its 2002 initialization (M. Matsumoto, T.
// Nishimura, "Mersenne Twister", ACM TOMACS 8(1), 1998).

PythonRandom::PythonRandom(uint64_t seed) {
  std::vector<uint32_t> key = {static_cast<uint32_t>(seed)};
  if (seed >> 32 != 0) key.push_back(static_cast<uint32_t>(seed >> 32));
  InitByArray(key);
}

void PythonRandom::InitByNumber(uint32_t number) {
  state_[0] = number;
  for (uint32_t i = 1; i < kWords; ++i) {
    state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
  }
}

void PythonRandom::InitByArray(const std::vector<uint32_t>& key) {
  InitByNumber(19650218u);
  size_t i = 1;
  const auto mixed = [&](uint32_t factor) {
    return state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * factor);
  };
  const auto advance = [&] {
    if (++i == kWords) {
      state_[0] = state_[kWords - 1];
      i = 1;
    }
  };
  for (size_t k = 0; k < std::max(kWords, key.size()); ++k) {
    const size_t j = k % key.size();
    state_[i] = mixed(1664525u) + key[j] + static_cast<uint32_t>(j);
    advance();
  }
  for (size_t k = 0; k < kWords - 1; ++k) {
    state_[i] = mixed(1566083941u) - static_cast<uint32_t>(i);
    advance();
  }
  state_[0] = 0x80000000u;  // the state is never all zero
  next_ = kWords;
}

void PythonRandom::Refill() {
  constexpr size_t kShift = 397;
  for (size_t i = 0; i < kWords; ++i) {
    const uint32_t y = (state_[i] & 0x80000000u) | (state_[(i + 1) % kWords] & 0x7fffffffu);
    state_[i] = state_[(i + kShift) % kWords] ^ (y >> 1) ^ ((y & 1) ? 0x9908b0dfu : 0u);
  }
  next_ = 0;
}

uint32_t PythonRandom::NextUint32() {
  if (next_ == kWords) Refill();
  uint32_t y = state_[next_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

uint32_t PythonRandom::GetRandBits(int bits) {
  TANDEM_CHECK_GE(bits, 1);
  TANDEM_CHECK_LE(bits, 32);
  return NextUint32() >> (32 - bits);
}

uint32_t PythonRandom::RandBelow(uint32_t bound) {
  TANDEM_CHECK_GT(bound, 0u);
  const int bits = std::bit_width(bound);
  uint32_t drawn = GetRandBits(bits);
  while (drawn >= bound) drawn = GetRandBits(bits);
  return drawn;
}

std::vector<size_t> PythonRandom::Sample(size_t population, size_t count) {
  TANDEM_CHECK(count <= population);
  // CPython keeps a set of the drawn where it thinks that smaller than a copy of the population: 21
  // is the size of an empty one, and a table for k items has the power of 4 from 3 k on.
  size_t set_size = 21;
  if (count > 5) {
    size_t table = 1;
    while (table < 3 * count) table *= 4;
    set_size += table;
  }
  std::vector<size_t> chosen;
  if (population <= set_size) {
    std::vector<size_t> pool(population);
    std::iota(pool.begin(), pool.end(), size_t{0});
    for (size_t left = population; chosen.size() < count; --left) {
      const uint32_t at = RandBelow(static_cast<uint32_t>(left));
      chosen.push_back(pool[at]);
      pool[at] = pool[left - 1];
    }
    return chosen;
  }
  std::unordered_set<size_t> drawn;
  while (chosen.size() < count) {
    const size_t at = RandBelow(static_cast<uint32_t>(population));
    if (drawn.insert(at).second) chosen.push_back(at);
  }
  return chosen;
}

}  // namespace tandem::eval
