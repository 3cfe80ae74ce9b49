// Read loops in terms of Lanes (Type, Zero, Or, Sum), included once for each width of load.

inline constexpr int64_t kReadLine = 64;  // bytes of a cache line
inline constexpr int kReadChains = 4;     // independent sums

// Reads kBytes from `at`.
template <int kBytes>
inline void ReadRun(const std::byte* at, Lanes::Type (&sums)[kReadChains]) {
  constexpr int kStep = sizeof(Lanes::Type);
  for (int i = 0; i < kBytes / kStep; ++i)
    sums[i % kReadChains] = Lanes::Or(sums[i % kReadChains], at + i * kStep);
}

inline uint64_t Joined(const Lanes::Type (&sums)[kReadChains]) {
  return Lanes::Sum(sums[0]) ^ Lanes::Sum(sums[1]) ^ Lanes::Sum(sums[2]) ^ Lanes::Sum(sums[3]);
}

// One run through memory; kAhead > 0 asks for lines that many bytes ahead.
// kLocality as in __builtin_prefetch: 3 keeps the line in all caches.
template <int kAhead, int kLocality>
inline uint64_t ReadInOrder(const std::byte* begin, int64_t bytes) {
  Lanes::Type sums[kReadChains] = {Lanes::Zero(), Lanes::Zero(), Lanes::Zero(), Lanes::Zero()};
  constexpr int64_t kRun = 4 * kReadLine;
  for (int64_t at = 0; at < bytes; at += kRun) {
    if (kAhead > 0) {
      for (int64_t line = 0; line < kRun; line += kReadLine)
        __builtin_prefetch(begin + at + kAhead + line, 0, kLocality);
    }
    ReadRun<kRun>(begin + at, sums);
  }
  return Joined(sums);
}

// Several places at once: more of the hardware's prefetchers at work for one thread.
template <int kStreams>
inline uint64_t ReadStreams(const std::byte* begin, int64_t bytes) {
  Lanes::Type sums[kReadChains] = {Lanes::Zero(), Lanes::Zero(), Lanes::Zero(), Lanes::Zero()};
  constexpr int64_t kRun = 4 * kReadLine;
  const int64_t part = bytes / kStreams;
  for (int64_t at = 0; at < part; at += kRun) {
    for (int stream = 0; stream < kStreams; ++stream)
      ReadRun<kRun>(begin + stream * part + at, sums);
  }
  return Joined(sums);
}

inline constexpr ReadPattern kPatterns[] = {
    {"in_order", ReadInOrder<0, 3>},       {"prefetch_1k", ReadInOrder<1024, 3>},
    {"prefetch_4k", ReadInOrder<4096, 3>}, {"two_streams", ReadStreams<2>},
    {"four_streams", ReadStreams<4>},      {"eight_streams", ReadStreams<8>},
};
