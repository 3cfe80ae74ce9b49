// ThreadPool: a fixed set of threads for data-parallel loops. Which thread computes what never
// changes a result: callers split over output rows only, so any number of threads gives the same
// bits.
//
// Opening and closing a loop takes well under a microsecond while the threads are awake: no lock,
// no system call. Each thread starts with a contiguous share, so that it reads memory in sequence,
// and takes the rear half of another's share when its own is done. A thread that is asleep, or that
// the system runs elsewhere, is not waited for: the others take its share.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"

namespace tandem::base {

// Where one thread of a pool runs.
struct ThreadPlace {
  std::vector<int> cpus;  // processors it may use, as the system numbers them; empty: any
  int node = 0;           // memory node near it, counted from 0
};

class ThreadPool {
 public:
  using Body = absl::FunctionRef<void(int64_t begin, int64_t end)>;

  // `threads` includes the calling thread, so 1 starts none. CHECKs threads >= 1. All on node 0,
  // wherever the system puts them.
  explicit ThreadPool(int threads);
  // One thread a place, the first of them the calling thread. CHECKs that there is one, that they
  // are in order of node and that no node below the last is without a thread.
  explicit ThreadPool(std::vector<ThreadPlace> places);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;
  int nodes() const;

  // Keeps the calling thread where the first place says: for a thread that makes all the calls.
  // False when the system refuses.
  bool BindCaller() const;
  // Threads of the pool that the system refused to keep in their place; they run anywhere.
  int threads_not_bound() const;
  // Node of the pool thread that runs the calling code; 0 outside of a loop.
  static int ThisNode();

  // Calls body(begin, end) over disjoint ranges covering [0, count), each a multiple of `grain`
  // long but the last, on all threads, and returns when all are done. One loop at a time: calls
  // from several threads queue up. Idle threads spin briefly, then sleep. A loop inside a body runs
  // on the body's own thread.
  void ParallelFor(int64_t count, int64_t grain, Body body);

  // The same over [bounds.front(), bounds.back()): items [bounds[n], bounds[n + 1]) lie on memory
  // node n, so that node's threads compute them, and others' only when they have none left. Ranges
  // are multiples of `grain` but the last of each node, and none spans two nodes. `bounds` ascends
  // and has nodes() + 1 entries (CHECKed).
  void ParallelForNodes(std::span<const int64_t> bounds, int64_t grain, Body body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::base
