// Words for clusters (sm_90a): up to eight blocks, consecutive along x, that run at the same time
// and reach each other's shared memory. Started by LaunchClusters. What all of it has in common: a
// place in another block is named by the place in one's own, since blocks of a cluster carve shared
// memory alike; and no block may end while another may still reach it, so kernels end with
// ClusterArrive and ClusterWait.
#pragma once

#include "gpu_worker/backend/cuda/simt/hopper.h"
#include "gpu_worker/backend/cuda/simt/vector_access.h"

namespace tandem::gpu_worker::cuda {

inline constexpr int kClusterBlocksMax = 8;

#if !defined(__CUDACC__)
namespace emulator {
void TmaLoadToAll(void* to, const TensorMap& map, int rank, const int* at, uint64_t* barrier,
                  uint32_t blocks);
void MbarrierArriveAt(uint64_t* barrier, int block);
void StoreAt(void* to, int block, const void* from, size_t bytes);
}  // namespace emulator
#endif

// Number of this block in its cluster.
__device__ __forceinline__ int ClusterRank() {
#if defined(TANDEM_SM90A)
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
#elif defined(__CUDACC__)
  __trap();
  return 0;
#else
  return emulator::ClusterRank();
#endif
}

// The barrier of all threads of the cluster, in two halves: what a thread stored before it arrived,
// everybody sees who has waited.
__device__ __forceinline__ void ClusterArrive() {
#if defined(TANDEM_SM90A)
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::ClusterArrive();
#endif
}
__device__ __forceinline__ void ClusterWait() {
#if defined(TANDEM_SM90A)
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::ClusterWait();
#endif
}

// An arrival at the mbarrier at this place of block `block`'s shared memory. Whoever waits there
// with MbarrierWaitCluster sees what this thread stored, to whatever block.
__device__ __forceinline__ void MbarrierArriveAt(uint64_t* barrier, int block) {
#if defined(TANDEM_SM90A)
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n}\n" ::"r"(
          SharedAddress(barrier)),
      "r"(block)
      : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::MbarrierArriveAt(barrier, block);
#endif
}

// MbarrierWait for arrivals from other blocks.
__device__ __forceinline__ void MbarrierWaitCluster(uint64_t* barrier, uint32_t parity) {
#if defined(TANDEM_SM90A)
  const uint32_t address = SharedAddress(barrier);
  uint32_t ended = 0;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
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

// Orders this thread's stores to other blocks before what it does next, for all of the cluster:
// before a __syncwarp() behind which one lane arrives for all.
__device__ __forceinline__ void FenceCluster() {
#if defined(TANDEM_SM90A)
  asm volatile("fence.acq_rel.cluster;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#endif
}

// 16 bytes to this place of block `block`'s shared memory; `to` aligned to 16.
__device__ __forceinline__ void Store16At(void* to, int block, const Words4& words) {
#if defined(TANDEM_SM90A)
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "st.shared::cluster.v4.b32 [remote], {%2, %3, %4, %5};\n}\n" ::"r"(SharedAddress(to)),
      "r"(block), "r"(words.w[0]), "r"(words.w[1]), "r"(words.w[2]), "r"(words.w[3])
      : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::StoreAt(to, block, &words, sizeof(words));
#endif
}

// TmaLoad3d to this place of every block whose bit is set in `blocks`; each one's mbarrier at this
// place counts the bytes. Read once, given to all.
__device__ __forceinline__ void TmaLoad3dToAll(void* to, const TensorMap& map, int x, int y, int z,
                                               uint64_t* barrier, uint32_t blocks) {
#if defined(TANDEM_SM90A)
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(SharedAddress(to)),
      "l"(&map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z),
      "h"(static_cast<uint16_t>(blocks))
      : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  const int at[3] = {x, y, z};
  emulator::TmaLoadToAll(to, map, 3, at, barrier, blocks);
#endif
}

}  // namespace tandem::gpu_worker::cuda
