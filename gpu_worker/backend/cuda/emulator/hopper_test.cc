// Mistakes with Hopper's words that the emulator has to show, and the properties of its swizzle.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "gpu_worker/backend/cuda/emulator/emulator.h"
#include "gpu_worker/backend/cuda/simt/hopper_cluster.h"
#include "gpu_worker/backend/cuda/simt/hopper_wgmma.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr size_t kTileBytes = 64 * 128;

void RunBlock(unsigned threads, size_t shared_bytes, const std::function<void()>& kernel) {
  emulator::RunKernel({emulator::dim3(1), emulator::dim3(threads), shared_bytes}, kernel);
}

TEST(Swizzle, IsABijectionThatKeepsBytesOfAUnitTogether) {
  std::set<uint32_t> seen;
  for (uint32_t at = 0; at < 4096; ++at) {
    const uint32_t to = Swizzle128(at);
    EXPECT_EQ(to / 128, at / 128);
    EXPECT_EQ(to % 16, at % 16);
    EXPECT_EQ(Swizzle128(to), at);
    seen.insert(to);
  }
  EXPECT_EQ(seen.size(), 4096u);
}

// Eight lanes read a 16-byte unit each at a time: eight rows of one column of units, or eight units
// of a row, lie in eight different groups of four banks.
TEST(Swizzle, HasNoBankConflicts) {
  for (uint32_t unit = 0; unit < 8; ++unit) {
    std::set<uint32_t> column, row;
    for (uint32_t i = 0; i < 8; ++i) {
      column.insert(Swizzle128(i * 128 + unit * 16) % 128 / 16);
      row.insert(Swizzle128(unit * 128 + i * 16) % 128 / 16);
    }
    EXPECT_EQ(column.size(), 8u);
    EXPECT_EQ(row.size(), 8u);
  }
}

// Ones in both operands, written by threads; what one product of k = 16 gives.
template <typename Before>
void Product(float* out, Before before) {
  RunBlock(128, 2 * kTileBytes, [=] {
    unsigned char* const tile = SharedMemory();
    for (size_t i = threadIdx.x; i < kTileBytes; i += 128) {
      reinterpret_cast<Bf16*>(tile)[i] = ToBf16(1.0f);
    }
    float d[32];
    before();
    WgmmaBf16<64>(d, KMajorDescriptor(tile), KMajorDescriptor(tile + kTileBytes), 0);
    WgmmaCommit();
    EXPECT_TRUE(std::isnan(d[0]));  // under way
    WgmmaWait<0>(d);
    out[threadIdx.x] = d[5];
  });
}

TEST(Wgmma, SeesWhatWasFenced) {
  std::vector<float> out(128);
  for (uint64_t seed = 0; seed < 4; ++seed) {
    emulator::SetSeed(seed);
    Product(out.data(), [] {
      FenceAsyncProxy();
      __syncthreads();
      WgmmaFence();
    });
    for (const float value : out) EXPECT_EQ(value, 16.0f);
  }
  emulator::SetSeed(0);
}

TEST(Wgmma, DoesNotSeeStoresWithoutAFenceOfTheAsyncProxy) {
  std::vector<float> out(128);
  Product(out.data(), [] {
    __syncthreads();
    WgmmaFence();
  });
  for (const float value : out) EXPECT_TRUE(std::isnan(value));
}

using HopperDeathTest = testing::Test;

TEST(HopperDeathTest, AWgmmaWithoutAFence) {
  float out[128];
  EXPECT_DEATH(Product(out, [] { __syncthreads(); }), "without a wgmma.fence");
}

TEST(HopperDeathTest, AnAccumulatorWrittenTooEarly) {
  EXPECT_DEATH(RunBlock(128, 2 * kTileBytes,
                        [] {
                          float d[32];
                          WgmmaFence();
                          const uint64_t tile = KMajorDescriptor(SharedMemory());
                          WgmmaBf16<64>(d, tile, tile, 0);
                          WgmmaCommit();
                          d[3] = 1.0f;
                          WgmmaWait<0>(d);
                        }),
               "accumulator was written");
}

