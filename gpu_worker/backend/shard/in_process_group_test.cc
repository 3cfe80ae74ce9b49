// Ranks as threads: what they gather, that nothing is read too early or late, and that whoever does
// not come is named in time, on every rank alike.
#include "gpu_worker/backend/shard/in_process_group.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>
#include <vector>

#include "absl/time/clock.h"

namespace tandem::gpu_worker {
namespace {

// Calls body(collective of the rank) on a thread each.
void OnRanks(InProcessGroup& group, const std::function<void(Collective&)>& body) {
  std::vector<std::thread> threads;
  for (int r = 0; r < group.ranks(); ++r) {
    threads.emplace_back([&group, &body, r] { body(*group.Rank(r)); });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(InProcessGroupTest, PartsLieInOrderOfRanks) {
  for (const int ranks : {1, 2, 3, 8}) {
    const auto group = InProcessGroup::Make(ranks, absl::Seconds(30));
    OnRanks(*group, [&](Collective& c) {
      EXPECT_EQ(c.ranks(), ranks);
      for (uint32_t round = 0; round < 200; ++round) {
        const std::vector<uint32_t> part(5, round * 100 + static_cast<uint32_t>(c.rank()));
        std::vector<uint32_t> whole(part.size() * static_cast<size_t>(ranks));
        ASSERT_TRUE(c.AllGather(part.data(), whole.data(), part.size() * 4, nullptr).ok());
        for (size_t i = 0; i < whole.size(); ++i) ASSERT_EQ(whole[i], round * 100 + i / 5);
      }
    });
  }
}

TEST(InProcessGroupTest, APartMayBeItsOwnPlaceAndBeOverwrittenAfterwards) {
  const auto group = InProcessGroup::Make(4, absl::Seconds(30));
  OnRanks(*group, [](Collective& c) {
    std::vector<int> whole(4, -1);
    for (int round = 0; round < 500; ++round) {
      int& part = whole[c.rank()];
      part = round * 4 + c.rank();
      ASSERT_TRUE(c.AllGather(&part, whole.data(), sizeof(int), nullptr).ok());
      for (int r = 0; r < 4; ++r) ASSERT_EQ(whole[r], round * 4 + r);
    }
  });
}

TEST(InProcessGroupTest, NothingIsGatheredFromNothing) {
  const auto group = InProcessGroup::Make(2, absl::Seconds(30));
  OnRanks(*group, [](Collective& c) {
    char byte = 0;
    EXPECT_TRUE(c.AllGather(&byte, &byte, 0, nullptr).ok());
  });
}

TEST(InProcessGroupTest, ASlowRankIsWaitedFor) {
  const auto group = InProcessGroup::Make(3, absl::Seconds(30));
  OnRanks(*group, [](Collective& c) {
    int part = c.rank() + 7, whole[3] = {};
    if (c.rank() == 1) absl::SleepFor(absl::Milliseconds(200));
    ASSERT_TRUE(c.AllGather(&part, whole, sizeof(int), nullptr).ok());
    for (int r = 0; r < 3; ++r) EXPECT_EQ(whole[r], r + 7);
    EXPECT_TRUE(c.Barrier().ok());
  });
}

TEST(InProcessGroupTest, WhoDoesNotComeIsNamedOnEveryRank) {
  const auto group = InProcessGroup::Make(4, absl::Milliseconds(200));
  const absl::Time begin = absl::Now();
  OnRanks(*group, [](Collective& c) {
    if (c.rank() == 2) return;  // gone
    int part = 1, whole[4] = {};
    const absl::Status status = c.AllGather(&part, whole, sizeof(int), nullptr);
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(status.message(), "rank 2 of 4 did not come to meeting 0 within 200ms");
    EXPECT_EQ(c.Barrier(), status) << "the error is final";
    EXPECT_EQ(c.status(), status);
  });
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(200));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_EQ(group->Rank(2)->Barrier(), group->status()) << "a late rank hears the same";
}

TEST(InProcessGroupTest, SeveralThatDoNotCome) {
  const auto group = InProcessGroup::Make(4, absl::Milliseconds(50));
  EXPECT_EQ(group->Rank(1)->Barrier().message(),
            "ranks 0, 2, 3 of 4 did not come to meeting 0 within 50ms");
}

TEST(InProcessGroupTest, AnAbortEndsAllWaits) {
  const auto group = InProcessGroup::Make(3, absl::Seconds(600));
  const absl::Status why = absl::InternalError("rank 0 lost its device");
  const absl::Time begin = absl::Now();
  OnRanks(*group, [&](Collective& c) {
    if (c.rank() == 0) {
      absl::SleepFor(absl::Milliseconds(50));
      c.Abort(why);
      c.Abort(absl::InternalError("too late to matter"));
    } else {
      EXPECT_EQ(c.Barrier(), why);
    }
    EXPECT_EQ(c.status(), why);
  });
  EXPECT_LT(absl::Now() - begin, absl::Seconds(60));
}

TEST(InProcessGroupDeathTest, RanksInDifferentCallsAreABug) {
  EXPECT_DEATH(
      {
        const auto group = InProcessGroup::Make(2, absl::Seconds(30));
        OnRanks(*group, [](Collective& c) {
          int part[2] = {}, whole[4] = {};
          (void)c.AllGather(part, whole, c.rank() == 0 ? 4 : 8, nullptr);
        });
      },
      "CHECK failed");
}

}  // namespace
}  // namespace tandem::gpu_worker
