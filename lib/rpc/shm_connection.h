// What both ends of a shared-memory connection have: the socket, the mapping, and where in it the
// two rings lie. Calls go through one, answers through the other.
#pragma once

#include <cstddef>
#include <memory>

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

}  // namespace tandem::rpc
