#include "coordinator/membership/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"

namespace tandem::coordinator {
namespace {

ExpertShape Shape(uint32_t layers, uint32_t experts) {
  ExpertShape shape;
  for (uint32_t i = 0; i < layers; ++i) shape.moe_layers.push_back(i + 1);
  shape.experts_per_layer = experts;
  return shape;
}

std::vector<Candidate> Workers(int count) {
  std::vector<Candidate> workers;
  for (int i = 0; i < count; ++i) workers.push_back({absl::StrCat("cpu-", i), UINT64_MAX});
  return workers;
}

// What holds for any table: R different seats per expert, counts that add up, no seat beyond its
// memory.
void ExpectSound(const PlacementTable& table, const std::vector<Candidate>& workers,
                 uint32_t replicas) {
  ASSERT_EQ(table.owners.size(), table.shape.moe_layers.size());
  std::vector<uint64_t> counted(table.seats.size(), 0);
  for (const auto& layer : table.owners) {
    ASSERT_EQ(layer.size(), table.shape.experts_per_layer);
    for (const auto& owners : layer) {
      EXPECT_EQ(owners.size(), replicas);
      EXPECT_EQ(std::set<uint32_t>(owners.begin(), owners.end()).size(), owners.size());
      for (const uint32_t owner : owners) {
        ASSERT_LT(owner, table.seats.size());
        ++counted[owner];
      }
    }
  }
  for (size_t s = 0; s < table.seats.size(); ++s) {
    EXPECT_EQ(counted[s], table.seats[s].experts);
    for (const Candidate& worker : workers) {
      if (worker.worker_id != table.seats[s].worker_id) continue;
      EXPECT_LE(counted[s], worker.experts_max);
    }
  }
}

TEST(PlacementTest, EqualWorkersShareEachLayerEvenly) {
  for (int workers = 1; workers <= 7; ++workers) {
    const auto table = DealExperts(Shape(5, 64), Workers(workers), 1);
    ASSERT_TRUE(table.ok()) << table.status();
    ExpectSound(*table, Workers(workers), 1);
    for (const auto& layer : table->owners) {
      std::vector<int> counts(workers, 0);
      for (const auto& owners : layer) ++counts[owners[0]];
      const auto [low, high] = std::minmax_element(counts.begin(), counts.end());
      EXPECT_LE(*high - *low, 1) << workers << " workers";
    }
  }
}

TEST(PlacementTest, RandomClustersGetSoundProportionalTables) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    const auto shape = Shape(1 + random() % 6, 1 + random() % 40);
    const int count = 1 + random() % 8;
    const uint32_t replicas = 1 + random() % std::min(count, 3);
    std::vector<Candidate> workers = Workers(count);
    uint64_t room = 0;
    for (Candidate& worker : workers) {
      if (random() % 2 == 0) worker.experts_max = random() % (2 * shape.experts());
      room += std::min(worker.experts_max, shape.experts());
    }
    const auto table = DealExperts(shape, workers, replicas);
    if (room < shape.experts() * replicas) {
      EXPECT_EQ(table.status().code(), absl::StatusCode::kResourceExhausted);
      continue;
    }
    ASSERT_TRUE(table.ok()) << table.status();
    ExpectSound(*table, workers, replicas);
    // In each layer a worker has about its share of the whole: within replicas + 1 of the even
    // pace.
    for (const auto& layer : table->owners) {
      std::vector<double> in_layer(count, 0);
      for (const auto& owners : layer) {
        for (const uint32_t owner : owners) ++in_layer[owner];
      }
      for (int w = 0; w < count; ++w) {
        const double share = double(table->seats[w].experts) / shape.moe_layers.size();
        EXPECT_NEAR(in_layer[w], share, replicas + 1.0);
      }
    }
  }
}

TEST(PlacementTest, OrderOfRegistrationDoesNotMatter) {
  std::vector<Candidate> workers = Workers(5);
  workers[2].experts_max = 7;
  const auto a = DealExperts(Shape(3, 16), workers, 2);
  std::reverse(workers.begin(), workers.end());
  const auto b = DealExperts(Shape(3, 16), workers, 2);
  EXPECT_EQ(a->owners, b->owners);
}

TEST(PlacementTest, FirstChoicesAreEvenToo) {
  const auto table = DealExperts(Shape(4, 64), Workers(4), 2);
  std::vector<int> first(4, 0);
  for (const auto& layer : table->owners) {
    for (const auto& owners : layer) ++first[owners[0]];
  }
  for (const int count : first) EXPECT_NEAR(count, 64, 2);
}

