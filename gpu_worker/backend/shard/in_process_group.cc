#include "gpu_worker/backend/shard/in_process_group.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker {

class InProcessGroup::Member final : public Collective {
 public:
  Member(std::shared_ptr<InProcessGroup> group, int rank) : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int ranks() const override { return group_->ranks(); }
  absl::Status AllGather(const void* part, void* whole, size_t bytes,
                         CUstream_st* stream) override {
    TANDEM_CHECK(stream == nullptr);  // host memory knows no streams
    return group_->AllGather(rank_, part, whole, bytes);
  }
  absl::Status Barrier() override { return group_->Meet(rank_, nullptr, 0); }
  void Abort(const absl::Status& why) override { group_->Abort(why); }
  absl::Status status() const override { return group_->status(); }

 private:
  const std::shared_ptr<InProcessGroup> group_;
  const int rank_;
};

std::shared_ptr<InProcessGroup> InProcessGroup::Make(int ranks, absl::Duration wait_max) {
  TANDEM_CHECK_GE(ranks, 1);
  return std::shared_ptr<InProcessGroup>(new InProcessGroup(ranks, wait_max));
}

std::unique_ptr<Collective> InProcessGroup::Rank(int rank) {
  TANDEM_CHECK(rank >= 0 && rank < ranks());
  return std::make_unique<Member>(shared_from_this(), rank);
}

void InProcessGroup::Abort(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  FailLocked(why);
}

absl::Status InProcessGroup::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

void InProcessGroup::FailLocked(const absl::Status& why) {
  TANDEM_CHECK(!why.ok());
  if (status_.ok()) status_ = why;
  changed_.SignalAll();
}

std::string InProcessGroup::Missing() const {
  std::vector<size_t> ranks;
  for (size_t r = 0; r < places_.size(); ++r) {
    if (!places_[r].here) ranks.push_back(r);
  }
  return absl::StrCat(ranks.size() == 1 ? "rank " : "ranks ", absl::StrJoin(ranks, ", "));
}

absl::Status InProcessGroup::Meet(int rank, const void* part, size_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (!status_.ok()) return status_;
  TANDEM_CHECK(!places_[rank].here);
  if (part != nullptr) places_[rank].part = part;
  places_[rank].bytes = bytes;
  places_[rank].here = true;
  const uint64_t meeting = meetings_;
  if (++arrived_ == ranks()) {
    arrived_ = 0;
    ++meetings_;
    for (Place& place : places_) {
      TANDEM_CHECK_EQ(place.bytes, bytes);  // ranks are in different calls: a bug of ours
      place.here = false;
    }
    changed_.SignalAll();
    return absl::OkStatus();
  }
  const absl::Time end = absl::Now() + wait_max_;
  while (meetings_ == meeting && status_.ok()) {
    if (changed_.WaitWithDeadline(&mutex_, end) && meetings_ == meeting && status_.ok()) {
      FailLocked(absl::DeadlineExceededError(
          absl::StrCat(Missing(), " of ", ranks(), " did not come to meeting ", meeting, " within ",
                       absl::FormatDuration(wait_max_))));
    }
  }
  return meetings_ != meeting ? absl::OkStatus() : status_;
}

absl::Status InProcessGroup::AllGather(int rank, const void* part, void* whole, size_t bytes) {
  TANDEM_RETURN_IF_ERROR(Meet(rank, part, bytes));
  std::vector<const void*> parts;
  {
    absl::MutexLock lock(&mutex_);
    for (const Place& place : places_) parts.push_back(place.part);
  }
  for (int r = 0; r < ranks(); ++r) {
    void* const to = static_cast<std::byte*>(whole) + static_cast<size_t>(r) * bytes;
    if (bytes > 0 && to != parts[r]) std::memcpy(to, parts[r], bytes);
  }
  // Nobody's part is written again before all have read it.
  return Meet(rank, nullptr, bytes);
}

}  // namespace tandem::gpu_worker
