// ShmRing: frames from one process to another through memory both have mapped. The producer keeps
// its books in memory of its own and only writes down where each frame lies; the consumer checks
// what it reads, reads each number once, and works on the frame where it lies. Neither can be led
// outside the mapping by what the other writes. Nothing here knows what a frame means, sockets, or
// processes, so that ThreadSanitizer can look at it whole.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>

#include "absl/status/statusor.h"

namespace tandem::rpc {

// A cache line; frames begin on one, so that rows are aligned for vector loads and two frames never
// share a line.
inline constexpr size_t kFrameAlign = 64;

// Frames that may be on the way or in use at once. A GPU worker has a handful of calls in flight to
// one worker; a peer with this many unread frames is not reading.
inline constexpr size_t kRingSlots = 256;

// One published frame. Number n lies in slot n % kRingSlots. One cache line, so that a poll that
// finds news has the place of the frame as well.
struct alignas(kFrameAlign) RingSlot {
  std::atomic<uint64_t> published{0};  // n + 1; written last by the producer
  std::atomic<uint64_t> offset_bytes{0};
  std::atomic<uint64_t> frame_bytes{0};
  std::atomic<uint64_t> released{0};  // n + 1, by the consumer: the memory may be used again
};

// The part of a ring that both sides write. Zero bytes are its initial state.
struct RingShared {
  // 1 while the consumer sleeps or is about to: the producer then has to wake it.
  alignas(kFrameAlign) std::atomic<uint32_t> asleep{0};
  RingSlot slots[kRingSlots];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free, "shared between processes");

// Not thread-safe.
class RingProducer {
 public:
  // `shared` and `arena` [arena_bytes] must outlive this; the arena is aligned to kFrameAlign.
  RingProducer(RingShared* shared, std::byte* arena, size_t arena_bytes)
      : shared_(shared), arena_(arena), arena_bytes_(arena_bytes) {}

  // Memory for a frame of `bytes`, aligned to kFrameAlign and not set to anything; null when there
  // is no room until the consumer has released more. The lowest free place is taken when the ring
  // is empty, so that a stream of small frames stays in the same few cache lines.
  std::byte* Allocate(size_t bytes);

  // Hands over the oldest frame that was allocated and not published. True when the consumer sleeps
  // and must be woken. Never waits.
  bool Publish();

 private:
  struct Extent {
    size_t begin = 0;
    size_t end = 0;
    size_t frame_bytes = 0;
  };

  void Reclaim();
  std::optional<size_t> FindRoom(size_t bytes) const;

  RingShared* const shared_;
  std::byte* const arena_;
  const size_t arena_bytes_;
  std::deque<Extent> outstanding_;  // allocated and not released, oldest first
  uint64_t oldest_ = 0;             // number of outstanding_.front()
  uint64_t published_ = 0;          // frames ever published
};

struct RingFrame {
  std::span<const std::byte> bytes;  // in the arena, begins at a multiple of kFrameAlign
  uint64_t number = 0;
};

// Take and the sleep calls from one thread at a time; Release from any.
class RingConsumer {
 public:
  // As RingProducer's.
  RingConsumer(RingShared* shared, const std::byte* arena, size_t arena_bytes)
      : shared_(shared), arena_(arena), arena_bytes_(arena_bytes) {}

  bool HasNews() const;
  // The next frame, or nothing. INVALID_ARGUMENT (found, allowed) when it is not in the arena: the
  // producer is broken, and no later frame can be believed.
  absl::StatusOr<std::optional<RingFrame>> Take();
  // The frame's memory is no longer looked at.
  void Release(uint64_t number);

  // Before sleeping: from now on the producer is told to wake us. The caller looks for news once
  // more afterwards, since a frame published just before asks for no wake-up.
  void AnnounceSleep();
  // The consumer looks by itself again.
  void AnnounceAwake();

 private:
  RingShared* const shared_;
  const std::byte* const arena_;
  const size_t arena_bytes_;
  uint64_t next_ = 0;
};

}  // namespace tandem::rpc
