#include "coordinator/kv/page_allocator.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace tandem::coordinator {
namespace {

TEST(PageAllocatorTest, AllOrNothing) {
  PageAllocator pages(3);
  EXPECT_FALSE(pages.Allocate(4).has_value());
  EXPECT_EQ(pages.pages_free(), 3u);
  EXPECT_EQ(*pages.Allocate(2), (std::vector<uint32_t>{0, 1}));
  EXPECT_FALSE(pages.Allocate(2).has_value());
  EXPECT_TRUE(pages.Allocate(0)->empty());
}

TEST(PageAllocatorTest, RandomUseNeverGivesAPageTwice) {
  std::mt19937 random(1);
  PageAllocator pages(50);
  std::vector<std::vector<uint32_t>> held;
  std::set<uint32_t> in_use;
  for (int i = 0; i < 5000; ++i) {
    if (random() % 2 == 0) {
      const auto got = pages.Allocate(random() % 8);
      if (!got) continue;
      for (const uint32_t page : *got) ASSERT_TRUE(in_use.insert(page).second);
      held.push_back(*got);
    } else if (!held.empty()) {
      const size_t which = random() % held.size();
      for (const uint32_t page : held[which]) in_use.erase(page);
      pages.Free(held[which]);
      held.erase(held.begin() + which);
    }
    ASSERT_EQ(pages.pages_free(), 50 - in_use.size());
    pages.CheckIntegrity();
  }
}

TEST(PageAllocatorDeathTest, FreeingTwiceOrAForeignPageEndsTheProcess) {
  PageAllocator pages(2);
  const auto got = *pages.Allocate(1);
  pages.Free(got);
  EXPECT_DEATH(pages.Free(got), "CHECK failed");
  EXPECT_DEATH(pages.Free({7}), "CHECK failed");
}

}  // namespace
}  // namespace tandem::coordinator
