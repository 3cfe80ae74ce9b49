// ThreadPool: a fixed set of threads for data-parallel loops. Which thread computes what never
// changes a result: callers split over output rows only, so any number of threads gives the same
// bits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace tandem::base {

class ThreadPool {
 public:
  // `threads` includes the calling thread, so 1 starts none. CHECKs threads >= 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls body(begin, end) over disjoint ranges covering [0, count), each a multiple of `grain`
  // long but the last, on all threads, and returns when all are done. One loop at a time: calls
  // from several threads queue up. Idle threads spin briefly, then sleep.
  void ParallelFor(int64_t count, int64_t grain,
                   const std::function<void(int64_t begin, int64_t end)>& body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::base
