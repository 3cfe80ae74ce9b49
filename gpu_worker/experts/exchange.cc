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

Exchange::Exchange(ExchangeShared& shared, Request request)
    : shared_(shared), request_(std::move(request)), layer_(*request_.layer) {}

void Exchange::Send(std::vector<Term> terms) {
  shared_.workers.Update();
  table_seen_ = shared_.workers.tables_taken();
  SendTerms(std::move(terms));
}

// Terms whose every replica has just failed are sent to the first ready one after all; those
// without any wait.
void Exchange::SendTerms(std::vector<Term> terms) {
  std::sort(terms.begin(), terms.end(), TermBefore);
  Dispatch first = PlanDispatch(shared_.workers.table(), layer_, terms, shared_.workers.Suspects());
  Dispatch second = PlanDispatch(shared_.workers.table(), layer_, first.orphans, {});
  for (Frame& frame : first.frames) SendFrame(std::move(frame));
  for (Frame& frame : second.frames) SendFrame(std::move(frame));
  for (const Term& term : second.orphans) {
    const uint32_t expert = layer_.Expert(term);
    const auto [it, added] = last_failure_.try_emplace(expert);
    if (added) {
      it->second = Lost(term, shared_.workers.HolderOf(layer_.layer, expert),
                        absl::UnavailableError("no ready worker holds it"));
    }
    waiting_.push_back({term, it->second});
  }
  if (waiting_.empty()) return;
  retry_at_ = std::min(retry_at_, absl::Now() + kRetryPause);
  if (give_up_at_ == absl::InfiniteFuture()) give_up_at_ = absl::Now() + shared_.options.patience;
}

void Exchange::SendFrame(Frame frame) {
  FrameCall& call = shared_.call;
  BuildCall(layer_, frame, shared_.workers.table().epoch(), shared_.options.model_digest,
            request_.form, &call);
  const absl::Duration left = request_.deadline - absl::Now();
  const absl::Duration timeout = std::min(left, std::max(left / 2, kAttemptMin));
  ++shared_.counters.frames;
  shared_.counters.bytes_sent += call.call.payload_bytes();
  const int64_t sent_ns = shared_.note_spans ? rpc::MonotonicNanos() : 0;
  const uint64_t id =
      shared_.mailbox.Call(shared_.workers.TransportTo(frame.address), call.call, timeout);
  in_flight_.emplace(id, InFlight{std::move(frame), sent_ns});
}

// The table may have been taken by another exchange's Advance; each follows it for itself.
void Exchange::Advance() {
  if (done()) return;
  if (absl::Now() >= request_.deadline) return GiveUpAll();
  shared_.workers.Update();
  if (table_seen_ != shared_.workers.tables_taken()) {
    table_seen_ = shared_.workers.tables_taken();
    FollowTable();
  }
  if (absl::Now() >= retry_at_) RetryWaiting();
}

bool Exchange::Take(Arrival& arrival) {
  const auto it = in_flight_.find(arrival.frame_id);
  if (it == in_flight_.end()) return false;
  const InFlight sent = std::move(it->second);
  in_flight_.erase(it);
  absl::Status status = arrival.answer.status();
  NoteSpan(sent, arrival.at_ns, status.ok() ? &*arrival.answer : nullptr);
  if (status.ok()) {
    WireCounters& counters = shared_.counters;
    counters.bytes_received += arrival.answer->bytes();
    counters.compute_ns += arrival.answer->compute_ns;
    ++(arrival.answer->over_shm ? counters.answers_shm : counters.answers_grpc);
    status = request_.on_sums(sent.frame, *arrival.answer);
  }
  if (status.ok()) {
    shared_.workers.Trust(sent.frame.address);
  } else {
    TakeFailure(sent.frame, status);
  }
  return true;
}

void Exchange::NoteSpan(const InFlight& sent, int64_t end_ns, const rpc::Answer* answer) {
  if (!shared_.note_spans) return;
  FrameSpan span{.worker = sent.frame.address,
                 .slot = request_.slot,
                 .layer = layer_.layer,
                 .rows = static_cast<int64_t>(RowsOfFrame(sent.frame).size()),
                 .terms = static_cast<int64_t>(sent.frame.terms.size()),
                 .begin_ns = sent.sent_ns,
                 .end_ns = end_ns};
  if (answer != nullptr) {
    span.answered = true;
    span.compute_ns = answer->compute_ns;
    span.queue_us = answer->queue_us;
  }
  shared_.spans.push_back(std::move(span));
}

void Exchange::TakeFailure(const Frame& frame, const absl::Status& status) {
  ++shared_.counters.frames_failed;
  base::LogWarning("expert_call_failed", {{"worker", frame.address},
                                          {"layer", layer_.layer},
                                          {"terms", frame.terms.size()},
                                          {"why", status.ToString()}});
  if (!IsRetryable(status.code())) {
    for (const Term& term : frame.terms)
      request_.on_given_up(term, Lost(term, frame.address, status));
    return;
  }
  if (give_up_at_ == absl::InfiniteFuture()) give_up_at_ = absl::Now() + shared_.options.patience;
  shared_.workers.Suspect(frame.address);
  shared_.workers.AskForNewerTable(absl::ZeroDuration());
  Dispatch dispatch =
      PlanDispatch(shared_.workers.table(), layer_, frame.terms, shared_.workers.Suspects());
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
void Exchange::FollowTable() {
  std::vector<InFlight> lost;
  for (auto it = in_flight_.begin(); it != in_flight_.end();) {
    if (shared_.workers.table().IsReady(it->second.frame.address)) {
      ++it;
      continue;
    }
    lost.push_back(std::move(it->second));
    in_flight_.erase(it++);
  }
  for (const InFlight& sent : lost) {
    NoteSpan(sent, shared_.note_spans ? rpc::MonotonicNanos() : 0, nullptr);
    TakeFailure(sent.frame, absl::UnavailableError("the coordinator no longer lists it as ready"));
  }
  if (!waiting_.empty()) retry_at_ = absl::Now();
}

void Exchange::RetryWaiting() {
  retry_at_ = absl::InfiniteFuture();
  if (waiting_.empty()) return;
  std::vector<Waiting> waiting = std::move(waiting_);
  waiting_.clear();
  if (absl::Now() >= give_up_at_) {
    for (const Waiting& w : waiting) request_.on_given_up(w.term, w.why);
    return;
  }
  shared_.workers.AskForNewerTable(absl::ZeroDuration());
  std::vector<Term> terms;
  for (const Waiting& w : waiting) terms.push_back(w.term);
  SendTerms(std::move(terms));
}

void Exchange::GiveUpAll() {
  for (const auto& [id, sent] : in_flight_) {
    NoteSpan(sent, shared_.note_spans ? rpc::MonotonicNanos() : 0, nullptr);
    for (const Term& term : sent.frame.terms) {
      request_.on_given_up(term,
                           Lost(term, sent.frame.address,
                                absl::UnavailableError("no answer before the step's deadline")));
    }
  }
  for (const Waiting& w : waiting_) request_.on_given_up(w.term, w.why);
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
