// What the emulator is for: mistakes that a GPU would hide until a bad day must show.
#include "gpu_worker/backend/cuda/emulator/emulator.h"

#include <gtest/gtest.h>

#include <vector>

#include "gpu_worker/backend/cuda/simt/async_copy.h"
#include "gpu_worker/backend/cuda/simt/simt.h"

namespace tandem::gpu_worker::cuda {
namespace {

using emulator::RunKernel;
using emulator::SetSeed;

void RunBlock(unsigned threads, size_t shared_bytes, const std::function<void()>& kernel) {
  RunKernel({emulator::dim3(1), emulator::dim3(threads), shared_bytes}, kernel);
}

TEST(Emulator, CoversGridAndBlockOnce) {
  std::vector<int> seen(2 * 3 * 64);
  RunKernel({emulator::dim3(2, 3), emulator::dim3(64), 0},
            [&] { ++seen[(blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x]; });
  for (const int count : seen) EXPECT_EQ(count, 1);
}

TEST(Emulator, SharedMemoryIsPoisonedForEachBlock) {
  RunKernel({emulator::dim3(2), emulator::dim3(1), 64}, [] {
    for (int i = 0; i < 64; ++i) EXPECT_EQ(SharedMemory()[i], 0xff);
    SharedMemory()[5] = 1;
  });
}

// Thread 0 reads what thread 63 writes, without a barrier: wrong for some order.
TEST(Emulator, AMissingBarrierShowsUnderSomeSeed) {
  int wrong = 0;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    SetSeed(seed);
    RunBlock(64, 4, [&] {
      int* const shared = reinterpret_cast<int*>(SharedMemory());
      if (threadIdx.x == 63) *shared = 7;
      if (threadIdx.x == 0 && *shared != 7) ++wrong;
    });
  }
  EXPECT_GT(wrong, 0);
  for (uint64_t seed = 0; seed < 8; ++seed) {
    SetSeed(seed);
    RunBlock(64, 4, [&] {
      int* const shared = reinterpret_cast<int*>(SharedMemory());
      if (threadIdx.x == 63) *shared = 7;
      __syncthreads();
      if (threadIdx.x == 0) {
        EXPECT_EQ(*shared, 7);
      }
    });
  }
  SetSeed(0);
}

TEST(Emulator, ACopyIsNotThereBeforeItsWait) {
  alignas(16) const float source[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  RunBlock(1, 32, [&] {
    float* const shared = reinterpret_cast<float*>(SharedMemory());
    CopyAsync16(shared, source);
    CommitAsyncCopies();
    CopyAsync16(shared + 4, source + 4);
    CommitAsyncCopies();
    EXPECT_TRUE(std::isnan(shared[0]));
    WaitAsyncCopies<1>();
    EXPECT_EQ(shared[3], 4.0f);
    EXPECT_TRUE(std::isnan(shared[4]));
    WaitAsyncCopies<0>();
    EXPECT_EQ(shared[7], 8.0f);
  });
}

TEST(Emulator, DeferredWorkHappensWhenAllWait) {
  bool arrived = false;
  RunBlock(32, 0, [&] {
    if (threadIdx.x == 0) emulator::Defer([&] { arrived = true; });
    emulator::WaitUntil([](void* flag) { return *static_cast<bool*>(flag); }, &arrived, "a copy");
    EXPECT_TRUE(arrived);
  });
}

TEST(Emulator, NamedBarriersPairProducersAndConsumers) {
  std::vector<int> order;
  RunBlock(96, 0, [&] {
    if (WarpId() < 2) {
      if (threadIdx.x == 0) order.push_back(1);
      emulator::BarrierArrive(3, 96);
    } else {
      emulator::BarrierSync(3, 96);
      if (LaneId() == 0) order.push_back(2);
    }
  });
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

using EmulatorDeathTest = testing::Test;

TEST(EmulatorDeathTest, ABarrierThatNotAllReachSaysSo) {
  EXPECT_DEATH(RunBlock(32, 0,
                        [] {
                          if (threadIdx.x > 3) __syncthreads();
                        }),
               "cannot go on.*__syncthreads");
}

TEST(EmulatorDeathTest, DivergedLanesAreFoundOut) {
  EXPECT_DEATH(RunBlock(32, 0,
                        [] {
                          if (threadIdx.x < 16) {
                            __shfl_xor_sync(kFullWarp, 1, 1);
                          } else {
                            __ballot_sync(kFullWarp, true);
                          }
                        }),
               "different operations");
}

TEST(EmulatorDeathTest, AnAddressOutsideOfSharedMemoryIsFoundOut) {
  EXPECT_DEATH(RunBlock(1, 64, [] { emulator::SharedPointer(60, 8); }), "outside of shared memory");
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
