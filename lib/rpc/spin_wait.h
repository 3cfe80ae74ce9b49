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

#include <sched.h>

namespace tandem::rpc {

// Nanoseconds of CLOCK_MONOTONIC, which all processes of a host share.
inline int64_t MonotonicNanos() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

class SpinWait {
 public:
  explicit SpinWait(int64_t spin_ns_max) : end_ns_(MonotonicNanos() + spin_ns_max) {}

  // Lets a moment pass; false when the time is over. Now and then the processor is offered to
  // others: where processes are more than processors, what is waited for may need this one.
  bool Again() {
    for (int i = 0; i < kPausesPerClockRead; ++i) Pause();
    if (++clock_reads_ % kClockReadsPerYield == 0) sched_yield();
    return MonotonicNanos() < end_ns_;
  }

 private:
  // A pause takes 10 to 40 ns, reading the clock some 25: the caller looks about every 200 ns.
  static constexpr int kPausesPerClockRead = 4;
  // Offering the processor costs a few hundred nanoseconds: about every 5 us.
  static constexpr int kClockReadsPerYield = 24;

  static void Pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  const int64_t end_ns_;
  int clock_reads_ = 0;
};

}  // namespace tandem::rpc
