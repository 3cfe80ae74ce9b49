// Launch: starts a kernel on a stream, on the GPU or in the emulator; LaunchClusters: in clusters
// of blocks along x (hopper_cluster.h), grid.x a multiple of them. Failures to launch are bugs
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

namespace internal {

inline void AllowShared(const void* function, size_t shared_bytes) {
  if (shared_bytes <= kSharedBytesUnasked) return;
  TANDEM_CUDA_CHECK(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(shared_bytes)));
}

inline cudaLaunchAttribute ClusterOf(int blocks) {
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  return cluster;
}

template <typename... Parameters, typename... Arguments>
void LaunchKernel(void (*kernel)(Parameters...), cudaLaunchConfig_t config,
                  Arguments&&... arguments) {
  std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  std::array<void*, sizeof...(Parameters)> pointers = std::apply(
      [](auto&... value) { return std::array<void*, sizeof...(Parameters)>{(void*)(&value)...}; },
      values);
  const void* const function = reinterpret_cast<const void*>(kernel);
  AllowShared(function, config.dynamicSmemBytes);
  TANDEM_CUDA_CHECK(cudaLaunchKernelExC(&config, function, pointers.data()));
}

inline cudaLaunchConfig_t ConfigOf(dim3 grid, dim3 block, size_t shared_bytes, Stream stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return config;
}

}  // namespace internal

template <typename... Parameters, typename... Arguments>
void Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            Stream stream, Arguments&&... arguments) {
  internal::LaunchKernel(kernel, internal::ConfigOf(grid, block, shared_bytes, stream),
                         std::forward<Arguments>(arguments)...);
}

template <typename... Parameters, typename... Arguments>
void LaunchClusters(void (*kernel)(Parameters...), int blocks_of_cluster, dim3 grid, dim3 block,
                    size_t shared_bytes, Stream stream, Arguments&&... arguments) {
  cudaLaunchAttribute cluster = internal::ClusterOf(blocks_of_cluster);
  cudaLaunchConfig_t config = internal::ConfigOf(grid, block, shared_bytes, stream);
  config.attrs = &cluster;
  config.numAttrs = 1;
  internal::LaunchKernel(kernel, config, std::forward<Arguments>(arguments)...);
}

// How many such clusters the current device runs at the same time.
template <typename... Parameters>
int ClustersAtOnce(void (*kernel)(Parameters...), int blocks_of_cluster, dim3 block,
                   size_t shared_bytes) {
  cudaLaunchAttribute cluster = internal::ClusterOf(blocks_of_cluster);
  cudaLaunchConfig_t config =
      internal::ConfigOf(static_cast<unsigned>(blocks_of_cluster), block, shared_bytes, nullptr);
  config.attrs = &cluster;
  config.numAttrs = 1;
  internal::AllowShared(reinterpret_cast<const void*>(kernel), shared_bytes);
  int clusters = 0;
  TANDEM_CUDA_CHECK(
      cudaOccupancyMaxActiveClusters(&clusters, reinterpret_cast<const void*>(kernel), &config));
  return clusters;
}

#else

template <typename... Parameters, typename... Arguments>
void Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            Stream stream, Arguments&&... arguments) {
  emulator::LaunchKernel({grid, block, shared_bytes}, stream,
                         std::bind(kernel, Parameters(std::forward<Arguments>(arguments))...));
}

template <typename... Parameters, typename... Arguments>
void LaunchClusters(void (*kernel)(Parameters...), int blocks_of_cluster, dim3 grid, dim3 block,
                    size_t shared_bytes, Stream stream, Arguments&&... arguments) {
  emulator::LaunchKernel({grid, block, shared_bytes, static_cast<unsigned>(blocks_of_cluster)},
                         stream,
                         std::bind(kernel, Parameters(std::forward<Arguments>(arguments))...));
}

// As many as there may be blocks: one runs after the other.
template <typename... Parameters>
int ClustersAtOnce(void (*)(Parameters...), int, dim3, size_t) {
  return 1 << 20;
}

#endif

}  // namespace tandem::gpu_worker::cuda
