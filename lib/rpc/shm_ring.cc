#include "lib/rpc/shm_ring.h"

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"

namespace tandem::rpc {
namespace {

size_t RoundUp(size_t bytes) { return (bytes + kFrameAlign - 1) / kFrameAlign * kFrameAlign; }

}  // namespace

std::byte* RingProducer::Allocate(size_t bytes) {
  Reclaim();
  if (bytes == 0 || bytes > arena_bytes_ || outstanding_.size() == kRingSlots) return nullptr;
  const std::optional<size_t> begin = FindRoom(RoundUp(bytes));
  if (!begin.has_value()) return nullptr;
  outstanding_.push_back({*begin, *begin + RoundUp(bytes), bytes});
  return arena_ + *begin;
}

void RingProducer::Reclaim() {
  while (oldest_ < published_) {
    const RingSlot& slot = shared_->slots[oldest_ % kRingSlots];
    if (slot.released.load(std::memory_order_acquire) != oldest_ + 1) return;
    outstanding_.pop_front();
    ++oldest_;
  }
}

// The frames lie in order of age, cut at most once by the end of the arena. `bytes` is rounded, and
// so is every border.
std::optional<size_t> RingProducer::FindRoom(size_t bytes) const {
  if (outstanding_.empty()) return bytes <= arena_bytes_ ? std::optional<size_t>(0) : std::nullopt;
  const Extent& first = outstanding_.front();
  const Extent& last = outstanding_.back();
  const bool wrapped = last.begin < first.begin;
  const size_t end = wrapped ? first.begin : arena_bytes_;
  if (end >= last.end && end - last.end >= bytes) return last.end;
  if (!wrapped && first.begin >= bytes) return 0;
  return std::nullopt;
}

bool RingProducer::Publish() {
  const uint64_t number = published_++;
  const uint64_t index = number - oldest_;
  TANDEM_CHECK_LT(index, outstanding_.size());
  const Extent& extent = outstanding_[index];
  RingSlot& slot = shared_->slots[number % kRingSlots];
  slot.offset_bytes.store(extent.begin, std::memory_order_relaxed);
  slot.frame_bytes.store(extent.frame_bytes, std::memory_order_relaxed);
  slot.published.store(number + 1, std::memory_order_seq_cst);
  // Total order with AnnounceSleep: either this sees it asleep, or its second look sees the frame.
  if (shared_->asleep.load(std::memory_order_seq_cst) == 0) return false;
  // One wake-up is enough, however many frames follow it.
  return shared_->asleep.exchange(0, std::memory_order_seq_cst) != 0;
}

bool RingConsumer::HasNews() const {
  // seq_cst for the second look after AnnounceSleep; on the usual processors it is a plain load.
  return shared_->slots[next_ % kRingSlots].published.load(std::memory_order_seq_cst) == next_ + 1;
}

absl::StatusOr<std::optional<RingFrame>> RingConsumer::Take() {
  if (!HasNews()) return std::nullopt;
  const RingSlot& slot = shared_->slots[next_ % kRingSlots];
  const uint64_t offset_bytes = slot.offset_bytes.load(std::memory_order_relaxed);
  const uint64_t frame_bytes = slot.frame_bytes.load(std::memory_order_relaxed);
  if (offset_bytes % kFrameAlign != 0 || offset_bytes > arena_bytes_ ||
      frame_bytes > arena_bytes_ - offset_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("a frame of ", frame_bytes, " bytes at ",
                                                   offset_bytes, " is not within ", arena_bytes_,
                                                   " bytes of shared memory"));
  }
  const RingFrame frame{{arena_ + offset_bytes, static_cast<size_t>(frame_bytes)}, next_};
  ++next_;
  return frame;
}

void RingConsumer::Release(uint64_t number) {
  shared_->slots[number % kRingSlots].released.store(number + 1, std::memory_order_release);
}

void RingConsumer::AnnounceSleep() { shared_->asleep.store(1, std::memory_order_seq_cst); }

void RingConsumer::AnnounceAwake() { shared_->asleep.store(0, std::memory_order_seq_cst); }

}  // namespace tandem::rpc
