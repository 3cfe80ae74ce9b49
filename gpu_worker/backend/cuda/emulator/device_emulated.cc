// The device of device.h for tests on the CPU: one "GPU" of the emulator. Everything on a stream
// happens at once; graphs record what would have been done and do it when launched.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/emulator/stream.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

using Work = std::function<void()>;
using Graph = std::vector<Work>;

// As much as tests need; a plan that wants more must be refused in the device's way.
constexpr size_t kMemoryBytes = size_t{4} << 30;
constexpr size_t kAlign = 256;
// Of an H100 and H200: 227 KiB for a block.
constexpr size_t kSharedBytesMax = size_t{227} << 10;

struct EmulatedStream {
  bool capturing = false;
  Graph recorded;
};
struct EmulatedEvent {
  std::chrono::steady_clock::time_point when;
};

EmulatedStream& Of(Stream stream) {
  TANDEM_CHECK(stream != nullptr);
  return *reinterpret_cast<EmulatedStream*>(stream);
}

void Do(Stream stream, Work work) {
  EmulatedStream& s = Of(stream);
  if (s.capturing) {
    s.recorded.push_back(std::move(work));
  } else {
    work();
  }
}

absl::StatusOr<void*> Allocate(size_t bytes, const char* what) {
  void* pointer = nullptr;
  if (bytes > kMemoryBytes || posix_memalign(&pointer, kAlign, bytes) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("expected room for ", bytes, " bytes of ",
                                                     what, " memory, found ", kMemoryBytes));
  }
  std::memset(pointer, 0xff, bytes);
  return pointer;
}

}  // namespace

namespace emulator {
void LaunchKernel(const LaunchShape& shape, Stream stream, std::function<void()> kernel) {
  TANDEM_CHECK_LE(shape.shared_bytes, kSharedBytesMax);
  Do(stream, [shape, kernel = std::move(kernel)] { RunKernel(shape, kernel); });
}
}  // namespace emulator

int DeviceCount() { return 1; }

absl::StatusOr<DeviceProperties> UseDevice(int index) {
  if (index != 0) {
    return absl::NotFoundError(absl::StrCat("expected CUDA device ", index, ", found 1 devices"));
  }
  DeviceProperties p;
  p.name = "emulator";
  p.major = 9;
  p.multiprocessors = 4;
  p.memory_bytes = p.free_bytes = kMemoryBytes;
  p.shared_bytes_max = kSharedBytesMax;
  p.l2_bytes = size_t{1} << 20;
  p.emulated = true;
  return p;
}

void MakeCurrent(int index) { TANDEM_CHECK_EQ(index, 0); }

namespace internal {
void FreeDevice(void* pointer) { std::free(pointer); }
void FreePinned(void* pointer) { std::free(pointer); }
void DestroyStream(Stream stream) { delete &Of(stream); }
void DestroyEvent(Event event) { delete reinterpret_cast<EmulatedEvent*>(event); }
void DestroyGraph(void* graph) { delete static_cast<Graph*>(graph); }
}  // namespace internal

absl::StatusOr<DeviceMemory> AllocateDevice(size_t bytes) {
  if (bytes == 0) return DeviceMemory();
  absl::StatusOr<void*> pointer = Allocate(bytes, "device");
  if (!pointer.ok()) return pointer.status();
  return DeviceMemory(*pointer, bytes);
}
absl::StatusOr<PinnedMemory> AllocatePinned(size_t bytes) {
  if (bytes == 0) return PinnedMemory();
  absl::StatusOr<void*> pointer = Allocate(bytes, "pinned host");
  if (!pointer.ok()) return pointer.status();
  return PinnedMemory(*pointer, bytes);
}

OwnedStream NewStream() { return OwnedStream(reinterpret_cast<Stream>(new EmulatedStream)); }
OwnedEvent NewEvent() { return OwnedEvent(reinterpret_cast<Event>(new EmulatedEvent)); }

void CopyToDevice(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes > 0) Do(stream, [=] { std::memcpy(to, from, bytes); });
}
void CopyToHost(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes > 0) Do(stream, [=] { std::memcpy(to, from, bytes); });
}
void CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes > 0) Do(stream, [=] { std::memmove(to, from, bytes); });
}
void FillBytes(void* to, unsigned char value, size_t bytes, Stream stream) {
  if (bytes > 0) Do(stream, [=] { std::memset(to, value, bytes); });
}

void Record(Event event, Stream stream) {
  Do(stream,
     [event] { reinterpret_cast<EmulatedEvent*>(event)->when = std::chrono::steady_clock::now(); });
}
void WaitFor(Event, Stream) {}
void Synchronize(Stream stream) { TANDEM_CHECK(!Of(stream).capturing); }
void Synchronize(Event) {}
double MillisecondsBetween(Event start, Event end) {
  const auto when = [](Event event) { return reinterpret_cast<EmulatedEvent*>(event)->when; };
  return std::chrono::duration<double, std::milli>(when(end) - when(start)).count();
}

void BeginCapture(Stream stream) {
  TANDEM_CHECK(!Of(stream).capturing);
  Of(stream) = {true, {}};
}
ExecutableGraph EndCapture(Stream stream) {
  TANDEM_CHECK(Of(stream).capturing);
  auto* graph = new Graph(std::move(Of(stream).recorded));
  Of(stream) = {};
  return ExecutableGraph(graph);
}
void LaunchGraph(const ExecutableGraph& graph, Stream stream) {
  const Graph& works = *static_cast<const Graph*>(graph.get());
  Do(stream, [&works] {
    for (const Work& work : works) work();
  });
}

}  // namespace tandem::gpu_worker::cuda
