// Words of sm_90a: mbarriers, the copy engine (TMA), named barriers, registers that move between
// warpgroups; products of a warpgroup are in hopper_wgmma.h. On older GPUs they trap: who launches
// a kernel made of them asks for the device's version first.
//
// Shared memory is reached in two ways that do not see each other's writes by themselves: by loads
// and stores of threads, and by the copy engine and wgmma ("async proxy"). What a thread has stored
// has to pass its own FenceAsyncProxy() before a copy or a product reads it; what a copy has
// brought is seen by whoever has waited for its mbarrier. The emulator keeps both views and gives
// the engine the old bytes where nobody has fenced.
//
// Swizzle of 128 bytes: the 16-byte unit at shared address bits 4-6 is the unit's number
// exclusive-or bits 7-9, so that eight rows of 128 bytes keep a column of units in eight different
// bank groups.
#pragma once

#include "gpu_worker/backend/cuda/simt/simt.h"
#include "gpu_worker/backend/cuda/simt/tensor_map.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TANDEM_SM90A 1
#endif

namespace tandem::gpu_worker::cuda {

inline constexpr int kWarpgroupThreads = 128;

// Where the unit at `offset` bytes of a tile lies: tiles begin at multiples of 1024 bytes.
__device__ __host__ __forceinline__ constexpr uint32_t Swizzle128(uint32_t offset) {
  return offset ^ (offset >> 3 & 0x70u);
}

__device__ __forceinline__ int WarpgroupId() {
  return static_cast<int>(threadIdx.x) / kWarpgroupThreads;
}

#if !defined(__CUDACC__)
namespace emulator {
void MbarrierInit(uint64_t* barrier, uint32_t count);
void MbarrierFenceInit();
void MbarrierArrive(uint64_t* barrier, uint32_t expect_bytes);
void MbarrierWait(uint64_t* barrier, uint32_t parity);
void AsyncProxyFence();
void TmaLoad(void* to, const TensorMap& map, int rank, const int* at, uint64_t* barrier);
void TmaStore(const TensorMap& map, int rank, const int* at, const void* from);
void TmaStoreCommit();
void TmaStoreWait(int groups_pending_max);
void BulkLoad(void* to, const void* from, uint32_t bytes, uint64_t* barrier);
void CheckRegisters(int registers);
}  // namespace emulator
#endif

// ---- mbarrier: 8 bytes of shared memory, aligned to 8. A phase ends when `count` arrivals have
// come and as many bytes as were expected; then the next one begins.

// By one thread; then MbarrierFenceInit() by the same, then a barrier of the block.
__device__ __forceinline__ void MbarrierInit(uint64_t* barrier, uint32_t count) {
#if defined(TANDEM_SM90A)
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(count)
               : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::MbarrierInit(barrier, count);
#endif
}

// Makes initialized mbarriers known to the copy engine.
__device__ __forceinline__ void MbarrierFenceInit() {
#if defined(TANDEM_SM90A)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::MbarrierFenceInit();
#endif
}

__device__ __forceinline__ void MbarrierArrive(uint64_t* barrier) {
#if defined(TANDEM_SM90A)
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::MbarrierArrive(barrier, 0);
#endif
}

// An arrival that adds `bytes` to what copies have to bring before the phase ends. Comes before the
// copies.
__device__ __forceinline__ void MbarrierArriveExpect(uint64_t* barrier, uint32_t bytes) {
#if defined(TANDEM_SM90A)
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::MbarrierArrive(barrier, bytes);
#endif
}

// Until the phase of this parity (the first one is 0) has ended. On a fresh barrier a wait for
// parity 1 does not wait: producers begin so.
__device__ __forceinline__ void MbarrierWait(uint64_t* barrier, uint32_t parity) {
#if defined(TANDEM_SM90A)
  const uint32_t address = SharedAddress(barrier);
  uint32_t ended = 0;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(ended)
        : "r"(address), "r"(parity)
        : "memory");
  } while (ended == 0);
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::MbarrierWait(barrier, parity);
#endif
}

// Which stage of a ring of kStages buffers comes next, and the parity of its mbarriers' phases.
template <int kStages>
struct RingTurn {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void Next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1u;
    }
  }
};

// Orders this thread's earlier stores to shared memory before later reads by the async proxy; the
// reads are started after a barrier where another thread starts them.
__device__ __forceinline__ void FenceAsyncProxy() {
#if defined(TANDEM_SM90A)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::AsyncProxyFence();
#endif
}

// ---- copies by TMA, each started by one thread

