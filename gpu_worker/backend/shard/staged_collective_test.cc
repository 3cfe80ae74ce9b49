// Ranks that share one device, gathering its memory: the emulator's everywhere, a GPU's where there
// is one.
#include "gpu_worker/backend/shard/staged_collective.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "gpu_worker/backend/shard/device_parts.h"
#include "gpu_worker/backend/shard/in_process_group.h"

namespace tandem::gpu_worker::cuda {
namespace {

// The uint16 values whole[r, c] = 1000 r + c + salt, made by each rank's columns alone. Uneven
// parts, some of them empty.
void GatherRows(Collective& collective, const Split& split, int64_t rows, int salt, Stream stream) {
  const int rank = collective.rank();
  const int64_t width = split.part_max(), cols = split.total();
  const ShardRange own = split.of(rank);
  std::vector<uint16_t> part(rows * width, 0xffff);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < own.size(); ++c) {
      part[r * width + c] = static_cast<uint16_t>(1000 * r + own.begin + c + salt);
    }
  }
  const size_t bytes = part.size() * 2;
  auto device_part = AllocateDevice(bytes);
  auto device_parts = AllocateDevice(bytes * static_cast<size_t>(split.ranks()));
  auto device_whole = AllocateDevice(static_cast<size_t>(rows * cols) * 2);
  ASSERT_TRUE(device_part.ok() && device_parts.ok() && device_whole.ok());
  CopyToDevice(device_part->data(), part.data(), bytes, stream);
  ASSERT_TRUE(collective.AllGather(device_part->data(), device_parts->data(), bytes, stream).ok());
  MergePartsOnDevice(split, rows, 2, device_parts->data(), device_whole->data(), stream);
  std::vector<uint16_t> whole(rows * cols);
  CopyToHost(whole.data(), device_whole->data(), whole.size() * 2, stream);
  Synchronize(stream);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      ASSERT_EQ(whole[r * cols + c], static_cast<uint16_t>(1000 * r + c + salt));
    }
  }
}

void OnRanks(int ranks, const std::function<void(Collective&)>& body) {
  const auto group = InProcessGroup::Make(ranks, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      ASSERT_TRUE(UseDevice(0).ok());
      auto staged = MakeStagedCollective(group->Rank(r), 4096);
      ASSERT_TRUE(staged.ok()) << staged.status();
      body(**staged);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(StagedCollectiveTest, RowsOfAllRanksOnEveryRank) {
  for (const int ranks : {1, 2, 4}) {
    OnRanks(ranks, [&](Collective& c) {
      const OwnedStream one = NewStream(), other = NewStream();
      const Split even = SplitOutputs(64, 16, ranks), uneven = SplitOutputs(90, 16, ranks);
      for (int round = 0; round < 8; ++round) {
        const Stream stream = round % 3 == 0 ? one.get() : other.get();
        GatherRows(c, round % 2 == 0 ? even : uneven, 1 + round % 5, round * 7, stream);
      }
    });
  }
}

TEST(StagedCollectiveTest, ARankWithNothingToBring) {
  OnRanks(4, [](Collective& c) {
    const OwnedStream stream = NewStream();
    GatherRows(c, SplitOutputs(3, 1, 4), 2, 0, stream.get());
    EXPECT_TRUE(c.AllGather(nullptr, nullptr, 0, stream.get()).ok());
  });
}

TEST(StagedCollectiveTest, AnErrorReachesAllRanks) {
  OnRanks(2, [](Collective& c) {
    if (c.rank() == 1) c.Abort(absl::DataLossError("gone"));
    const OwnedStream stream = NewStream();
    auto memory = AllocateDevice(64);
    ASSERT_TRUE(memory.ok());
    EXPECT_EQ(c.AllGather(memory->data(), memory->data(), 16, stream.get()),
              absl::DataLossError("gone"));
  });
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
