// Exchange: asks expert workers for some terms of one layer in one reply form until each term is
// answered or given up. Experts keep no state, so a failed frame's terms are simply sent again, to
// another replica or under a newer table. The state machine runs on the caller's thread;
// transports' threads only fill the inbox.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gpu_worker/experts/dispatch.h"
#include "gpu_worker/experts/worker_pool.h"
#include "lib/rpc/spin_wait.h"

namespace tandem::gpu_worker {

// What the wire carried, for metrics, and what was learned from it.
struct WireCounters {
  uint64_t frames = 0;
  uint64_t frames_failed = 0;
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
  uint64_t answers_shm = 0;  // by transport
  uint64_t answers_grpc = 0;
  uint64_t compute_ns = 0;  // of the workers, over all answers
  rpc::SpinHabit spin;      // kept here because an exchange lives for one layer only
};

struct ExchangeOptions {
  std::string model_digest;
  // How long terms without a reachable worker are tried again, counted from the first failure.
  absl::Duration patience = absl::Seconds(5);
  // How long Finish looks for answers itself before it sleeps.
  absl::Duration spin_max = absl::Microseconds(50);
};

class Exchange {
 public:
  // Takes the answer to a frame; a status that is not OK counts as a failure of that worker.
  using OnSums = std::function<absl::Status(const Frame&, const rpc::Answer&)>;
  // A term that stays unanswered, and why: UNAVAILABLE or DEADLINE_EXCEEDED naming layer, expert
  // and worker, or what a worker said.
  using OnGivenUp = std::function<void(const Term&, const absl::Status&)>;

  // `layer` and `workers` must outlive this; the options are copied.
  Exchange(const RoutedLayer& layer, WorkerPool& workers, const ExchangeOptions& options,
           experts::v1::ReplyForm form, absl::Time deadline, WireCounters& counters);
  ~Exchange();

  // Sends the frames of `terms` (ordered by row, rank). Returns at once.
  void Send(std::vector<Term> terms);
  // Returns when every term sent is answered or given up, at the deadline at the latest.
  void Finish(const OnSums& on_sums, const OnGivenUp& on_given_up);

 private:
  struct Arrival {
    uint64_t frame_id = 0;
    absl::StatusOr<rpc::Answer> answer;
  };
  // Shared with the transports' callbacks, which may come after this object is gone.
  struct Inbox {
    absl::Mutex mutex;
    std::deque<Arrival> arrivals ABSL_GUARDED_BY(mutex);
    std::atomic<bool> any{false};  // for looking without the mutex
  };
  struct Waiting {
    Term term;
    absl::Status why;
  };

  void FinishAll(const OnSums& on_sums, const OnGivenUp& on_given_up);
  void SendFrame(Frame frame);
  void SendTerms(std::vector<Term> terms);
  std::deque<Arrival> WaitForArrivals(absl::Duration wait_max);
  bool SpinForArrivals();
  void PollFrom(const std::shared_ptr<rpc::Transport>& transport);
  void StopPolling();
  void Take(Arrival arrival, const OnSums& on_sums, const OnGivenUp& on_given_up);
  void TakeFailure(const Frame& frame, const absl::Status& status, const OnGivenUp& on_given_up);
  void FollowTable(const OnGivenUp& on_given_up);
  void RetryWaiting(const OnGivenUp& on_given_up);
  void GiveUpAll(const OnGivenUp& on_given_up);
  absl::Status Lost(const Term& term, const std::string& address, const absl::Status& why) const;

  const RoutedLayer& layer_;
  WorkerPool& workers_;
  const ExchangeOptions options_;
  const experts::v1::ReplyForm form_;
  const absl::Time deadline_;
  WireCounters& counters_;
  std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  absl::flat_hash_map<uint64_t, Frame> in_flight_;
  FrameCall call_;  // kept for its memory
  // Transports this thread looks at itself, by address.
  absl::flat_hash_map<std::string, std::shared_ptr<rpc::Transport>> polled_;
  uint64_t next_frame_id_ = 1;
  absl::flat_hash_map<uint32_t, absl::Status> last_failure_;  // by expert, naming the worker
  std::vector<Waiting> waiting_;  // terms with nobody to ask at the moment
  absl::Time retry_at_ = absl::InfiniteFuture();
  absl::Time give_up_at_ = absl::InfiniteFuture();
};

}  // namespace tandem::gpu_worker