TEST(PlacementTest, TooLittleIsRefusedWithNumbers) {
  EXPECT_EQ(DealExperts(Shape(1, 4), Workers(2), 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(DealExperts(Shape(1, 4), Workers(1), 2).status().message()),
              testing::HasSubstr("found 1"));
  std::vector<Candidate> small = Workers(2);
  small[0].experts_max = small[1].experts_max = 3;
  EXPECT_THAT(std::string(DealExperts(Shape(2, 4), small, 1).status().message()),
              testing::HasSubstr(
                  "memory for 8 experts (8 x 1 replicas) on the CPU workers, found memory for 6"));
}

TEST(PlacementTest, AModelWithoutExpertsNeedsNoWorkers) {
  const auto table = DealExperts(Shape(0, 0), Workers(1), 1);
  ASSERT_TRUE(table.ok());
  EXPECT_EQ(CountUncovered(*table, {false}), 0u);
}

TEST(PlacementTest, ALostSeatIsTakenAsItIs) {
  auto table = *DealExperts(Shape(3, 16), Workers(3), 1);
  const auto before = table.owners;
  EXPECT_TRUE(VacateSeat("cpu-1", &table));
  EXPECT_FALSE(VacateSeat("cpu-1", &table));
  EXPECT_FALSE(TakeSeat({"tiny", 3}, &table));
  EXPECT_TRUE(TakeSeat({"new", 16}, &table));
  EXPECT_FALSE(TakeSeat({"spare", UINT64_MAX}, &table));
  EXPECT_EQ(table.owners, before);
  EXPECT_EQ(table.seats[1].worker_id, "new");
}

TEST(PlacementTest, AWorkerThatWasForgottenGetsItsOwnSeatBack) {
  auto table = *DealExperts(Shape(3, 16), Workers(3), 1);
  for (const Candidate& worker : Workers(3)) VacateSeat(worker.worker_id, &table);
  for (const char* id : {"cpu-2", "cpu-0", "cpu-1"}) EXPECT_TRUE(TakeSeat({id}, &table));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(table.seats[i].worker_id, absl::StrCat("cpu-", i));
}

TEST(PlacementTest, UncoveredExpertsAreCounted) {
  const auto one = *DealExperts(Shape(3, 16), Workers(2), 1);
  EXPECT_EQ(CountUncovered(one, {true, true}), 0u);
  EXPECT_EQ(CountUncovered(one, {true, false}), 24u);
  const auto two = *DealExperts(Shape(3, 16), Workers(2), 2);
  EXPECT_EQ(CountUncovered(two, {false, true}), 0u);
  EXPECT_EQ(CountUncovered(two, {false, false}), 48u);
}

TEST(PlacementTest, SpreadingMovesOnlyWhatWasLost) {
  std::mt19937 random(2);
  for (int round = 0; round < 100; ++round) {
    const int count = 2 + random() % 5;
    const uint32_t replicas = 1 + random() % (count - 1);
    auto table = *DealExperts(Shape(1 + random() % 4, 1 + random() % 24), Workers(count), replicas);
    const PlacementTable before = table;
    const uint32_t lost = random() % count;
    ASSERT_TRUE(VacateSeat(before.seats[lost].worker_id, &table));
    ASSERT_TRUE(SpreadSeat(lost, Workers(count), &table).ok());
    ExpectSound(table, Workers(count), replicas);
    ASSERT_EQ(table.seats.size(), before.seats.size() - 1);
    for (size_t l = 0; l < table.owners.size(); ++l) {
      for (size_t e = 0; e < table.owners[l].size(); ++e) {
        for (const uint32_t old : before.owners[l][e]) {
          if (old == lost) continue;
          const uint32_t now = old > lost ? old - 1 : old;
          EXPECT_THAT(table.owners[l][e], testing::Contains(now));
        }
      }
    }
  }
}

TEST(PlacementTest, SpreadingWithoutMemoryChangesNothing) {
  std::vector<Candidate> full = Workers(2);
  full[0].experts_max = full[1].experts_max = 4;
  auto table = *DealExperts(Shape(1, 8), full, 1);
  VacateSeat("cpu-0", &table);
  const auto before = table.owners;
  EXPECT_EQ(SpreadSeat(0, full, &table).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(table.owners, before);
  EXPECT_EQ(table.seats.size(), 2u);
}

}  // namespace
}  // namespace tandem::coordinator
