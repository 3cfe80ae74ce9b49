// How fast the machine's memory can be read: the limit of one-row products, which read every weight
// once. Several access patterns, since no single one is the fastest on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lib/base/thread_pool.h"

namespace tandem::bench {

struct ReadPattern {
  const char* name;
  uint64_t (*read)(const std::byte* begin, int64_t bytes);  // bytes: a multiple of kReadGrain
};

inline constexpr int64_t kReadGrain = 16384;

// All of them read every byte once with the widest loads of this processor.
std::span<const ReadPattern> ReadPatterns();

// Seconds to read `memory` once on all threads of `pool`, each its own contiguous ranges. The size
// is rounded down to kReadGrain.
double ReadSeconds(base::ThreadPool* pool, std::span<const std::byte> memory,
                   const ReadPattern& pattern);

// Speeds of every pattern over one stretch of time.
class ReadSpeeds {
 public:
  ReadSpeeds();
  // Reads `memory` once with the next pattern in turn.
  void Sample(base::ThreadPool* pool, std::span<const std::byte> memory);
  // GB/s of the fastest pattern: the largest of their medians, and the best single reading.
  double median_gb_s() const;
  double best_gb_s() const;
  const char* best_pattern() const;  // of the largest median

 private:
  size_t BestIndex() const;

  std::vector<std::vector<double>> gb_s_;  // [pattern][sample]
  size_t next_ = 0;
};

double Median(std::vector<double> values);  // 0 of none

}  // namespace tandem::bench
