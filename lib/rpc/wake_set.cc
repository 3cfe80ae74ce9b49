#include "lib/rpc/wake_set.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>

#include "lib/base/status_macros.h"

namespace tandem::rpc {
namespace {

// The event descriptor's own tag.
constexpr uint64_t kNotifyTag = UINT64_MAX;

}  // namespace

absl::StatusOr<std::unique_ptr<WakeSet>> WakeSet::Make() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.ok()) return absl::ErrnoToStatus(errno, "epoll_create1");
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.ok()) return absl::ErrnoToStatus(errno, "eventfd");
  const int event_fd = event.get();
  std::unique_ptr<WakeSet> set(new WakeSet(std::move(epoll), std::move(event)));
  TANDEM_RETURN_IF_ERROR(set->Add(event_fd, kNotifyTag));
  return set;
}

absl::Status WakeSet::Add(int fd, uint64_t tag) {
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.u64 = tag;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "epoll_ctl");
}

void WakeSet::Remove(int fd) { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

void WakeSet::Notify() {
  const uint64_t one = 1;
  (void)!::write(event_.get(), &one, sizeof one);
}

void WakeSet::Wait(absl::Duration wait_max, const std::function<void(uint64_t tag)>& on_event) {
  constexpr int kEventsMax = 64;
  epoll_event events[kEventsMax];
  const int64_t wait_ms = std::clamp<int64_t>(absl::ToInt64Milliseconds(wait_max), 0, 1 << 30);
  const int count = ::epoll_wait(epoll_.get(), events, kEventsMax, static_cast<int>(wait_ms));
  for (int i = 0; i < count; ++i) {
    if (events[i].data.u64 != kNotifyTag) {
      on_event(events[i].data.u64);
      continue;
    }
    uint64_t ignored = 0;
    (void)!::read(event_.get(), &ignored, sizeof ignored);
  }
}

}  // namespace tandem::rpc