// Brings the map's descriptor near; not needed, saves a first miss.
__device__ __forceinline__ void PrefetchTensorMap(const TensorMap& map) {
#if defined(TANDEM_SM90A)
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#elif defined(__CUDACC__)
  __trap();
#endif
}

// What L2 shall do with the bytes of a copy.
enum class CacheHint { kNormal, kOnce };

#if defined(__CUDACC__)
__device__ __forceinline__ uint64_t PolicyOfOnce() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
#endif

// The box whose first value is (x, y) of the tensor, x innermost, rows of the box one behind the
// other at `to` (a multiple of 128 bytes, with a swizzle 1024). The mbarrier counts the bytes of
// the whole box, also where a part lies outside of the tensor.
template <CacheHint kHint = CacheHint::kNormal>
__device__ __forceinline__ void TmaLoad2d(void* to, const TensorMap& map, int x, int y,
                                          uint64_t* barrier) {
#if defined(TANDEM_SM90A)
  if constexpr (kHint == CacheHint::kNormal) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%3, %4}], [%2];" ::"r"(SharedAddress(to)),
        "l"(&map), "r"(SharedAddress(barrier)), "r"(x), "r"(y)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(SharedAddress(to)),
        "l"(&map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "l"(PolicyOfOnce())
        : "memory");
  }
#elif defined(__CUDACC__)
  __trap();
#else
  const int at[2] = {x, y};
  emulator::TmaLoad(to, map, 2, at, barrier);
#endif
}

template <CacheHint kHint = CacheHint::kNormal>
__device__ __forceinline__ void TmaLoad3d(void* to, const TensorMap& map, int x, int y, int z,
                                          uint64_t* barrier) {
#if defined(TANDEM_SM90A)
  if constexpr (kHint == CacheHint::kNormal) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%3, %4, %5}], [%2];" ::"r"(SharedAddress(to)),
        "l"(&map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(SharedAddress(to)),
        "l"(&map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z), "l"(PolicyOfOnce())
        : "memory");
  }
#elif defined(__CUDACC__)
  __trap();
#else
  const int at[3] = {x, y, z};
  emulator::TmaLoad(to, map, 3, at, barrier);
#endif
}

// `bytes` in a row; bytes and both addresses are multiples of 16.
__device__ __forceinline__ void BulkLoad(void* to, const void* from, uint32_t bytes,
                                         uint64_t* barrier) {
#if defined(TANDEM_SM90A)
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(SharedAddress(to)),
      "l"(from), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::BulkLoad(to, from, bytes, barrier);
#endif
}

// A box from shared to device memory; in groups that the calling thread commits and waits for.
__device__ __forceinline__ void TmaStore2d(const TensorMap& map, int x, int y, const void* from) {
#if defined(TANDEM_SM90A)
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
      "r"(SharedAddress(from)), "r"(x), "r"(y)
      : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  const int at[2] = {x, y};
  emulator::TmaStore(map, 2, at, from);
#endif
}

__device__ __forceinline__ void TmaStoreCommit() {
#if defined(TANDEM_SM90A)
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::TmaStoreCommit();
#endif
}

// Until shared memory of all but kPending of this thread's groups has been read: it may be written
// again. A block must not end with groups unread.
template <int kPending>
__device__ __forceinline__ void TmaStoreWait() {
#if defined(TANDEM_SM90A)
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::TmaStoreWait(kPending);
#endif
}

// ---- barriers of some warps of a block, 1 to 15 (0 is __syncthreads'); `threads` counts those
// that sync and those that arrive, whole warps
__device__ __forceinline__ void NamedBarrierSync(int id, int threads) {
#if defined(__CUDACC__)
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  emulator::BarrierSync(id, threads);
#endif
}
__device__ __forceinline__ void NamedBarrierArrive(int id, int threads) {
#if defined(__CUDACC__)
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  emulator::BarrierArrive(id, threads);
#endif
}

// ---- registers a thread of the calling warpgroup may have from here on: producers give away what
// consumers take. Multiples of 8 from 24 to 256; needs __launch_bounds__ on the kernel.
template <int kRegisters>
__device__ __forceinline__ void GiveRegisters() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
#if defined(TANDEM_SM90A)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#elif !defined(__CUDACC__)
  emulator::CheckRegisters(kRegisters);
#endif
}
template <int kRegisters>
__device__ __forceinline__ void TakeRegisters() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
#if defined(TANDEM_SM90A)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#elif !defined(__CUDACC__)
  emulator::CheckRegisters(kRegisters);
#endif
}

}  // namespace tandem::gpu_worker::cuda
