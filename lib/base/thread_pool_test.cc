#include "lib/base/thread_pool.h"

#include <sched.h>

#include <atomic>
#include <ctime>
#include <mutex>
#include <set>
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

std::vector<ThreadPlace> TwoNodes(int first, int second) {
  std::vector<ThreadPlace> places(first + second);
  for (int t = first; t < first + second; ++t) places[t].node = 1;
  return places;
}

TEST(ThreadPoolNodes, CoversEachItemOnceAndNoRangeSpansTwoNodes) {
  ThreadPool pool(TwoNodes(3, 2));
  EXPECT_EQ(pool.threads(), 5);
  EXPECT_EQ(pool.nodes(), 2);
  for (const std::vector<int64_t>& bounds :
       {std::vector<int64_t>{0, 0, 0}, {0, 1, 1}, {0, 0, 1}, {5, 100, 1003}, {0, 7, 8}}) {
    for (int64_t grain : {1, 3}) {
      std::vector<std::atomic<int>> hits(bounds.back());
      pool.ParallelForNodes(bounds, grain, [&](int64_t begin, int64_t end) {
        EXPECT_LT(begin, end);
        const int node = begin >= bounds[1] ? 1 : 0;
        EXPECT_LE(end, bounds[node + 1]);
        if (end != bounds[node + 1]) {
          EXPECT_EQ((end - begin) % grain, 0);
        }
        for (int64_t i = begin; i < end; ++i) hits[i].fetch_add(1);
      });
      for (int64_t i = 0; i < bounds.back(); ++i) {
        ASSERT_EQ(hits[i].load(), i < bounds[0] ? 0 : 1) << i;
      }
    }
  }
}

// With as much to do on either node, threads stay on their own; with all of it on one, the others
// help.
TEST(ThreadPoolNodes, ThreadsComputeTheirOwnNodeFirst) {
  ThreadPool pool(TwoNodes(2, 2));
  std::atomic<int> foreign_first{0};
  std::vector<std::atomic<int>> began(4);
  for (int loop = 0; loop < 20; ++loop) {
    std::atomic<int64_t> left_on[2] = {32, 32};
    pool.ParallelForNodes(std::vector<int64_t>{0, 32, 64}, 1, [&](int64_t begin, int64_t end) {
      const int node = begin >= 32 ? 1 : 0;
      const int own = ThreadPool::ThisNode();
      // More of the thread's own node is left than its threads (2) can have begun and not counted.
      if (own != node && left_on[own].load() > 2 * (32 / 16)) foreign_first.fetch_add(1);
      absl::SleepFor(absl::Microseconds(50));
      left_on[node].fetch_sub(end - begin);
    });
  }
  EXPECT_EQ(foreign_first.load(), 0);
  EXPECT_EQ(ThreadPool::ThisNode(), 0);
}

TEST(ThreadPoolNodes, OtherNodesHelp) {
  ThreadPool pool(TwoNodes(1, 3));
  std::atomic<int> helped{0};
  pool.ParallelForNodes(std::vector<int64_t>{0, 64, 64}, 1, [&](int64_t, int64_t) {
    if (ThreadPool::ThisNode() == 1) helped.fetch_add(1);
    absl::SleepFor(absl::Milliseconds(2));
  });
  EXPECT_GT(helped.load(), 0);
}

