// Exchange: asks expert workers for some terms of one layer in one reply form until each term is
// answered or given up. Experts keep no state, so a failed frame's terms are simply sent again, to
// another replica or under a newer table. Several exchanges may be under way at once: the state
// machine runs on the caller's thread, which brings each what has arrived for it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gpu_worker/experts/dispatch.h"
#include "gpu_worker/experts/frame_span.h"
#include "gpu_worker/experts/mailbox.h"
#include "gpu_worker/experts/worker_pool.h"

namespace tandem::gpu_worker {

// What the wire carried, for metrics.
struct WireCounters {
  uint64_t frames = 0;
  uint64_t frames_failed = 0;
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
  uint64_t answers_shm = 0;  // by transport
  uint64_t answers_grpc = 0;
  uint64_t compute_ns = 0;  // of the workers, over all answers
};

struct ExchangeOptions {
  std::string model_digest;
  // How long terms without a reachable worker are tried again, counted from the first failure.
  absl::Duration patience = absl::Seconds(5);
  // How long a thread looks for answers itself before it sleeps.
  absl::Duration spin_max = absl::Microseconds(50);
};

// What all exchanges of a link have in common.
struct ExchangeShared {
  WorkerPool& workers;
  const ExchangeOptions options;
  Mailbox mailbox{options.spin_max};
  WireCounters counters = {};
  bool note_spans = false;
  std::vector<FrameSpan> spans = {};  // of frames that are over, when noted
  FrameCall call = {};                // kept for its memory
};

class Exchange {
 public:
  // Takes the answer to a frame; a status that is not OK counts as a failure of that worker.
  using OnSums = std::function<absl::Status(const Frame&, const rpc::Answer&)>;
  // A term that stays unanswered, and why: UNAVAILABLE or DEADLINE_EXCEEDED naming layer, expert
  // and worker, or what a worker said.
  using OnGivenUp = std::function<void(const Term&, const absl::Status&)>;

  // What is asked for, and who takes what comes of it. `slot` only marks spans.
  struct Request {
    const RoutedLayer* layer = nullptr;
    int slot = 0;
    experts::v1::ReplyForm form = experts::v1::REPLY_FORM_UNSPECIFIED;
    absl::Time deadline;
    OnSums on_sums;
    OnGivenUp on_given_up;
  };

  // `shared` and the request's layer must outlive this.
  Exchange(ExchangeShared& shared, Request request);

  // Sends the frames of `terms` (ordered by row, rank). Returns at once.
  void Send(std::vector<Term> terms);

  // Whether every term sent is answered or given up.
  bool done() const { return in_flight_.empty() && waiting_.empty(); }
  // Whether some frame is with a worker.
  bool in_flight() const { return !in_flight_.empty(); }
  // When Advance has something to do even if nothing arrives.
  absl::Time wake_at() const { return std::min(request_.deadline, retry_at_); }

  // Does what is due: gives up at the deadline, follows a newer table, tries again what waits.
  void Advance();
  // Takes the arrival if it is of this exchange's frames, else returns false and leaves it.
  bool Take(Arrival& arrival);

 private:
  struct InFlight {
    Frame frame;
    int64_t sent_ns = 0;
  };
  struct Waiting {
    Term term;
    absl::Status why;
  };

  void SendFrame(Frame frame);
  void SendTerms(std::vector<Term> terms);
  void TakeFailure(const Frame& frame, const absl::Status& status);
  void FollowTable();
  void RetryWaiting();
  void GiveUpAll();
  void NoteSpan(const InFlight& sent, int64_t end_ns, const rpc::Answer* answer);
  absl::Status Lost(const Term& term, const std::string& address, const absl::Status& why) const;

  ExchangeShared& shared_;
  const Request request_;
  const RoutedLayer& layer_;
  absl::flat_hash_map<uint64_t, InFlight> in_flight_;         // by the mailbox's number
  uint64_t table_seen_ = 0;                                   // WorkerPool::tables_taken
  absl::flat_hash_map<uint32_t, absl::Status> last_failure_;  // by expert, naming the worker
  std::vector<Waiting> waiting_;  // terms with nobody to ask at the moment
  absl::Time retry_at_ = absl::InfiniteFuture();
  absl::Time give_up_at_ = absl::InfiniteFuture();
};

}  // namespace tandem::gpu_worker
