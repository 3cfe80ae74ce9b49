// What both ends of a shared-memory connection have: the socket, the mapping, and where in it the
// two rings lie. Calls go through one, answers through the other.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "lib/rpc/shm_region.h"
#include "lib/rpc/shm_ring.h"
#include "lib/rpc/unique_fd.h"

namespace tandem::rpc {

// Arenas are address space until they are touched, so they are made for the largest frames: 4096
// rows (the most a step may have) of 7168 bf16 are 56 MiB, their int32 sums 112 MiB.
inline constexpr size_t kCallArenaBytes = size_t{64} << 20;
inline constexpr size_t kAnswerArenaBytes = size_t{128} << 20;

inline constexpr size_t kRingSharedBytes = (sizeof(RingShared) + 4095) / 4096 * 4096;
inline constexpr size_t kShmRegionBytes =
    2 * kRingSharedBytes + kCallArenaBytes + kAnswerArenaBytes;

struct ShmLayout {
  explicit ShmLayout(std::byte* base)
      : calls(reinterpret_cast<RingShared*>(base)),
        answers(reinterpret_cast<RingShared*>(base + kRingSharedBytes)),
        call_arena(base + 2 * kRingSharedBytes),
        answer_arena(call_arena + kCallArenaBytes) {}
  RingShared* calls;
  RingShared* answers;
  std::byte* call_arena;
  std::byte* answer_arena;
};

// One end of a connection: the worker's has RingConsumer for Calls and RingProducer for Answers, a
// caller's the other way round.
template <typename Calls, typename Answers>
struct ShmEnd {
  ShmEnd(UniqueFd control_fd, std::unique_ptr<ShmRegion> memory)
      : control(std::move(control_fd)),
        region(std::move(memory)),
        layout(region->data()),
        calls(layout.calls, layout.call_arena, kCallArenaBytes),
        answers(layout.answers, layout.answer_arena, kAnswerArenaBytes) {}

  const UniqueFd control;
  const std::unique_ptr<ShmRegion> region;
  const ShmLayout layout;
  Calls calls;
  Answers answers;
};

}  // namespace tandem::rpc
