// mbarriers and the copy engine of the emulator.
#include <cstring>

#include "gpu_worker/backend/cuda/emulator/hopper_state.h"
#include "gpu_worker/backend/cuda/simt/hopper_cluster.h"
#include "gpu_worker/backend/cuda/simt/tensor_map.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace emulator {
namespace {

// What an emulated TensorMap holds.
struct MapContent {
  uint64_t mark = 0;
  TensorMapSpec spec;
};
static_assert(sizeof(MapContent) <= sizeof(TensorMap));
static_assert(std::is_trivially_copyable_v<MapContent>);
constexpr uint64_t kMapMark = 0x70616d726f736e74;  // "tensormap" without an e

// PTX ISA: counts of an mbarrier are at most 2^20 - 1.
constexpr uint32_t kMbarrierCountMax = (1u << 20) - 1;
constexpr uint32_t kTmaAlignBytes = 128;

// Written where an mbarrier lies, so that data over it is found out.
constexpr uint64_t kMbarrierMark = 0x72656972726162fd;

Mbarrier& MbarrierAt(uint32_t address) {
  const auto found = Hopper().mbarriers.find(address);
  if (found == Hopper().mbarriers.end()) Fail("an mbarrier is used that was not initialized");
  if (std::memcmp(SharedPointer(address, 8), &kMbarrierMark, 8) != 0) {
    Fail("an mbarrier has been written over");
  }
  return found->second;
}

void EndPhaseIfComplete(Mbarrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.count;
  ++barrier.phase;
}

void BytesHaveCome(uint32_t address, int64_t bytes) {
  Mbarrier& barrier = MbarrierAt(address);
  barrier.bytes -= bytes;
  EndPhaseIfComplete(barrier);
}

void CheckReachable(uint32_t address) {
  if (!MbarrierAt(address).fenced) {
    Fail("the copy engine is given an mbarrier that was not fenced after its initialization");
  }
}

TensorMapSpec SpecOf(const TensorMap& map) {
  MapContent content;
  std::memcpy(static_cast<void*>(&content), &map, sizeof(content));
  if (content.mark != kMapMark) Fail("a tensor map was not made by MakeTensorMap");
  return content.spec;
}

void CheckBoxAddress(const TensorMapSpec& spec, uint32_t address) {
  if (address % kTmaAlignBytes != 0) Fail("a box of TMA at an address that is no multiple of 128");
  if (spec.swizzle_128 && address % kSwizzleBlockBytes != 0) {
    Fail("a swizzled box of TMA at an address that is no multiple of 1024");
  }
}

// Calls row(shared address of a row's start in the box, the row in device memory or null where it
// is outside of the tensor, first and last value of it that are inside).
template <typename Row>
void ForRows(const TensorMapSpec& spec, const std::array<int, kTensorRankMax>& at, Row row) {
  const int64_t row_bytes = spec.box[0] * BytesOf(spec.element);
  uint32_t offset = 0;
  const int depth = spec.rank == 3 ? static_cast<int>(spec.box[2]) : 1;
  for (int z = 0; z < depth; ++z) {
    for (int y = 0; y < static_cast<int>(spec.box[1]); ++y, offset += row_bytes) {
      const int64_t line = int64_t{at[1]} + y, plane = int64_t{at[2]} + z;
      const bool inside = line >= 0 && line < spec.sizes[1] &&
                          (spec.rank < 3 || (plane >= 0 && plane < spec.sizes[2]));
      const auto* base = static_cast<const unsigned char*>(spec.base) +
                         line * spec.strides_bytes[0] +
                         (spec.rank == 3 ? plane * spec.strides_bytes[1] : 0);
      row(offset, inside ? base : nullptr);
    }
  }
}

// Bytes [begin, begin + count) of unit-wise addresses of a row in shared memory.
uint32_t AddressIn(const TensorMapSpec& spec, uint32_t address) {
  return spec.swizzle_128 ? Swizzle128(address) : address;
}

void DoLoad(const TensorMapSpec& spec, const std::array<int, kTensorRankMax>& at, uint32_t to) {
  const int64_t width = BytesOf(spec.element);
  ForRows(spec, at, [&](uint32_t offset, const unsigned char* row) {
    for (int64_t i = 0; i < spec.box[0]; ++i) {
      const int64_t x = at[0] + i;
      const uint64_t zero = 0;
      const bool inside = row != nullptr && x >= 0 && x < spec.sizes[0];
      WriteShared(AddressIn(spec, to + offset + static_cast<uint32_t>(i * width)),
                  inside ? static_cast<const void*>(row + x * width) : &zero,
                  static_cast<size_t>(width));
    }
  });
}

void DoStore(const TensorMapSpec& spec, const std::array<int, kTensorRankMax>& at, uint32_t from) {
  const int64_t width = BytesOf(spec.element);
  ForRows(spec, at, [&](uint32_t offset, const unsigned char* row) {
    for (int64_t i = 0; row != nullptr && i < spec.box[0]; ++i) {
      const int64_t x = at[0] + i;
      if (x < 0 || x >= spec.sizes[0]) continue;
      const uint32_t address = AddressIn(spec, from + offset + static_cast<uint32_t>(i * width));
      std::memcpy(const_cast<unsigned char*>(row) + x * width,
                  ViewPointer(address, static_cast<size_t>(width)), static_cast<size_t>(width));
    }
  });
}

int64_t BoxBytes(const TensorMapSpec& spec) {
  int64_t bytes = BytesOf(spec.element);
  for (int i = 0; i < spec.rank; ++i) bytes *= spec.box[i];
  return bytes;
}

std::array<int, kTensorRankMax> Coordinates(const TensorMapSpec& spec, int rank, const int* at) {
  if (spec.rank != rank) Fail("a tensor map has other dimensions than the copy that uses it");
  return {at[0], at[1], rank == 3 ? at[2] : 0};
}

}  // namespace

