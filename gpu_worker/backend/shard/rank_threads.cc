#include "gpu_worker/backend/shard/rank_threads.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker {
namespace {

// Pieces of work a rank may be behind. A forward pass is some ten calls a layer, and it stops for
// the experts once a MoE layer, so only a model of many dense layers gets near it.
constexpr size_t kQueuedMax = 1024;

}  // namespace

RankThreads::RankThreads(int ranks, absl::Duration work_max,
                         std::function<void(const absl::Status&)> on_failure)
    : on_failure_(std::move(on_failure)), work_max_(work_max) {
  TANDEM_CHECK_GE(ranks, 1);
  for (int r = 0; r < ranks; ++r) ranks_.push_back(std::make_unique<Rank>());
  for (int r = 0; r < ranks; ++r) ranks_[r]->thread = std::thread([this, r] { Loop(r); });
}

RankThreads::~RankThreads() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (auto& rank : ranks_) {
      rank->queue.clear();
      rank->posted.Signal();
    }
    const absl::Time end = absl::Now() + work_max_;
    for (size_t r = 0; r < ranks_.size(); ++r) {
      while (!ranks_[r]->ended) {
        if (changed_.WaitWithDeadline(&mutex_, end) && !ranks_[r]->ended) {
          base::CheckFailed(
              __FILE__, __LINE__,
              absl::StrCat("rank ", r, " does not end within ", absl::FormatDuration(work_max_)));
        }
      }
    }
  }
  for (auto& rank : ranks_) rank->thread.join();
}

void RankThreads::SetWorkMax(absl::Duration work_max) {
  absl::MutexLock lock(&mutex_);
  TANDEM_CHECK(Idle());
  work_max_ = work_max;
}

void RankThreads::Loop(int rank) {
  Rank& self = *ranks_[rank];
  mutex_.Lock();
  for (;;) {
    while (self.queue.empty() && !stopping_) self.posted.Wait(&mutex_);
    if (stopping_) break;
    const Work work = std::move(self.queue.front());
    self.queue.pop_front();
    self.busy = true;
    self.begun = absl::Now();
    mutex_.Unlock();
    const absl::Status status = work(rank);
    if (!status.ok()) Fail(status);
    mutex_.Lock();
    self.busy = false;
    changed_.SignalAll();
  }
  self.ended = true;
  changed_.SignalAll();
  mutex_.Unlock();
}

void RankThreads::Fail(const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    if (!status_.ok()) return;
    status_ = why;
    for (auto& rank : ranks_) rank->queue.clear();
    changed_.SignalAll();
  }
  on_failure_(why);
  absl::MutexLock lock(&mutex_);
  told_ = true;
  changed_.SignalAll();
}

absl::Status RankThreads::WaitForChange() {
  absl::Time end = absl::Now() + work_max_;
  for (const auto& rank : ranks_) {
    if (rank->busy) end = std::min(end, rank->begun + work_max_);
  }
  if (!changed_.WaitWithDeadline(&mutex_, end)) return absl::OkStatus();
  std::vector<size_t> stuck;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    if (ranks_[r]->busy && ranks_[r]->begun + work_max_ <= absl::Now()) stuck.push_back(r);
  }
  if (stuck.empty()) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat(stuck.size() == 1 ? "rank " : "ranks ", absl::StrJoin(stuck, ", "), " of ",
                   ranks(), " did not finish a call within ", absl::FormatDuration(work_max_)));
}

bool RankThreads::Idle() const {
  return std::all_of(ranks_.begin(), ranks_.end(),
                     [](const auto& rank) { return !rank->busy && rank->queue.empty(); });
}

bool RankThreads::AnyFull() const {
  return std::any_of(ranks_.begin(), ranks_.end(),
                     [](const auto& rank) { return rank->queue.size() >= kQueuedMax; });
}

void RankThreads::Post(const Work& work) {
  absl::Status stuck;
  {
    absl::MutexLock lock(&mutex_);
    while (stuck.ok() && status_.ok() && AnyFull()) stuck = WaitForChange();
    if (stuck.ok() && status_.ok()) {
      for (auto& rank : ranks_) {
        rank->queue.push_back(work);
        rank->posted.Signal();
      }
    }
  }
  if (!stuck.ok()) Fail(stuck);
}

absl::Status RankThreads::Join() {
  absl::Status stuck;
  {
    absl::MutexLock lock(&mutex_);
    while (stuck.ok() && status_.ok() && !Idle()) stuck = WaitForChange();
  }
  if (!stuck.ok()) Fail(stuck);
  absl::MutexLock lock(&mutex_);
  // Whoever noticed a failure has dealt with it before anyone hears of it.
  while (!status_.ok() && !told_) changed_.Wait(&mutex_);
  return status_;
}

absl::Status RankThreads::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

}  // namespace tandem::gpu_worker