TEST(HopperDeathTest, AWgmmaNobodyWaitsFor) {
  EXPECT_DEATH(RunBlock(128, 2 * kTileBytes,
                        [] {
                          float d[32];
                          WgmmaFence();
                          const uint64_t tile = KMajorDescriptor(SharedMemory());
                          WgmmaBf16<64>(d, tile, tile, 0);
                          WgmmaCommit();
                        }),
               "before its wgmmas were waited for");
}

TEST(HopperDeathTest, ADescriptorThatLeavesSharedMemory) {
  EXPECT_DEATH(RunBlock(128, kTileBytes,
                        [] {
                          float d[64];
                          WgmmaFence();
                          const uint64_t tile = KMajorDescriptor(SharedMemory());
                          WgmmaBf16<128>(d, tile, tile, 0);
                          WgmmaCommit();
                          WgmmaWait<0>(d);
                        }),
               "outside of shared memory");
}

TEST(HopperDeathTest, ABarrierThatWasNotInitialized) {
  EXPECT_DEATH(RunBlock(1, 16, [] { MbarrierArrive(reinterpret_cast<uint64_t*>(SharedMemory())); }),
               "not initialized");
}

TEST(HopperDeathTest, ABarrierThatTheCopyEngineDoesNotKnow) {
  alignas(16) static const float source[4] = {};
  EXPECT_DEATH(RunBlock(1, 32,
                        [] {
                          auto* const barrier = reinterpret_cast<uint64_t*>(SharedMemory() + 16);
                          MbarrierInit(barrier, 1);
                          BulkLoad(SharedMemory(), source, 16, barrier);
                        }),
               "not fenced");
}

TEST(HopperDeathTest, MoreBytesExpectedThanCome) {
  alignas(16) static const float source[4] = {};
  EXPECT_DEATH(RunBlock(1, 32,
                        [] {
                          auto* const barrier = reinterpret_cast<uint64_t*>(SharedMemory() + 16);
                          MbarrierInit(barrier, 1);
                          MbarrierFenceInit();
                          MbarrierArriveExpect(barrier, 32);
                          BulkLoad(SharedMemory(), source, 16, barrier);
                          MbarrierWait(barrier, 0);
                        }),
               "cannot go on.*an mbarrier");
}

TEST(HopperDeathTest, ACopyNobodyWaitsFor) {
  alignas(16) static const float source[4] = {};
  EXPECT_DEATH(RunBlock(1, 32,
                        [] {
                          auto* const barrier = reinterpret_cast<uint64_t*>(SharedMemory() + 16);
                          MbarrierInit(barrier, 1);
                          MbarrierFenceInit();
                          BulkLoad(SharedMemory(), source, 16, barrier);
                        }),
               "copies to it were under way");
}

TEST(HopperDeathTest, ABlockThatEndsBeforeAnotherReachesIt) {
  const emulator::LaunchShape shape = {2, 1, 16, 2};
  const auto store = [] {
    if (blockIdx.x == 1) Store16At(SharedMemory(), 0, {});
  };
  EXPECT_DEATH(
      {
        emulator::SetSeed(0);  // block 0 first
        emulator::RunKernel(shape, store);
      },
      "has ended");
}

TEST(HopperDeathTest, ABlockThatDoesNotComeToTheClustersBarrier) {
  const emulator::LaunchShape shape = {2, 1, 16, 2};
  const auto wait = [] {
    if (blockIdx.x == 1) return;
    ClusterArrive();
    ClusterWait();
  };
  EXPECT_DEATH(emulator::RunKernel(shape, wait), "cannot go on.*the cluster's barrier");
}

TEST(HopperDeathTest, ABoxAtACrookedAddress) {
  alignas(16) static const unsigned char tensor[64 * 128] = {};
  const TensorMap map = MakeTensorMap({.element = TensorElement::kByte,
                                       .base = tensor,
                                       .sizes = {128, 64, 1},
                                       .strides_bytes = {128, 0},
                                       .box = {128, 8, 1},
                                       .swizzle_128 = true});
  EXPECT_DEATH(RunBlock(1, 4096,
                        [map] {
                          auto* const barrier = reinterpret_cast<uint64_t*>(SharedMemory());
                          MbarrierInit(barrier, 1);
                          MbarrierFenceInit();
                          TmaLoad2d(SharedMemory() + 128, map, 0, 0, barrier);
                        }),
               "multiple of 1024");
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