HopperState& Hopper() {
  std::unique_ptr<BlockState>& state = StateOfBlock();
  if (state == nullptr) {
    auto mine = std::make_unique<HopperState>();
    mine->view.assign(SharedBytes(), 0xff);
    state = std::move(mine);
  }
  return static_cast<HopperState&>(*state);
}

void HopperState::Finish() {
  for (const auto& [thread, store] : stores) {
    if (!store.open.empty() || !store.groups.empty()) {
      Fail("a block ended before its shared memory was read by TMA stores");
    }
  }
  for (const auto& [warpgroup, state] : warpgroups) {
    if (!state.open.empty() || !state.groups.empty()) {
      Fail("a block ended before its wgmmas were waited for");
    }
  }
}

const unsigned char* ViewPointer(uint32_t address, size_t bytes) {
  SharedPointer(address, bytes);  // checks
  return Hopper().view.data() + address;
}

void WriteShared(uint32_t address, const void* from, size_t bytes) {
  std::memcpy(SharedPointer(address, bytes), from, bytes);
  std::memcpy(Hopper().view.data() + address, from, bytes);
}

void MbarrierInit(uint64_t* barrier, uint32_t count) {
  const uint32_t address = SharedAddress(barrier);
  if (address % 8 != 0) Fail("an mbarrier at an address that is no multiple of 8");
  if (count < 1 || count > kMbarrierCountMax) Fail("an mbarrier's count is not 1 to 2^20 - 1");
  std::memcpy(SharedPointer(address, 8), &kMbarrierMark, 8);
  if (!Hopper().mbarriers.emplace(address, Mbarrier{count, count, 0, 0, false}).second) {
    Fail("an mbarrier is initialized twice");
  }
}

void MbarrierFenceInit() {
  for (auto& [address, barrier] : Hopper().mbarriers) barrier.fenced = true;
}

void MbarrierArrive(uint64_t* barrier, uint32_t expect_bytes) {
  Mbarrier& state = MbarrierAt(SharedAddress(barrier));
  if (state.pending == 0) Fail("an mbarrier gets more arrivals in a phase than it counts");
  state.bytes += expect_bytes;
  --state.pending;
  EndPhaseIfComplete(state);
  Yield();
}

void MbarrierWait(uint64_t* barrier, uint32_t parity) {
  if (parity > 1) Fail("a parity is neither 0 nor 1");
  struct Wait {
    const Mbarrier* barrier;
    uint32_t parity;
  } wait{&MbarrierAt(SharedAddress(barrier)), parity};
  WaitUntil(
      [](void* argument) {
        const Wait& w = *static_cast<const Wait*>(argument);
        return w.barrier->phase % 2 != w.parity;
      },
      &wait, "an mbarrier");
}

