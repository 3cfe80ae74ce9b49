// What a parallel loop costs by itself: opening and closing ThreadPool loops whose body does
// nothing, from threads that are awake and from threads that sleep. One line of CSV each; run on a
// quiet machine, or under load to see how the pool behaves there.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/time/clock.h"
#include "lib/base/clock.h"
#include "lib/base/thread_pool.h"

namespace tandem::bench {
namespace {

struct Flags {
  std::vector<int> threads;
  int loops = 20000;
  bool pin = false;
};

double NowUs() { return absl::ToDoubleMicroseconds(base::RealClock().Monotonic()); }

void Print(const char* what, const Flags& flags, int threads, std::vector<double> us) {
  std::sort(us.begin(), us.end());
  const auto quantile = [&](double q) { return us[static_cast<size_t>(q * (us.size() - 1))]; };
  std::printf("%s,%d,%d,%zu,%.3f,%.3f,%.3f,%.3f\n", what, threads, flags.pin ? 1 : 0, us.size(),
              quantile(0.0), quantile(0.5), quantile(0.99), us.back());
}

// Work of about `us` microseconds that touches no memory.
void Compute(double us) {
  const double end = NowUs() + us;
  while (NowUs() < end) {
  }
}

// Loops one after the other. `items_us`: length of each of two items a thread.
std::vector<double> BackToBack(base::ThreadPool* pool, int loops, double item_us) {
  std::vector<double> us;
  us.reserve(loops);
  for (int i = 0; i < loops; ++i) {
    const double start = NowUs();
    pool->ParallelFor(2 * pool->threads(), 1, [&](int64_t begin, int64_t end) {
      if (item_us > 0) Compute(item_us * static_cast<double>(end - begin));
    });
    us.push_back(NowUs() - start);
  }
  return us;
}

// Loops in which every thread must take part before any may leave: the full way there and back.
std::vector<double> Rendezvous(base::ThreadPool* pool, int loops) {
  std::vector<double> us;
  for (int i = 0; i < loops; ++i) {
    std::atomic<int> arrived{0};
    const double start = NowUs();
    pool->ParallelFor(pool->threads(), 1, [&](int64_t, int64_t) {
      arrived.fetch_add(1);
      while (arrived.load() < pool->threads()) {
      }
    });
    us.push_back(NowUs() - start);
  }
  return us;
}

std::vector<double> AfterSleep(base::ThreadPool* pool, int loops) {
  std::vector<double> us;
  for (int i = 0; i < loops; ++i) {
    absl::SleepFor(absl::Milliseconds(1));  // ten times what the threads stay awake
    const double start = NowUs();
    pool->ParallelFor(2 * pool->threads(), 1, [](int64_t, int64_t) {});
    us.push_back(NowUs() - start);
  }
  return us;
}

void Measure(const Flags& flags, int threads) {
  std::vector<base::ThreadPlace> places(threads);
  for (int t = 0; flags.pin && t < threads; ++t) places[t].cpus = {t};
  base::ThreadPool pool(places);
  pool.BindCaller();
  BackToBack(&pool, 1000, 0);
  Print("empty_awake", flags, threads, BackToBack(&pool, flags.loops, 0));
  Print("all_meet_awake", flags, threads, Rendezvous(&pool, std::min(flags.loops, 2000)));
  Print("empty_asleep", flags, threads, AfterSleep(&pool, std::min(flags.loops, 500)));
  // 20 us of work for each thread: what is above 20 is the cost of sharing it.
  Print("work_20us", flags, threads, BackToBack(&pool, std::max(1, flags.loops / 10), 10));
}

int Run(int argc, char** argv) {
  CLI::App app("Cost of opening and closing a parallel loop.", "tandem-thread-pool-bench");
  Flags flags;
  flags.threads = {static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))};
  app.add_option("--threads", flags.threads, "sizes of pool to measure")->delimiter(',');
  app.add_option("--loops", flags.loops, "loops a measurement")->check(CLI::Range(10, 10000000));
  app.add_flag("--pin", flags.pin, "keep thread t on processor t");
  CLI11_PARSE(app, argc, argv);
  std::printf("what,threads,pinned,loops,min_us,median_us,p99_us,max_us\n");
  for (int threads : flags.threads) Measure(flags, threads);
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) { return tandem::bench::Run(argc, argv); }
