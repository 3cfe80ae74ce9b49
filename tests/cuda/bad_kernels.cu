// What the gates must catch, one kernel per mistake. Never linked into anything: tests/cuda
// compiles it and demands that every mistake is reported.
#include <cstdint>

namespace {

constexpr int kValues = 96;

// More values alive than 1024 threads have registers for: ptxas spills.
__global__ void __launch_bounds__(1024, 1) SpillingKernel(float* x, int n) {
  float values[kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) values[i] = x[i * n + threadIdx.x];
  __syncthreads();
  for (int k = 0; k < n; ++k) {
#pragma unroll
    for (int i = 0; i < kValues; ++i)
      values[i] = values[i] * x[i * 7 + k] + values[(i * 5 + 1) % kValues];
  }
#pragma unroll
  for (int i = 0; i < kValues; ++i) x[i * n + threadIdx.x] = values[i];
}

// 72 registers and no bound: a launch with 1024 threads would fail.
__global__ void UnboundedKernel(float* x, int n) {
  float values[64];
  for (int i = 0; i < 64; ++i) values[i] = x[i * n];
  x[0] = values[n & 63];
}

// Touches the accumulators between two products: ptxas serializes them.
__global__ void __launch_bounds__(128) SerializedKernel(uint64_t a, uint64_t b, float* out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  float d[4] = {0, 0, 0, 0};
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  for (int i = 0; i < 4; ++i) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, "
        "0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "l"(a), "l"(b));
    d[0] += 1.0f;
  }
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = d[i];
#endif
}

// Asks for more registers without a bound to know the count at entry from: setmaxnreg is ignored.
__global__ void IgnoredSetMaxKernel(float* out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
#endif
  out[threadIdx.x] = 1.0f;
}

}  // namespace

void LaunchBadKernels(float* x) {
  SpillingKernel<<<1, 1>>>(x, 1);
  UnboundedKernel<<<1, 1>>>(x, 1);
  SerializedKernel<<<1, 128>>>(0, 0, x);
  IgnoredSetMaxKernel<<<1, 128>>>(x);
}
