// Python's random.seed(int) and random.shuffle, bit for bit: the published benchmark shuffles its
// questions with them, and only the same order asks the same first thousand.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace tandem::eval {

class PythonRandom {
 public:
  // random.seed(seed) for an int seed >= 0: CPython feeds the 32-bit digits of the seed to
  // init_by_array.
  explicit PythonRandom(uint64_t seed);

  // random.getrandbits(bits), 1 <= bits <= 32 (CHECKed).
  uint32_t GetRandBits(int bits);

  // random.randrange(bound): draws of bound.bit_length() bits until one is below `bound`. CHECKs
  // bound > 0.
  uint32_t RandBelow(uint32_t bound);

  // random.sample(range(population), count): the chosen indices in the order they were drawn.
  // CHECKs that there are so many.
  std::vector<size_t> Sample(size_t population, size_t count);

  // random.shuffle(items).
  template <typename T>
  void Shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[RandBelow(static_cast<uint32_t>(i))]);
    }
  }

 private:
  static constexpr size_t kWords = 624;

  void InitByNumber(uint32_t number);
  void InitByArray(const std::vector<uint32_t>& key);
  void Refill();
  uint32_t NextUint32();

  std::array<uint32_t, kWords> state_{};
  size_t next_ = kWords;
};

}  // namespace tandem::eval
