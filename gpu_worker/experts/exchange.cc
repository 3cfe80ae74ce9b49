#include "gpu_worker/experts/exchange.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/log.h"
#include "lib/rpc/spin_wait.h"

namespace tandem::gpu_worker {
namespace {

// Pause between two attempts for terms without a usable worker. A coordinator's new table takes
// longer, a restarted worker far longer; ten tries a second cost nothing.
constexpr absl::Duration kRetryPause = absl::Milliseconds(100);

// An attempt may use half of what is left, so that a silent worker leaves time for another replica,
// but at least this long: a prefill frame on a slow worker takes a second or two.
constexpr absl::Duration kAttemptMin = absl::Seconds(2);

// Codes after which the same terms may be tried again: the peer is gone, silent, full, or has
// another table.
bool IsRetryable(absl::StatusCode code) {
  return code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kDeadlineExceeded ||
         code == absl::StatusCode::kResourceExhausted || code == absl::StatusCode::kCancelled ||
         code == absl::StatusCode::kAborted || code == absl::StatusCode::kFailedPrecondition;
}

bool TermBefore(const Term& a, const Term& b) {
  return a.row != b.row ? a.row < b.row : a.rank < b.rank;
}

}  // namespace

Exchange::Exchange(const RoutedLayer& layer, WorkerPool& workers, const ExchangeOptions& options,
                   experts::v1::ReplyForm form, absl::Time deadline, WireCounters& counters)
    : layer_(layer),
      workers_(workers),
      options_(options),
      form_(form),
      deadline_(deadline),
      counters_(counters) {}

Exchange::~Exchange() { StopPolling(); }

void Exchange::Send(std::vector<Term> terms) {
  workers_.Update();
  SendTerms(std::move(terms));
}

// Terms whose every replica has just failed are sent to the first ready one after all; those
// without any wait.
void Exchange::SendTerms(std::vector<Term> terms) {
  std::sort(terms.begin(), terms.end(), TermBefore);
  Dispatch first = PlanDispatch(workers_.table(), layer_, terms, workers_.Suspects());
  Dispatch second = PlanDispatch(workers_.table(), layer_, first.orphans, {});
  for (Frame& frame : first.frames) SendFrame(std::move(frame));
  for (Frame& frame : second.frames) SendFrame(std::move(frame));
  for (const Term& term : second.orphans) {
    const uint32_t expert = layer_.Expert(term);
    const auto [it, added] = last_failure_.try_emplace(expert);
    if (added) {
      it->second = Lost(term, workers_.HolderOf(layer_.layer, expert),
                        absl::UnavailableError("no ready worker holds it"));
    }
    waiting_.push_back({term, it->second});
  }
  if (waiting_.empty()) return;
  retry_at_ = std::min(retry_at_, absl::Now() + kRetryPause);
  if (give_up_at_ == absl::InfiniteFuture()) give_up_at_ = absl::Now() + options_.patience;
}

void Exchange::SendFrame(Frame frame) {
  const uint64_t id = next_frame_id_++;
  BuildCall(layer_, frame, workers_.table().epoch(), options_.model_digest, form_, &call_);
  const absl::Duration left = deadline_ - absl::Now();
  const absl::Duration timeout = std::min(left, std::max(left / 2, kAttemptMin));
  ++counters_.frames;
  counters_.bytes_sent += call_.call.payload_bytes();
  const std::shared_ptr<rpc::Transport> transport = workers_.TransportTo(frame.address);
  PollFrom(transport);
  in_flight_.emplace(id, std::move(frame));
  transport->Call(call_.call, timeout, [inbox = inbox_, id](absl::StatusOr<rpc::Answer> answer) {
    absl::MutexLock lock(&inbox->mutex);
    inbox->arrivals.push_back({id, std::move(answer)});
    inbox->any.store(true);
  });
}

void Exchange::PollFrom(const std::shared_ptr<rpc::Transport>& transport) {
  std::shared_ptr<rpc::Transport>& polled = polled_[transport->address()];
  if (polled == transport) return;
  // Another one in its place: the worker left the table and came back.
  if (polled != nullptr) polled->StopPolling();
  polled = transport;
  transport->StartPolling();
}

void Exchange::StopPolling() {
  for (const auto& [address, transport] : polled_) transport->StopPolling();
  polled_.clear();
}

// Whoever waits awake for a short time saves the wake-up, which costs more than the whole way
// through shared memory. Where only gRPC's threads can bring an answer they need the processor more
// than this one. True when something has arrived.
bool Exchange::SpinForArrivals() {
  const bool worth_it = std::any_of(polled_.begin(), polled_.end(),
                                    [](const auto& polled) { return polled.second->CanPoll(); });
  const bool spin = worth_it && counters_.spin.WorthTrying();
  rpc::SpinWait wait(spin ? absl::ToInt64Nanoseconds(options_.spin_max) : 0);
  bool came = false;
  do {
    for (const auto& [address, transport] : polled_) transport->Poll();
    came = inbox_->any.load();
  } while (!came && wait.Again());
  if (spin) counters_.spin.Learn(came);
  return came;
}

std::deque<Exchange::Arrival> Exchange::WaitForArrivals(absl::Duration wait_max) {
  Inbox& inbox = *inbox_;
  if (!SpinForArrivals()) StopPolling();
  absl::MutexLock lock(&inbox.mutex);
  const auto any = [&inbox]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(inbox.mutex) {
    return !inbox.arrivals.empty();
  };
  if (!any()) inbox.mutex.AwaitWithTimeout(absl::Condition(&any), wait_max);
  inbox.any.store(false);
  return std::exchange(inbox.arrivals, {});
}

void Exchange::Finish(const OnSums& on_sums, const OnGivenUp& on_given_up) {
  FinishAll(on_sums, on_given_up);
  // Whoever says that it polls must: another exchange may wait for the same workers from now on.
  StopPolling();
}

void Exchange::FinishAll(const OnSums& on_sums, const OnGivenUp& on_given_up) {
  while (!in_flight_.empty() || !waiting_.empty()) {
    const absl::Time now = absl::Now();
    if (now >= deadline_) return GiveUpAll(on_given_up);
    const absl::Time wake = std::min({deadline_, retry_at_, now + kRetryPause});
    if (in_flight_.empty()) {
      workers_.AskForNewerTable(wake - now);
    } else {
      for (Arrival& arrival : WaitForArrivals(wake - now)) {
        Take(std::move(arrival), on_sums, on_given_up);
      }
    }
    if (workers_.Update()) FollowTable(on_given_up);
    if (absl::Now() >= retry_at_) RetryWaiting(on_given_up);
  }
}

void Exchange::Take(Arrival arrival, const OnSums& on_sums, const OnGivenUp& on_given_up) {
  const auto it = in_flight_.find(arrival.frame_id);
  if (it == in_flight_.end()) return;  // abandoned before, and answered elsewhere
  const Frame frame = std::move(it->second);
  in_flight_.erase(it);
  absl::Status status = arrival.answer.status();
  if (status.ok()) {
    counters_.bytes_received += arrival.answer->bytes();
    counters_.compute_ns += arrival.answer->compute_ns;
    ++(arrival.answer->over_shm ? counters_.answers_shm : counters_.answers_grpc);
    status = on_sums(frame, *arrival.answer);
  }
  if (status.ok()) {
    workers_.Trust(frame.address);
  } else {
    TakeFailure(frame, status, on_given_up);
  }
}

void Exchange::TakeFailure(const Frame& frame, const absl::Status& status,
                           const OnGivenUp& on_given_up) {
  ++counters_.frames_failed;
  base::LogWarning("expert_call_failed", {{"worker", frame.address},
                                          {"layer", layer_.layer},
                                          {"terms", frame.terms.size()},
                                          {"why", status.ToString()}});
  if (!IsRetryable(status.code())) {
    for (const Term& term : frame.terms) on_given_up(term, Lost(term, frame.address, status));
    return;
  }
  if (give_up_at_ == absl::InfiniteFuture()) give_up_at_ = absl::Now() + options_.patience;
  workers_.Suspect(frame.address);
  workers_.AskForNewerTable(absl::ZeroDuration());
  Dispatch dispatch = PlanDispatch(workers_.table(), layer_, frame.terms, workers_.Suspects());
  for (Frame& other : dispatch.frames) SendFrame(std::move(other));
  for (const Term& term : frame.terms) {
    last_failure_[layer_.Expert(term)] = Lost(term, frame.address, status);
  }
  for (const Term& term : dispatch.orphans) {
    waiting_.push_back({term, last_failure_[layer_.Expert(term)]});
    retry_at_ = std::min(retry_at_, absl::Now() + kRetryPause);
  }
}

// A worker that the newest table no longer calls ready will not answer: its frames go elsewhere
// without waiting for the timeout. Terms that wait are tried at once.
void Exchange::FollowTable(const OnGivenUp& on_given_up) {
  std::vector<Frame> lost;
  for (auto it = in_flight_.begin(); it != in_flight_.end();) {
    if (workers_.table().IsReady(it->second.address)) {
      ++it;
      continue;
    }
    lost.push_back(std::move(it->second));
    in_flight_.erase(it++);
  }
  for (const Frame& frame : lost) {
    TakeFailure(frame, absl::UnavailableError("the coordinator no longer lists it as ready"),
                on_given_up);
  }
  if (!waiting_.empty()) retry_at_ = absl::Now();
}

void Exchange::RetryWaiting(const OnGivenUp& on_given_up) {
  retry_at_ = absl::InfiniteFuture();
  if (waiting_.empty()) return;
  std::vector<Waiting> waiting = std::move(waiting_);
  waiting_.clear();
  if (absl::Now() >= give_up_at_) {
    for (const Waiting& w : waiting) on_given_up(w.term, w.why);
    return;
  }
  workers_.AskForNewerTable(absl::ZeroDuration());
  std::vector<Term> terms;
  for (const Waiting& w : waiting) terms.push_back(w.term);
  SendTerms(std::move(terms));
}

void Exchange::GiveUpAll(const OnGivenUp& on_given_up) {
  for (const auto& [id, frame] : in_flight_) {
    for (const Term& term : frame.terms) {
      on_given_up(term, Lost(term, frame.address,
                             absl::UnavailableError("no answer before the step's deadline")));
    }
  }
  for (const Waiting& w : waiting_) on_given_up(w.term, w.why);
  in_flight_.clear();
  waiting_.clear();
}

// One sentence with layer, expert and, where known, the worker's address. Whatever a retryable
// failure was called, to the sequence it means that an expert could not be reached.
absl::Status Exchange::Lost(const Term& term, const std::string& address,
                            const absl::Status& why) const {
  const absl::StatusCode code =
      IsRetryable(why.code()) ? absl::StatusCode::kUnavailable : why.code();
  return absl::Status(
      code, absl::StrCat("layer ", layer_.layer, " expert ", layer_.Expert(term),
                         address.empty() ? "" : " at ", address, ": ", std::string(why.message())));
}

}  // namespace tandem::gpu_worker
