#include "gpu_worker/backend/cuda/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::gpu_worker::cuda {
namespace {

using testing::HasSubstr;

constexpr size_t kGib = size_t{1} << 30;

MemoryNeeds Needs() {
  return {.weight_bytes = 10 * kGib,
          .activation_bytes = 2 * kGib,
          .kv_page_bytes = kGib / 8,
          .kv_pages = 0,
          .kv_pages_max = 1000,
          .rows_max = 512};
}

// 24 GiB less a reserve of 1 leave 11 for the cache.
TEST(MemoryPlan, TheCacheGetsWhatIsLeft) {
  EXPECT_EQ(PlanKvPages(Needs(), 24 * kGib, "gpu").value(), 11 * 8);
}

TEST(MemoryPlan, ButNotMoreThanIsOfUse) {
  MemoryNeeds needs = Needs();
  needs.kv_pages_max = 40;
  EXPECT_EQ(PlanKvPages(needs, 24 * kGib, "gpu").value(), 40);
}

TEST(MemoryPlan, WhatIsAskedForIsGiven) {
  MemoryNeeds needs = Needs();
  needs.kv_pages = 17;
  EXPECT_EQ(PlanKvPages(needs, 24 * kGib, "gpu").value(), 17);
}

TEST(MemoryPlan, TooMuchIsSaidWithAllFigures) {
  MemoryNeeds needs = Needs();
  needs.kv_pages = 100;
  const auto pages = PlanKvPages(needs, 24 * kGib, "gpu 7");
  EXPECT_EQ(pages.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(pages.status().message()),
              testing::AllOf(HasSubstr("24.50 GiB"), HasSubstr("gpu 7"), HasSubstr("10.00 GiB"),
                             HasSubstr("512 rows 2.00 GiB"), HasSubstr("6400 tokens 12.50 GiB"),
                             HasSubstr("found 23.00 GiB"), HasSubstr("--kv-tokens")));
}

TEST(MemoryPlan, WeightsAloneMayBeTooMuch) {
  EXPECT_EQ(PlanKvPages(Needs(), 8 * kGib, "gpu").status().code(),
            absl::StatusCode::kResourceExhausted);
}

// 16 GiB, the reserve and one page.
TEST(MemoryPlan, OnePageIsEnough) {
  MemoryNeeds needs = Needs();
  needs.weight_bytes = 14 * kGib;
  EXPECT_EQ(PlanKvPages(needs, 17 * kGib + kGib / 8, "gpu").value(), 1);
  EXPECT_FALSE(PlanKvPages(needs, 17 * kGib + kGib / 8 - 1, "gpu").ok());
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
