// Launch: starts a kernel on a stream, on the GPU or in the emulator. Failures to launch are bugs
// (shapes, shared memory) or a broken device: the process ends with a message either way.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <tuple>
#include <utility>

#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/simt/simt.h"

#if defined(__CUDACC__)
#include "gpu_worker/backend/cuda/device/cuda_check.h"
#else
#include "gpu_worker/backend/cuda/emulator/stream.h"
#endif

namespace tandem::gpu_worker::cuda {

// More dynamic shared memory than this has to be asked for, kernel by kernel.
inline constexpr size_t kSharedBytesUnasked = 48 << 10;

#if defined(__CUDACC__)

template <typename... Parameters, typename... Arguments>
void Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            Stream stream, Arguments&&... arguments) {
  std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  std::array<void*, sizeof...(Parameters)> pointers = std::apply(
      [](auto&... value) { return std::array<void*, sizeof...(Parameters)>{(void*)(&value)...}; },
      values);
  if (shared_bytes > kSharedBytesUnasked) {
    TANDEM_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(shared_bytes)));
  }
  TANDEM_CUDA_CHECK(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block,
                                     pointers.data(), shared_bytes, stream));
}

#else

template <typename... Parameters, typename... Arguments>
void Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            Stream stream, Arguments&&... arguments) {
  emulator::LaunchKernel({grid, block, shared_bytes}, stream,
                         std::bind(kernel, Parameters(std::forward<Arguments>(arguments))...));
}

#endif

}  // namespace tandem::gpu_worker::cuda
