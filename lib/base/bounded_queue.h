// BoundedQueue: the only way one thread hands work to another. Full is an answer (false), never a
// wait; every pop has a deadline; Close() wakes all waiters, and what is already queued can still
// be taken. Wake() is for a consumer that has other things to look at.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tandem::base {

template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity_items) : capacity_items_(capacity_items) {}

  // False when the queue is full or closed; `item` is untouched then.
  bool TryPush(T&& item) {
    absl::MutexLock lock(&mutex_);
    if (closed_ || items_.size() >= capacity_items_) return false;
    items_.push_back(std::move(item));
    return true;
  }

  // The oldest item, or nothing when none came within `wait_max`, the queue is closed and empty, or
  // Wake was called since the last pop.
  std::optional<T> PopFor(absl::Duration wait_max) {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(this, &BoundedQueue::HasNews), wait_max);
    woken_ = false;
    if (items_.empty()) return std::nullopt;
    T item = std::move(items_.front());
    items_.pop_front();
    return item;
  }

  // Ends the wait of a pop, or of the next one.
  void Wake() {
    absl::MutexLock lock(&mutex_);
    woken_ = true;
  }

  void Close() {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }

  bool closed() const {
    absl::MutexLock lock(&mutex_);
    return closed_;
  }
  size_t size() const {
    absl::MutexLock lock(&mutex_);
    return items_.size();
  }

 private:
  bool HasNews() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closed_ || woken_ || !items_.empty();
  }

  const size_t capacity_items_;
  mutable absl::Mutex mutex_;
  std::deque<T> items_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tandem::base
