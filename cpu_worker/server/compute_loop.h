// ComputeLoop: the one thread that computes. Calls wait in a bounded queue; those of one layer and
// form that wait together become one pass over the weights, whichever GPU workers they came from.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cpu_worker/experts/expert_ffn.h"
#include "cpu_worker/experts/expert_store.h"
#include "cpu_worker/server/call_check.h"
#include "lib/base/bounded_queue.h"
#include "lib/base/thread_pool.h"
#include "lib/telemetry/metrics.h"
#include "proto/experts.pb.h"

namespace tandem::cpu_worker {

class ComputeLoop {
 public:
  struct Options {
    const ExpertStore* store = nullptr;  // must outlive the loop
    const kernels::KernelTable* table = nullptr;
    telemetry::Metrics* metrics = nullptr;  // must outlive the loop
    int threads = 1;
    size_t queue_calls_max = 256;
    int64_t queue_bytes_max = int64_t{512} << 20;  // of messages waiting
  };
  using Done = std::function<void(experts::v1::ExpertSums)>;

  explicit ComputeLoop(const Options& options);
  ~ComputeLoop();  // computes what is queued first

  // Calls `done` exactly once, from the compute thread or before Submit returns. Errors are answers
  // with a status_code: RESOURCE_EXHAUSTED when the queue is full, UNAVAILABLE while draining,
  // DEADLINE_EXCEEDED without computing when deadline_ms has passed since arrival, and CheckCall's.
  void Submit(experts::v1::ExpertRows call, Done done);

  // From now on Submit answers UNAVAILABLE. Returns when the queue is empty, or false when
  // `wait_max` is over.
  bool Drain(absl::Duration wait_max);

  // The epoch of the table whose experts are loaded; reported with every answer.
  void set_epoch(uint64_t epoch) { epoch_.store(epoch); }
  uint64_t epoch() const { return epoch_.load(); }

  int64_t calls_waiting() const { return calls_waiting_.load(); }
  // Calls ever submitted, and seconds ever spent computing: for drain decisions and load figures.
  uint64_t calls_total() const { return calls_total_.load(); }
  double busy_seconds() const { return busy_seconds_.load(); }

 private:
  struct Job {
    experts::v1::ExpertRows call;
    Done done;
    absl::Duration arrived;   // on the monotonic clock
    absl::Duration deadline;  // likewise
    int64_t message_bytes = 0;
  };
  struct Checked {
    Job job;
    CheckedCall call;
  };
  struct Instruments;

  void ThreadMain();
  // The next call worth computing; answers those that are not. Nothing when none came in time.
  std::optional<Checked> Next(absl::Duration wait_max);
  void Answer(Job* job, experts::v1::ExpertSums sums);
  void Refuse(Job* job, const absl::Status& status);
  void Compute(std::deque<Checked>* batch);

  const Options options_;
  const WorkerFacts facts_;
  base::ThreadPool pool_;
  ExpertFfn ffn_;
  std::unique_ptr<Instruments> instruments_;
  base::BoundedQueue<Job> queue_;
  std::optional<Checked>
      held_back_;  // taken from the queue, not mergeable with the batch before; compute thread only
  std::atomic<int64_t> queue_bytes_{0};
  std::atomic<int64_t> calls_waiting_{0};  // submitted and not answered
  std::atomic<uint64_t> calls_total_{0};
  std::atomic<double> busy_seconds_{0};
  std::atomic<uint64_t> epoch_{0};
  std::atomic<bool> draining_{false};
  std::thread thread_;
};

}  // namespace tandem::cpu_worker