// Shares are contiguous and one slow item must not leave the rest of its share waiting.
TEST(ThreadPool, OthersTakeWhatAThreadDoesNotReach) {
  ThreadPool pool(4);
  std::atomic<int> done{0};
  std::atomic<int> done_while_slow{0};
  pool.ParallelFor(32, 1, [&](int64_t begin, int64_t) {
    if (begin == 0) {  // of the first share, which is the caller's
      const absl::Time end = absl::Now() + absl::Seconds(10);
      while (done.load() < 31 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
      done_while_slow.store(done.load());
    }
    done.fetch_add(1);
  });
  EXPECT_EQ(done_while_slow.load(), 31);
  EXPECT_EQ(done.load(), 32);
}

// Loops a millisecond apart: each finds its threads asleep.
TEST(ThreadPool, WakesThreadsThatSleep) {
  ThreadPool pool(6);
  for (int loop = 0; loop < 50; ++loop) {
    absl::SleepFor(absl::Milliseconds(1));
    std::set<std::thread::id> ids;
    std::mutex mutex;
    pool.ParallelFor(48, 1, [&](int64_t, int64_t) {
      absl::SleepFor(absl::Milliseconds(1));
      std::lock_guard<std::mutex> lock(mutex);
      ids.insert(std::this_thread::get_id());
    });
    ASSERT_EQ(ids.size(), 6u) << "some thread slept through 8 ms of work of the others";
  }
}

TEST(ThreadPool, ManyMoreThreadsThanProcessors) {
  ThreadPool pool(64);
  std::atomic<int64_t> sum{0};
  for (int loop = 0; loop < 200; ++loop) {
    pool.ParallelFor(1000, 1, [&](int64_t begin, int64_t end) { sum.fetch_add(end - begin); });
  }
  EXPECT_EQ(sum.load(), 200 * 1000);
}

TEST(ThreadPool, PoolsComeAndGo) {
  for (int i = 0; i < 200; ++i) {
    ThreadPool pool(3);
    if (i % 3 == 0) continue;
    std::atomic<int64_t> sum{0};
    pool.ParallelFor(9, 1, [&](int64_t begin, int64_t end) { sum.fetch_add(end - begin); });
    ASSERT_EQ(sum.load(), 9);
  }
}

TEST(ThreadPool, KeepsThreadsInTheirPlaces) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  std::vector<ThreadPlace> places;
  for (int cpu = 0; cpu < CPU_SETSIZE && places.size() < 4; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) places.push_back({.cpus = {cpu}, .node = 0});
  }
  const std::vector<ThreadPlace> wanted = places;
  std::thread([&] {  // so that the test's own thread stays free
    ThreadPool pool(places);
    EXPECT_TRUE(pool.BindCaller());
    std::mutex mutex;
    std::set<int> seen;
    for (int loop = 0; loop < 20; ++loop) {
      pool.ParallelFor(pool.threads() * 8, 1, [&](int64_t, int64_t) {
        cpu_set_t own;
        EXPECT_EQ(sched_getaffinity(0, sizeof(own), &own), 0);
        EXPECT_EQ(CPU_COUNT(&own), 1);
        absl::SleepFor(absl::Microseconds(200));
        std::lock_guard<std::mutex> lock(mutex);
        seen.insert(sched_getcpu());
      });
    }
    EXPECT_EQ(seen.size(), wanted.size());
    EXPECT_EQ(pool.threads_not_bound(), 0);
  })
      .join();
}

TEST(ThreadPool, SaysWhichThreadsCouldNotBeBound) {
  ThreadPool pool(std::vector<ThreadPlace>{{}, {.cpus = {CPU_SETSIZE}, .node = 0}});
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (pool.threads_not_bound() == 0 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(pool.threads_not_bound(), 1);
  EXPECT_TRUE(pool.BindCaller());
}

TEST(ThreadPoolDeathTest, RefusesPlacesOutOfOrder) {
  EXPECT_DEATH(ThreadPool(0), "CHECK failed");
  EXPECT_DEATH(ThreadPool(TwoNodes(0, 2)), "CHECK failed");
  EXPECT_DEATH(ThreadPool({{.cpus = {}, .node = 0}, {.cpus = {}, .node = 2}}), "CHECK failed");
  ThreadPool pool(TwoNodes(1, 1));
  EXPECT_DEATH(pool.ParallelForNodes(std::vector<int64_t>{0, 1}, 1, [](int64_t, int64_t) {}),
               "CHECK failed");
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
