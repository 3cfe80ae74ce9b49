// SpinWait: looks for something again and again for a bounded time before its owner sleeps. A
// wake-up costs ten microseconds and more, a call to a worker on the same host a few; who waits
// awake for the length of a few wake-ups loses little when nothing comes and much less when it
// does.
#pragma once

#include <cstdint>
#include <ctime>

#if !defined(__x86_64__)
#include <thread>
#endif

namespace tandem::rpc {

// Nanoseconds of CLOCK_MONOTONIC, which all processes of a host share.
inline int64_t MonotonicNanos() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

class SpinWait {
 public:
  // Waits not at all when this thread has lately lost its processor in the middle of waiting: where
  // threads are more than processors, a thread that sleeps is woken soon, and one that waits awake
  // uses up the time it would need to work, and others theirs.
  explicit SpinWait(int64_t spin_ns_max) : now_ns_(MonotonicNanos()) {
    end_ns_ = now_ns_ < no_spin_until_ns_ ? now_ns_ : now_ns_ + spin_ns_max;
  }

  // Lets a moment pass; false when the time is over.
  bool Again() {
    for (int i = 0; i < kPausesPerClockRead; ++i) Pause();
    const int64_t before_ns = now_ns_;
    now_ns_ = MonotonicNanos();
    if (now_ns_ - before_ns > kPreemptedNs) {
      no_spin_until_ns_ = now_ns_ + kNoSpinNs;
      return false;
    }
    return now_ns_ < end_ns_;
  }

 private:
  // A pause takes 10 to 40 ns, reading the clock some 25: the caller looks about every 200 ns.
  static constexpr int kPausesPerClockRead = 4;
  // Longer than what a caller does between two looks, a hundredth of what a scheduler gives others.
  static constexpr int64_t kPreemptedNs = 100'000;
  // A few dozen turns of the scheduler; load changes more slowly.
  static constexpr int64_t kNoSpinNs = 100'000'000;

  static void Pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  static inline thread_local int64_t no_spin_until_ns_ = 0;
  int64_t now_ns_;
  int64_t end_ns_;
};

// SpinHabit: whether waiting awake has been worth it lately. What takes longer than the wait allows
// every time (large experts, long pauses between layers) is waited for asleep from the start.
class SpinHabit {
 public:
  bool WorthTrying() { return misses_ < kMissesMax || ++skipped_ % kTryAgainEvery == 0; }
  void Learn(bool came_in_time) { misses_ = came_in_time ? 0 : misses_ + 1; }

 private:
  static constexpr int64_t kMissesMax = 4;
  // A lost wait of 50 us in this many is less than one microsecond each.
  static constexpr int64_t kTryAgainEvery = 64;

  int64_t misses_ = 0;
  int64_t skipped_ = 0;
};

}  // namespace tandem::rpc