void AsyncProxyFence() {
  std::vector<unsigned char>& view = Hopper().view;
  if (!view.empty()) std::memcpy(view.data(), SharedMemory(), view.size());
}

void TmaLoad(void* to, const TensorMap& map, int rank, const int* at, uint64_t* barrier) {
  const TensorMapSpec spec = SpecOf(map);
  const uint32_t target = SharedAddress(to), signal = SharedAddress(barrier);
  CheckBoxAddress(spec, target);
  CheckReachable(signal);
  Defer([spec, at = Coordinates(spec, rank, at), target, signal] {
    DoLoad(spec, at, target);
    BytesHaveCome(signal, BoxBytes(spec));
  });
}

void TmaLoadToAll(void* to, const TensorMap& map, int rank, const int* at, uint64_t* barrier,
                  uint32_t blocks) {
  if (blocks == 0 || blocks >> ClusterBlocks() != 0) {
    Fail("a copy to several blocks names some that the cluster does not have");
  }
  const uint32_t target = SharedAddress(to), signal = SharedAddress(barrier);
  for (int i = 0; i < ClusterBlocks(); ++i) {
    if ((blocks >> i & 1) == 0) continue;
    InBlock(i, [&] {
      TmaLoad(SharedPointer(target, 1), map, rank, at,
              reinterpret_cast<uint64_t*>(SharedPointer(signal, 8)));
    });
  }
}

void MbarrierArriveAt(uint64_t* barrier, int block) {
  const uint32_t address = SharedAddress(barrier);
  InBlock(block, [address] {
    Mbarrier& state = MbarrierAt(address);
    if (state.pending == 0) Fail("an mbarrier gets more arrivals in a phase than it counts");
    --state.pending;
    EndPhaseIfComplete(state);
  });
  Yield();
}

void StoreAt(void* to, int block, const void* from, size_t bytes) {
  const uint32_t address = SharedAddress(to);
  if (address % bytes != 0) Fail("a store to another block at an address that is no multiple");
  InBlock(block, [=] { std::memcpy(SharedPointer(address, bytes), from, bytes); });
}

void BulkLoad(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  const uint32_t target = SharedAddress(to), signal = SharedAddress(barrier);
  if (target % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes % 16 != 0) {
    Fail("a bulk copy whose addresses and bytes are not multiples of 16");
  }
  CheckReachable(signal);
  Defer([=] {
    WriteShared(target, from, bytes);
    BytesHaveCome(signal, bytes);
  });
}

void TmaStore(const TensorMap& map, int rank, const int* at, const void* from) {
  const TensorMapSpec spec = SpecOf(map);
  const uint32_t source = SharedAddress(from);
  CheckBoxAddress(spec, source);
  const auto where = Coordinates(spec, rank, at);
  if (Random() % 2 == 1) return DoStore(spec, where, source);  // as early as it may be
  Hopper().stores[LinearThread()].open.push_back([=] { DoStore(spec, where, source); });
}

void TmaStoreCommit() {
  StoreGroups& stores = Hopper().stores[LinearThread()];
  stores.groups.push_back(std::move(stores.open));
  stores.open.clear();
}

void TmaStoreWait(int groups_pending_max) {
  StoreGroups& stores = Hopper().stores[LinearThread()];
  while (static_cast<int>(stores.groups.size()) > groups_pending_max) {
    for (const auto& store : stores.groups.front()) store();
    stores.groups.pop_front();
  }
}

// The kernel is compiled for one number of registers; what matters here is that all four warps of a
// warpgroup ask.
void CheckRegisters(int registers) {
  int mine = registers;
  WarpgroupCollective(mine, [](int* const* lanes) {
    for (int i = 0; i < kWarpgroupThreads; ++i) {
      if (*lanes[i] != *lanes[0]) Fail("threads of a warpgroup ask for different registers");
    }
  });
}

}  // namespace emulator

TensorMap MakeTensorMap(const TensorMapSpec& spec) {
  const std::string problem = TensorMapProblem(spec);
  if (!problem.empty()) base::CheckFailed(__FILE__, __LINE__, problem);
  const emulator::MapContent content{emulator::kMapMark, spec};
  TensorMap map{};
  std::memcpy(&map, &content, sizeof(content));
  return map;
}

}  // namespace tandem::gpu_worker::cuda
