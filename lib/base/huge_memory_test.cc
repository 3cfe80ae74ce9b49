#include "lib/base/huge_memory.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "gtest/gtest.h"

namespace tandem::base {
namespace {

constexpr int64_t kMiB = 1 << 20;

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * HugeMemory::PageBytes();
}

bool HugePagesOffered() {
  std::ifstream enabled("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  return std::getline(enabled, line) && line.find("[never]") == std::string::npos;
}

TEST(HugeMemory, IsAlignedZeroedAndWritable) {
  for (const int64_t size : {int64_t{1}, int64_t{4096}, 3 * kMiB + 5}) {
    const auto memory = HugeMemory::Allocate(size);
    ASSERT_TRUE(memory.ok()) << memory.status();
    EXPECT_EQ(memory->size(), size);
    EXPECT_TRUE(memory->bound_to_node());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % HugeMemory::kHugePageBytes, 0u);
    EXPECT_TRUE(std::all_of(memory->data(), memory->data() + size,
                            [](std::byte b) { return b == std::byte{0}; }));
    std::memset(memory->data(), 0x5a, size);
    EXPECT_EQ(memory->data()[size - 1], std::byte{0x5a});
  }
}

TEST(HugeMemory, LiesOnHugePagesWhereTheSystemOffersThem) {
  if (!HugePagesOffered()) GTEST_SKIP() << "transparent huge pages are switched off here";
  const auto memory = HugeMemory::Allocate(32 * kMiB + 12345);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(memory->BytesOnHugePages(), 0) << "nothing has been written yet";
  std::memset(memory->data(), 1, memory->size());
  EXPECT_GE(memory->BytesOnHugePages(), HugeMemory::kHugePageBytes);
  EXPECT_LE(memory->BytesOnHugePages(), 32 * kMiB);
}

// Gathering changes no byte, and touches nothing that was not written or was released.
TEST(HugeMemory, CollapsesWithoutChangingAnything) {
  auto memory = HugeMemory::Allocate(16 * kMiB + 100);
  ASSERT_TRUE(memory.ok()) << memory.status();
  for (int64_t i = 0; i < 8 * kMiB; ++i) memory->data()[i] = static_cast<std::byte>(i * 7 >> 3);
  memory->Release(2 * kMiB + 4096, kMiB);
  const int64_t before = ResidentBytes();
  memory->Collapse();
  EXPECT_LE(ResidentBytes() - before, 2 * kMiB);
  for (int64_t i = 0; i < 2 * kMiB; ++i) {
    ASSERT_EQ(memory->data()[i], static_cast<std::byte>(i * 7 >> 3)) << i;
  }
  ASSERT_EQ(memory->data()[8 * kMiB - 1], static_cast<std::byte>((8 * kMiB - 1) * 7 >> 3));
}

TEST(HugeMemory, UsesMemoryOnlyForWhatIsWritten) {
  const int64_t before = ResidentBytes();
  const auto memory = HugeMemory::Allocate(256 * kMiB);
  ASSERT_TRUE(memory.ok()) << memory.status();
  std::memset(memory->data(), 1, 16 * kMiB);
  EXPECT_GE(ResidentBytes() - before, 15 * kMiB);
  EXPECT_LE(ResidentBytes() - before, 32 * kMiB);
}

TEST(HugeMemory, GivesPartsBack) {
  auto memory = HugeMemory::Allocate(64 * kMiB);
  ASSERT_TRUE(memory.ok()) << memory.status();
  std::memset(memory->data(), 7, memory->size());
  const int64_t full = ResidentBytes();
  // Neither end on a boundary of huge pages, nor of small ones.
  const int64_t begin = 5 * kMiB + 100, bytes = 40 * kMiB + 4096;
  memory->Release(begin, bytes);
  EXPECT_LE(ResidentBytes(), full - 39 * kMiB);
  EXPECT_EQ(memory->data()[begin - 1], std::byte{7});
  EXPECT_EQ(memory->data()[begin], std::byte{7}) << "a page that is shared stays";
  EXPECT_EQ(memory->data()[begin + bytes], std::byte{7});
  memory->Release(0, memory->size());
  EXPECT_LE(ResidentBytes(), full - 62 * kMiB);
}

TEST(HugeMemoryDeathTest, WhatWasReleasedAndWhatLiesBeyondIsUnreadable) {
  auto memory = HugeMemory::Allocate(4 * kMiB);
  ASSERT_TRUE(memory.ok()) << memory.status();
  memory->Release(0, kMiB);
  volatile std::byte* data = memory->data();
  EXPECT_DEATH((void)data[0], "");
  EXPECT_DEATH((void)data[memory->size()], "");
  EXPECT_DEATH((void)data[-1], "");
  EXPECT_DEATH(memory->Release(kMiB, 4 * kMiB), "CHECK failed");
}

TEST(HugeMemory, MovesAndReturnsItsMemory) {
  const int64_t before = ResidentBytes();
  {
    auto first = HugeMemory::Allocate(32 * kMiB);
    ASSERT_TRUE(first.ok());
    std::memset(first->data(), 1, first->size());
    HugeMemory second = *std::move(first);
    EXPECT_EQ(second.data()[32 * kMiB - 1], std::byte{1});
    auto third = HugeMemory::Allocate(kMiB);
    ASSERT_TRUE(third.ok());
    second = *std::move(third);
    EXPECT_EQ(second.size(), kMiB);
    EXPECT_LE(ResidentBytes() - before, 8 * kMiB) << "the replaced memory is still there";
  }
  EXPECT_LE(ResidentBytes() - before, 8 * kMiB);
}

TEST(HugeMemory, SaysWhenThereIsNotEnough) {
  for (const int64_t size : {INT64_MAX, int64_t{1} << 47}) {  // more than the address space
    const auto memory = HugeMemory::Allocate(size);
    ASSERT_FALSE(memory.ok());
    EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_NE(memory.status().message().find("refuses"), absl::string_view::npos)
        << memory.status();
  }
}

TEST(HugeMemory, TakesANode) {
  const auto memory = HugeMemory::Allocate(4 * kMiB, 0);
  ASSERT_TRUE(memory.ok()) << memory.status();
  std::memset(memory->data(), 1, memory->size());
  const auto absent = HugeMemory::Allocate(4 * kMiB, 1023);
  // Where the process may not choose nodes at all the second is not refused, only unbound.
  EXPECT_EQ(memory->bound_to_node(), !absent.ok());
  if (!absent.ok()) {
    EXPECT_EQ(absent.status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(HugeMemory::Allocate(kMiB, 5000).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::base
