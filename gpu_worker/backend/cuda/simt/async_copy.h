// cp.async: 16 or 4 bytes from device memory to shared memory without a register in between, in
// groups that a thread commits and waits for. In the emulator a copy happens at the wait for its
// group.
#pragma once

#include "gpu_worker/backend/cuda/simt/simt.h"

namespace tandem::gpu_worker::cuda {

// `to` in shared memory and `from` aligned to 16 bytes. valid = false writes zeros and reads
// nothing.
__device__ __forceinline__ void CopyAsync16(void* to, const void* from, bool valid = true) {
#if defined(__CUDACC__)
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(bytes)
               : "memory");
#else
  unsigned char* const target = emulator::SharedPointer(SharedAddress(to), 16);
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 ||
      (valid && reinterpret_cast<uintptr_t>(from) % 16 != 0)) {
    emulator::Fail("cp.async of 16 bytes at an address that is no multiple of 16");
  }
  emulator::PushCopy([target, from, valid] {
    if (valid) {
      std::memcpy(target, from, 16);
    } else {
      std::memset(target, 0, 16);
    }
  });
#endif
}

// The same for four bytes; neighbours, which are likely to be wanted next, stay in L1.
__device__ __forceinline__ void CopyAsync4(void* to, const void* from, bool valid = true) {
#if defined(__CUDACC__)
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(bytes)
               : "memory");
#else
  unsigned char* const target = emulator::SharedPointer(SharedAddress(to), 4);
  if (reinterpret_cast<uintptr_t>(to) % 4 != 0 ||
      (valid && reinterpret_cast<uintptr_t>(from) % 4 != 0)) {
    emulator::Fail("cp.async of 4 bytes at an address that is no multiple of 4");
  }
  emulator::PushCopy([target, from, valid] {
    if (valid) {
      std::memcpy(target, from, 4);
    } else {
      std::memset(target, 0, 4);
    }
  });
#endif
}

// As CopyAsync16 for bytes that are read once (weights): L2 may drop them first.
__device__ __forceinline__ void CopyAsync16Once(void* to, const void* from) {
#if defined(__CUDACC__)
  // Made anew for every copy: an instruction, where keeping it takes two registers.
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile(
      "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)),
      "l"(from), "l"(policy)
      : "memory");
#else
  CopyAsync16(to, from);
#endif
}

__device__ __forceinline__ void CommitAsyncCopies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulator::CommitCopies();
#endif
}

// Until at most kPending of the calling thread's groups are under way; what other threads copied is
// seen after a barrier that follows their own wait.
template <int kPending>
__device__ __forceinline__ void WaitAsyncCopies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  emulator::WaitCopies(kPending);
#endif
}

}  // namespace tandem::gpu_worker::cuda
