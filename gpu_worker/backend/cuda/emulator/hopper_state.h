// What the emulator remembers of a block that uses Hopper's words: mbarriers, the async proxy's
// view of shared memory, TMA stores and wgmmas under way.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "gpu_worker/backend/cuda/emulator/emulator.h"
#include "gpu_worker/backend/cuda/simt/hopper_wgmma.h"

namespace tandem::gpu_worker::cuda::emulator {

struct Mbarrier {
  uint32_t count = 0;    // arrivals of a phase
  uint32_t pending = 0;  // still missing in this one
  int64_t bytes = 0;     // expected and not yet here
  uint64_t phase = 0;
  bool fenced = false;  // the copy engine knows it
};

// Accumulators of a warpgroup, [64, n], while products on them are under way.
struct WgmmaAccumulator {
  int n = 0;
  std::array<float*, kWarpgroupThreads> registers;  // of each thread: n / 2
  std::vector<float> values;
  int products = 0;  // not yet waited for
};

struct WgmmaProduct {
  WgmmaShape shape;
  bool accumulate = false;
  bool a_in_registers = false;
  std::vector<float> a;  // [64, k] of registers
  uint64_t a_descriptor = 0, b_descriptor = 0;
  float* accumulator = nullptr;  // thread 0's, the name of it
  bool done = false;
};

struct WgmmaWarpgroup {
  bool fenced = false;
  std::map<float*, WgmmaAccumulator> accumulators;  // by thread 0's registers
  std::vector<WgmmaProduct> open;
  std::deque<std::vector<WgmmaProduct>> groups;
};

struct StoreGroups {
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> groups;
};

struct HopperState : BlockState {
  void Finish() override;
  std::map<uint32_t, Mbarrier> mbarriers;  // by shared address
  std::vector<unsigned char> view;         // shared memory as the async proxy sees it
  std::map<int, StoreGroups> stores;       // by thread
  std::map<int, WgmmaWarpgroup> warpgroups;
};

HopperState& Hopper();

// Shared memory of the async proxy.
const unsigned char* ViewPointer(uint32_t address, size_t bytes);
// A copy engine's write: both views.
void WriteShared(uint32_t address, const void* from, size_t bytes);

}  // namespace tandem::gpu_worker::cuda::emulator
