// The device as host code sees it: memory, streams, events, graphs. Two implementations with the
// same names: device_cuda.cu over the CUDA runtime, emulator/device_emulated.cc for tests on the
// CPU; a program links one of them. Host code of the backend includes no CUDA header.
//
// A call that fails for want of memory or of a device returns a status. Any other failure of the
// runtime is beyond repair in the process (CUDA's errors are sticky): it ends with a message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// CUDA's own opaque types.
struct CUstream_st;
struct CUevent_st;

namespace tandem::gpu_worker::cuda {

using Stream = CUstream_st*;
using Event = CUevent_st*;

struct DeviceProperties {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  size_t memory_bytes = 0;
  size_t free_bytes = 0;
  size_t shared_bytes_max = 0;  // dynamic shared memory of one block
  size_t l2_bytes = 0;
  bool emulated = false;
};

// How many devices there are; 0 without a driver.
int DeviceCount();
// NOT_FOUND in one sentence where there is no such device or no driver. Makes it the calling
// thread's current device.
absl::StatusOr<DeviceProperties> UseDevice(int index);
// The same for a device that UseDevice found before, perhaps on another thread: what a thread calls
// is about its current device, which is device 0 at first.
void MakeCurrent(int index);

namespace internal {
void FreeDevice(void* pointer);
void FreePinned(void* pointer);
void DestroyStream(Stream stream);
void DestroyEvent(Event event);
void DestroyGraph(void* graph);
struct DeviceDeleter {
  void operator()(void* p) const { FreeDevice(p); }
};
struct PinnedDeleter {
  void operator()(void* p) const { FreePinned(p); }
};
struct StreamDeleter {
  void operator()(Stream s) const { DestroyStream(s); }
};
struct EventDeleter {
  void operator()(Event e) const { DestroyEvent(e); }
};
struct GraphDeleter {
  void operator()(void* g) const { DestroyGraph(g); }
};
}  // namespace internal

// Owned memory; aligned to 256 bytes. The emulator fills it with 0xFF, which is NaN in f32 and
// bf16.
template <typename Deleter>
class Memory {
 public:
  Memory() = default;
  Memory(void* pointer, size_t bytes) : pointer_(pointer), bytes_(bytes) {}
  template <typename T>
  T* as() const {
    return static_cast<T*>(pointer_.get());
  }
  void* data() const { return pointer_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<void, Deleter> pointer_;
  size_t bytes_ = 0;
};
using DeviceMemory = Memory<internal::DeviceDeleter>;
using PinnedMemory = Memory<internal::PinnedDeleter>;  // of the host, reachable by the device's DMA

// RESOURCE_EXHAUSTED with bytes wanted and free. Zero bytes are an empty Memory.
absl::StatusOr<DeviceMemory> AllocateDevice(size_t bytes);
absl::StatusOr<PinnedMemory> AllocatePinned(size_t bytes);

using OwnedStream = std::unique_ptr<CUstream_st, internal::StreamDeleter>;
using OwnedEvent = std::unique_ptr<CUevent_st, internal::EventDeleter>;
OwnedStream NewStream();
OwnedEvent NewEvent();  // with a time stamp

// In stream order. Host memory is read or written when the stream gets there: pinned memory, or
// memory that lives until the stream is synchronized.
void CopyToDevice(void* to, const void* from, size_t bytes, Stream stream);
void CopyToHost(void* to, const void* from, size_t bytes, Stream stream);
void CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream);
void FillBytes(void* to, unsigned char value, size_t bytes, Stream stream);

void Record(Event event, Stream stream);
void WaitFor(Event event, Stream stream);  // the stream waits, not the caller
void Synchronize(Stream stream);           // the caller waits
void Synchronize(Event event);
double MillisecondsBetween(Event start, Event end);  // both reached

// What was launched on `stream` between BeginCapture and EndCapture, to be launched again with the
// same arguments as often as wanted.
using ExecutableGraph = std::unique_ptr<void, internal::GraphDeleter>;
void BeginCapture(Stream stream);
ExecutableGraph EndCapture(Stream stream);
void LaunchGraph(const ExecutableGraph& graph, Stream stream);

}  // namespace tandem::gpu_worker::cuda
