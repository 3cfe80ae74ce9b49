// Emulator: runs a kernel on the CPU with the rules of a GPU, so that kernels are tested where
// there is none. Every thread of a block is a fiber; blocks run one after another. It is made to
// find mistakes, not to be fast:
//   - shared memory starts as NaN (0xFF), is exactly as long as the launch said, and lies in memory
//     of its own, where AddressSanitizer guards its ends;
//   - the order in which threads run changes with the seed, so that a missing barrier shows;
//   - asynchronous copies happen as late as they may: at the wait for them (async_copy.h), or when
//     nothing else can go on (Defer);
//   - blocks of a cluster run at the same time, and one that ends before its last visitor is a
//     failure;
//   - a block that can make no progress is a failure that says what its threads wait for.
// What it cannot show: memory that is seen out of order, speed, and rounding inside tensor cores
// (its products are exact and summed in f32 in order of k).
//
// A failure ends the process by TANDEM_CHECK's way. One kernel runs per host thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>

namespace tandem::gpu_worker::cuda::emulator {

struct dim3 {
  constexpr dim3(unsigned x_in = 1, unsigned y_in = 1, unsigned z_in = 1)
      : x(x_in), y(y_in), z(z_in) {}
  unsigned x, y, z;
};

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  unsigned cluster = 1;  // blocks along x that run together; divides grid.x
};

// Runs all blocks of a launch to their end, cluster after cluster.
void RunKernel(const LaunchShape& shape, const std::function<void()>& kernel);

// Of the launches that follow on this thread. 0: threads run in order; others shuffle them. The
// environment's TANDEM_EMULATOR_SEED is the first value.
void SetSeed(uint64_t seed);

// ---- what follows is for code that runs inside a kernel

const dim3& ThreadIndex();
const dim3& BlockIndex();
const dim3& BlockShape();
const dim3& GridShape();
int BlockThreads();
int LinearThread();  // x fastest
int Lane();          // LinearThread() % 32
unsigned char* SharedMemory();
// Offset within the block's shared memory; a pointer outside of it is a failure.
uint32_t SharedAddress(const void* pointer);
// The other way, for `bytes` bytes.
unsigned char* SharedPointer(uint32_t address, size_t bytes);
size_t SharedBytes();

// A choice of the seed's; 0 under seed 0, where everything happens as late as it may.
uint64_t Random();

// State that another file keeps for the block that runs: null at its start, Finish()ed when all its
// threads have ended.
struct BlockState {
  virtual ~BlockState() = default;
  virtual void Finish() = 0;
};
std::unique_ptr<BlockState>& StateOfBlock();

[[noreturn]] void Fail(const char* what);

// bar.sync and bar.arrive of barrier `id` (0 to 15) with `threads` threads.
void BarrierSync(int id, int threads);
void BarrierArrive(int id, int threads);

// Of the calling thread's block among those of its cluster.
int ClusterRank();
int ClusterBlocks();
// All threads of all blocks of the cluster: each arrives, then waits.
void ClusterArrive();
void ClusterWait();
// Calls body() as if in block `rank` of the cluster: its shared memory, its state, its deferred
// work.
void InBlock(int rank, const std::function<void()>& body);

// Lets other threads run until ready(argument). `why` appears where nothing can go on.
void WaitUntil(bool (*ready)(void*), void* argument, const char* why);

// Lets other threads run for a while of the seed's choosing; not at all under seed 0. For places
// behind which a thread has promised something to others.
void Yield();

// Work of a copy engine: done by nobody's thread, at a time of the emulator's choosing, at the
// latest when every thread of the block waits. Work that is left when they have ended is a failure.
void Defer(std::function<void()> work);

// State of the calling thread's cp.async groups; see simt/async_copy.h.
void PushCopy(std::function<void()> copy);
void CommitCopies();
void WaitCopies(int groups_pending_max);

namespace internal {
// Blocks until all `mask` lanes of the warp (or, `warps` = 4, all threads of the aligned group of
// four warps; mask is then ignored) have called with the same `tag`; the last one calls run.
void Collective(int warps, uint32_t mask, const void* tag, void* mine,
                void (*run)(void* const* lanes, uint32_t mask));
}  // namespace internal

// The lanes of `mask` meet; one of them calls body(lanes, mask), lanes[i] being lane i's `mine` and
// null outside of the mask. Body: a lambda without captures.
template <typename T, typename Body>
void WarpCollective(uint32_t mask, T& mine, Body) {
  static_assert(std::is_empty_v<Body> && std::is_default_constructible_v<Body>);
  static const char tag = 0;
  internal::Collective(1, mask, &tag, &mine, [](void* const* lanes, uint32_t m) {
    Body()(reinterpret_cast<T* const*>(lanes), m);
  });
}

// The same for the 128 threads of a warpgroup; lanes[128].
template <typename T, typename Body>
void WarpgroupCollective(T& mine, Body) {
  static_assert(std::is_empty_v<Body> && std::is_default_constructible_v<Body>);
  static const char tag = 0;
  internal::Collective(4, 0xffffffffu, &tag, &mine, [](void* const* lanes, uint32_t) {
    Body()(reinterpret_cast<T* const*>(lanes));
  });
}

}  // namespace tandem::gpu_worker::cuda::emulator
