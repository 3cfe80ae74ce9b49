#include "gpu_worker/experts/mailbox.h"

#include <algorithm>
#include <utility>

namespace tandem::gpu_worker {

uint64_t Mailbox::Call(const std::shared_ptr<rpc::Transport>& transport,
                       const rpc::OutgoingCall& call, absl::Duration timeout) {
  const uint64_t id = next_frame_id_++;
  PollFrom(transport);
  transport->Call(call, timeout, [inbox = inbox_, id](absl::StatusOr<rpc::Answer> answer) {
    absl::MutexLock lock(&inbox->mutex);
    inbox->arrivals.push_back({id, rpc::MonotonicNanos(), std::move(answer)});
    inbox->any.store(true);
  });
  return id;
}

void Mailbox::PollFrom(const std::shared_ptr<rpc::Transport>& transport) {
  std::shared_ptr<rpc::Transport>& polled = polled_[transport->address()];
  if (polled == transport) return;
  // Another one in its place: the worker left the table and came back.
  if (polled != nullptr) polled->StopPolling();
  polled = transport;
  transport->StartPolling();
}

void Mailbox::StopPolling() {
  for (const auto& [address, transport] : polled_) transport->StopPolling();
  polled_.clear();
}

// Whoever waits awake for a short time saves the wake-up, which costs more than the whole way
// through shared memory. Where only gRPC's threads can bring an answer they need the processor more
// than this one. True when something has arrived.
bool Mailbox::SpinForArrivals() {
  const bool worth_it = std::any_of(polled_.begin(), polled_.end(),
                                    [](const auto& polled) { return polled.second->CanPoll(); });
  const bool spin = worth_it && spin_.WorthTrying();
  rpc::SpinWait wait(spin ? absl::ToInt64Nanoseconds(spin_max_) : 0);
  bool came = false;
  do {
    for (const auto& [address, transport] : polled_) transport->Poll();
    came = inbox_->any.load();
  } while (!came && wait.Again());
  if (spin) spin_.Learn(came);
  return came;
}

std::deque<Arrival> Mailbox::Wait(absl::Duration wait_max) {
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

}  // namespace tandem::gpu_worker
