// NCCL on a GPU, with one rank, and with as many as there are GPUs: a gather, the same in a
// replayed graph, and the watchdog.
#include "gpu_worker/backend/shard/nccl_group.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gpu_worker/backend/cuda/device/device.h"

namespace tandem::gpu_worker {
namespace {

constexpr size_t kBytes = 1 << 16;

std::vector<unsigned char> PartOf(int rank, int round) {
  std::vector<unsigned char> part(kBytes);
  for (size_t i = 0; i < kBytes; ++i)
    part[i] = static_cast<unsigned char>(i * 7 + rank * 31 + round);
  return part;
}

void ExpectWhole(const cuda::DeviceMemory& whole, int ranks, int round, cuda::Stream stream) {
  std::vector<unsigned char> got(kBytes * static_cast<size_t>(ranks));
  cuda::CopyToHost(got.data(), whole.data(), got.size(), stream);
  cuda::Synchronize(stream);
  for (int r = 0; r < ranks; ++r) {
    const std::vector<unsigned char> part = PartOf(r, round);
    EXPECT_TRUE(
        std::equal(part.begin(), part.end(), got.begin() + static_cast<ptrdiff_t>(r * kBytes)))
        << "part of rank " << r << " in round " << round;
  }
}

// Gathers eagerly, then in a graph that is replayed.
void GatherOnRank(NcclGroup& group, int rank) {
  ASSERT_TRUE(cuda::UseDevice(rank).ok());
  auto joined = group.Join(rank);
  ASSERT_TRUE(joined.ok()) << joined.status();
  Collective& c = **joined;
  auto part = cuda::AllocateDevice(kBytes);
  auto whole = cuda::AllocateDevice(kBytes * static_cast<size_t>(c.ranks()));
  ASSERT_TRUE(part.ok() && whole.ok());
  const cuda::OwnedStream stream = cuda::NewStream();
  const auto bring = [&](int round) {
    const std::vector<unsigned char> values = PartOf(rank, round);
    cuda::CopyToDevice(part->data(), values.data(), kBytes, stream.get());
    cuda::Synchronize(stream.get());
  };
  for (int round = 0; round < 3; ++round) {
    bring(round);
    ASSERT_TRUE(c.AllGather(part->data(), whole->data(), kBytes, stream.get()).ok());
    ExpectWhole(*whole, c.ranks(), round, stream.get());
  }
  cuda::BeginCapture(stream.get());
  ASSERT_TRUE(c.AllGather(part->data(), whole->data(), kBytes, stream.get()).ok());
  const cuda::ExecutableGraph graph = cuda::EndCapture(stream.get());
  for (int round = 3; round < 6; ++round) {
    bring(round);
    cuda::LaunchGraph(graph, stream.get());
    c.Watch(stream.get());
    ExpectWhole(*whole, c.ranks(), round, stream.get());
  }
  EXPECT_TRUE(c.Barrier().ok());
  EXPECT_TRUE(c.status().ok());
}

void GatherOn(int ranks) {
  auto group = NcclGroup::Make(ranks, absl::Seconds(60));
  ASSERT_TRUE(group.ok()) << group.status();
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) threads.emplace_back([&, r] { GatherOnRank(**group, r); });
  for (std::thread& thread : threads) thread.join();
}

TEST(NcclGroupTest, OneRank) { GatherOn(1); }

TEST(NcclGroupTest, AsManyRanksAsGpus) {
  const int gpus = cuda::DeviceCount();
  if (gpus < 2) GTEST_SKIP() << "expected several GPUs, found " << gpus;
  GatherOn(gpus);
}

TEST(NcclGroupTest, ARankThatDoesNotJoinIsAnErrorInTime) {
  auto group = NcclGroup::Make(2, absl::Seconds(3));
  ASSERT_TRUE(group.ok()) << group.status();
  const absl::Time begin = absl::Now();
  const auto joined = (*group)->Join(0);
  EXPECT_EQ(joined.status().code(), absl::StatusCode::kDeadlineExceeded) << joined.status();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(30));
  EXPECT_EQ((*group)->status(), joined.status());
}

}  // namespace
}  // namespace tandem::gpu_worker
