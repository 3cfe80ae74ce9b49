#include "lib/base/thread_pool.h"

#include <atomic>
#include <ctime>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace tandem::base {
namespace {

TEST(ThreadPool, CoversEachIndexOnceInMultiplesOfTheGrain) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int64_t count : {0, 1, 7, 64, 1000, 4097}) {
      for (int64_t grain : {1, 4, 32}) {
        std::vector<std::atomic<int>> hits(count);
        pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end) {
          EXPECT_LT(begin, end);
          EXPECT_LE(end, count);
          if (end != count) {
            EXPECT_EQ((end - begin) % grain, 0);
          }
          for (int64_t i = begin; i < end; ++i) hits[i].fetch_add(1);
        });
        for (int64_t i = 0; i < count; ++i) ASSERT_EQ(hits[i].load(), 1) << i;
      }
    }
  }
}

TEST(ThreadPool, ManyShortLoopsSeeTheirOwnBodies) {
  ThreadPool pool(4);
  for (int loop = 0; loop < 3000; ++loop) {
    std::atomic<int64_t> sum{0};
    pool.ParallelFor(16, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sum.fetch_add(i + loop);
    });
    ASSERT_EQ(sum.load(), 120 + 16 * loop);
  }
}

TEST(ThreadPool, CallsFromSeveralThreadsQueueUp) {
  ThreadPool pool(3);
  std::atomic<int64_t> total{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t) {
    callers.emplace_back([&] {
      for (int loop = 0; loop < 200; ++loop) {
        pool.ParallelFor(10, 1, [&](int64_t begin, int64_t end) { total.fetch_add(end - begin); });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total.load(), 4 * 200 * 10);
}

TEST(ThreadPool, NestedLoopRunsInPlace) {
  ThreadPool pool(2);
  std::atomic<int64_t> total{0};
  pool.ParallelFor(8, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      pool.ParallelFor(5, 1, [&](int64_t b, int64_t e) { total.fetch_add(e - b); });
    }
  });
  EXPECT_EQ(total.load(), 40);
}

TEST(ThreadPool, IdleThreadsSleep) {
  ThreadPool pool(4);
  pool.ParallelFor(8, 1, [](int64_t, int64_t) {});
  absl::SleepFor(absl::Milliseconds(20));  // past the spinning
  const std::clock_t before = std::clock();
  absl::SleepFor(absl::Milliseconds(300));
  const double cpu_s = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  EXPECT_LT(cpu_s, 0.003) << "idle threads used more than 1 % of a core";
}

}  // namespace
}  // namespace tandem::base
