#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/cuda/device/cuda_check.h"
#include "gpu_worker/backend/cuda/device/device.h"

namespace tandem::gpu_worker::cuda {
namespace {

int Attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

absl::Status OutOfMemory(const char* what, size_t bytes) {
  size_t free = 0, total = 0;
  TANDEM_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return absl::ResourceExhaustedError(absl::StrCat("expected room for ", bytes, " bytes of ", what,
                                                   " memory, found ", free, " of ", total,
                                                   " bytes of the device free"));
}

}  // namespace

int DeviceCount() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // clears it: no driver or no device is an answer, not a failure
  return 0;
}

absl::StatusOr<DeviceProperties> UseDevice(int index) {
  const int count = DeviceCount();
  if (index < 0 || index >= count) {
    return absl::NotFoundError(
        absl::StrCat("expected CUDA device ", index, ", found ", count, " devices"));
  }
  TANDEM_CUDA_CHECK(cudaSetDevice(index));
  cudaDeviceProp all;
  TANDEM_CUDA_CHECK(cudaGetDeviceProperties(&all, index));
  DeviceProperties p;
  p.name = all.name;
  p.major = all.major;
  p.minor = all.minor;
  p.multiprocessors = all.multiProcessorCount;
  p.shared_bytes_max =
      static_cast<size_t>(Attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  p.l2_bytes = static_cast<size_t>(Attribute(cudaDevAttrL2CacheSize, index));
  TANDEM_CUDA_CHECK(cudaMemGetInfo(&p.free_bytes, &p.memory_bytes));
  return p;
}

void MakeCurrent(int index) { TANDEM_CUDA_CHECK(cudaSetDevice(index)); }

namespace internal {
void FreeDevice(void* pointer) { TANDEM_CUDA_CHECK(cudaFree(pointer)); }
void FreePinned(void* pointer) { TANDEM_CUDA_CHECK(cudaFreeHost(pointer)); }
void DestroyStream(Stream stream) { TANDEM_CUDA_CHECK(cudaStreamDestroy(stream)); }
void DestroyEvent(Event event) { TANDEM_CUDA_CHECK(cudaEventDestroy(event)); }
void DestroyGraph(void* graph) {
  TANDEM_CUDA_CHECK(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)));
}
}  // namespace internal

absl::StatusOr<DeviceMemory> AllocateDevice(size_t bytes) {
  if (bytes == 0) return DeviceMemory();
  void* pointer = nullptr;
  const cudaError_t error = cudaMalloc(&pointer, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return OutOfMemory("device", bytes);
  }
  TANDEM_CUDA_CHECK(error);
  return DeviceMemory(pointer, bytes);
}

absl::StatusOr<PinnedMemory> AllocatePinned(size_t bytes) {
  if (bytes == 0) return PinnedMemory();
  void* pointer = nullptr;
  const cudaError_t error = cudaMallocHost(&pointer, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return OutOfMemory("pinned host", bytes);
  }
  TANDEM_CUDA_CHECK(error);
  return PinnedMemory(pointer, bytes);
}

OwnedStream NewStream() {
  Stream stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return OwnedStream(stream);
}

OwnedEvent NewEvent() {
  Event event = nullptr;
  TANDEM_CUDA_CHECK(cudaEventCreate(&event));
  return OwnedEvent(event);
}

void CopyToDevice(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes > 0)
    TANDEM_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream));
}
void CopyToHost(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes > 0)
    TANDEM_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream));
}
void CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes == 0) return;
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
}
void FillBytes(void* to, unsigned char value, size_t bytes, Stream stream) {
  if (bytes > 0) TANDEM_CUDA_CHECK(cudaMemsetAsync(to, value, bytes, stream));
}

void Record(Event event, Stream stream) { TANDEM_CUDA_CHECK(cudaEventRecord(event, stream)); }
void WaitFor(Event event, Stream stream) {
  TANDEM_CUDA_CHECK(cudaStreamWaitEvent(stream, event, 0));
}
void Synchronize(Stream stream) { TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream)); }
void Synchronize(Event event) { TANDEM_CUDA_CHECK(cudaEventSynchronize(event)); }
double MillisecondsBetween(Event start, Event end) {
  float ms = 0;
  TANDEM_CUDA_CHECK(cudaEventElapsedTime(&ms, start, end));
  return ms;
}

void BeginCapture(Stream stream) {
  TANDEM_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
}
ExecutableGraph EndCapture(Stream stream) {
  cudaGraph_t graph = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t executable = nullptr;
  TANDEM_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  TANDEM_CUDA_CHECK(cudaGraphDestroy(graph));
  return ExecutableGraph(executable);
}
void LaunchGraph(const ExecutableGraph& graph, Stream stream) {
  TANDEM_CUDA_CHECK(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph.get()), stream));
}

}  // namespace tandem::gpu_worker::cuda
