// ComputeLoop: the one thread that computes. Calls wait in bounded queues, a common one for gRPC's
// and one per caller in shared memory; those of one layer and form that wait together become one
// pass over the weights, whichever GPU workers they came from.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cpu_worker/server/call_check.h"
#include "lib/base/bounded_queue.h"
#include "lib/base/thread_pool.h"
#include "lib/experts/expert_ffn.h"
#include "lib/experts/expert_store.h"
#include "lib/rpc/expert_call.h"
#include "lib/rpc/shm_server.h"
#include "lib/rpc/spin_wait.h"
#include "lib/rpc/wake_set.h"
#include "lib/telemetry/metrics.h"
#include "proto/experts.pb.h"

namespace tandem::cpu_worker {

class ComputeLoop {
 public:
  struct Options {
    const ExpertStore* store = nullptr;  // must outlive the loop
    const kernels::KernelTable* table = nullptr;
    telemetry::Metrics* metrics = nullptr;         // must outlive the loop
    std::vector<base::ThreadPlace> places = {{}};  // of the threads that compute
    size_t queue_calls_max = 256;
    int64_t queue_bytes_max = int64_t{512} << 20;  // of messages waiting
    // How long the thread looks for calls in shared memory after the last one before it sleeps.
    absl::Duration spin_max = absl::Microseconds(50);
  };
  using Done = std::function<void(experts::v1::ExpertSums)>;

  explicit ComputeLoop(const Options& options);
  ~ComputeLoop();  // computes what is queued first

  // Calls `done` exactly once, from the compute thread or before Submit returns. Errors are answers
  // with a status_code: RESOURCE_EXHAUSTED when the queue is full, UNAVAILABLE while draining,
  // DEADLINE_EXCEEDED without computing when deadline_ms has passed since arrival, and CheckCall's.
  void Submit(experts::v1::ExpertRows call, Done done);

  // What wakes the compute thread; for the server given to Serve.
  std::shared_ptr<rpc::WakeSet> wake_set() const { return wake_set_; }
  // From now on calls are taken from `server` as well, which must outlive the loop. They meet the
  // same refusals, but for a full queue: there the caller's own ring fills up. Call once.
  void Serve(rpc::ShmServer* server);

  // From now on Submit answers UNAVAILABLE. Returns when the queue is empty, or false when
  // `wait_max` is over.
  bool Drain(absl::Duration wait_max);

  // The epoch of the table whose experts are loaded; reported with every answer.
  void set_epoch(uint64_t epoch) { epoch_.store(epoch); }
  uint64_t epoch() const { return epoch_.load(); }

  int64_t calls_waiting() const { return calls_waiting_.load(); }
  // Threads the system did not leave where Options::places wants them.
  int threads_not_bound() const { return pool_.threads_not_bound(); }
  // Calls ever submitted, and seconds ever spent computing: for drain decisions and load figures.
  uint64_t calls_total() const { return calls_total_.load(); }
  double busy_seconds() const { return busy_seconds_.load(); }

 private:
  struct Job {
    rpc::IncomingCall call;
    std::shared_ptr<const void> memory;  // what `call` points into
    rpc::ReplyTo reply;
    absl::Duration arrived;   // on the monotonic clock
    absl::Duration deadline;  // likewise
    int64_t message_bytes = 0;
    bool over_shm = false;
  };
  struct Checked {
    Job job;
    CheckedCall call;
    rpc::ReplySpace space;
  };
  struct Instruments;

  void ThreadMain();
  // The next call worth computing; answers those that are not. Nothing when none waits.
  std::optional<Checked> Next();
  std::optional<Job> TakeJob();
  void Gather();
  // Returns when there may be a call, or the loop may have to end.
  void WaitForCalls();
  void Sleep(absl::Duration wait_max);
  void TakeShmCall(rpc::ShmCall call);
  void Answer(Job* job, const rpc::ReplyHead& head);
  void Refuse(Job* job, const absl::Status& status);
  void Compute(std::deque<Checked>* batch);
  void SendAnswers(std::deque<Checked>* batch, absl::Duration start, absl::Duration spent);

  const Options options_;
  const WorkerFacts facts_;
  base::ThreadPool pool_;
  ExpertFfn ffn_;
  std::unique_ptr<Instruments> instruments_;
  const std::shared_ptr<rpc::WakeSet> wake_set_;
  base::BoundedQueue<Job> queue_;
  std::atomic<int64_t> queued_{0};     // in queue_
  std::atomic<bool> sleeping_{false};  // whoever adds work must wake the thread
  std::atomic<rpc::ShmServer*> shm_{nullptr};
  // The compute thread's: taken from a queue and not yet computed, oldest first; one of another
  // layer or form ends a pass and begins the next.
  std::deque<Job> ready_;
  std::optional<Checked> held_back_;
  absl::Duration spin_until_;  // calls came over shared memory a moment ago
  rpc::SpinHabit spin_habit_;
  absl::Duration events_seen_;  // when lost callers were last looked for

  std::atomic<int64_t> queue_bytes_{0};
  std::atomic<int64_t> calls_waiting_{0};  // taken in and not answered
  std::atomic<uint64_t> calls_total_{0};
  std::atomic<double> busy_seconds_{0};
  std::atomic<uint64_t> epoch_{0};
  std::atomic<bool> draining_{false};
  std::thread thread_;
};

}  // namespace tandem::cpu_worker
