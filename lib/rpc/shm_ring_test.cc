// The ring under two threads, full, cut by the arena's end, and with a peer that lies. Both sides
// use one mapping here, so that ThreadSanitizer sees what they share.
#include "lib/rpc/shm_ring.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "lib/rpc/spin_wait.h"

namespace tandem::rpc {
namespace {

constexpr size_t kArenaBytes = 4096;

struct Ring {
  explicit Ring(size_t arena_bytes = kArenaBytes)
      : memory(new (std::align_val_t{kFrameAlign}) std::byte[arena_bytes]),
        producer(&shared, memory.get(), arena_bytes),
        consumer(&shared, memory.get(), arena_bytes) {}

  struct Free {
    void operator()(std::byte* bytes) const {
      ::operator delete[](bytes, std::align_val_t{kFrameAlign});
    }
  };
  RingShared shared;
  std::unique_ptr<std::byte[], Free> memory;
  RingProducer producer;
  RingConsumer consumer;
};

bool Send(Ring& ring, size_t bytes, uint8_t value) {
  std::byte* const frame = ring.producer.Allocate(bytes);
  if (frame == nullptr) return false;
  std::memset(frame, value, bytes);
  ring.producer.Publish();
  return true;
}

RingFrame Receive(Ring& ring) {
  const auto frame = ring.consumer.Take();
  EXPECT_TRUE(frame.ok() && frame->has_value());
  return frame.ok() && frame->has_value() ? **frame : RingFrame{};
}

TEST(ShmRingTest, FramesArriveInOrderAndWhole) {
  Ring ring;
  EXPECT_FALSE(ring.consumer.HasNews());
  EXPECT_FALSE(ring.consumer.Take()->has_value());
  ASSERT_TRUE(Send(ring, 100, 1));
  ASSERT_TRUE(Send(ring, 1, 2));
  const RingFrame first = Receive(ring), second = Receive(ring);
  EXPECT_EQ(first.bytes.size(), 100u);
  EXPECT_EQ(first.bytes[99], std::byte{1});
  EXPECT_EQ(second.bytes.size(), 1u);
  EXPECT_EQ(second.bytes[0], std::byte{2});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(second.bytes.data()) % kFrameAlign, 0u);
  EXPECT_FALSE(ring.consumer.HasNews());
}

TEST(ShmRingTest, FullUntilReleased) {
  Ring ring;
  EXPECT_EQ(ring.producer.Allocate(kArenaBytes + 1), nullptr);
  EXPECT_EQ(ring.producer.Allocate(0), nullptr);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Send(ring, 1024, static_cast<uint8_t>(i)));
  EXPECT_FALSE(Send(ring, 1, 9));
  const RingFrame oldest = Receive(ring), second = Receive(ring);
  EXPECT_FALSE(Send(ring, 1, 9)) << "taken is not released";
  // Memory comes back in the order of age.
  ring.consumer.Release(second.number);
  EXPECT_FALSE(Send(ring, 1, 9));
  ring.consumer.Release(oldest.number);
  EXPECT_TRUE(Send(ring, 2048, 9)) << "two neighbours make room for one";
  EXPECT_FALSE(Send(ring, 1, 9));
}

TEST(ShmRingTest, SlotsAreABoundOfTheirOwn) {
  Ring ring(64 * (kRingSlots + 8));
  for (size_t i = 0; i < kRingSlots; ++i) ASSERT_TRUE(Send(ring, 1, 0));
  EXPECT_FALSE(Send(ring, 1, 0));
  ring.consumer.Release(Receive(ring).number);
  EXPECT_TRUE(Send(ring, 1, 0));
}

TEST(ShmRingTest, AnEmptyRingBeginsAtTheFirstLineAgain) {
  Ring ring;
  for (int i = 0; i < 1000; ++i) {
    std::byte* const frame = ring.producer.Allocate(1024);
    ASSERT_EQ(frame, ring.memory.get());
    ring.producer.Publish();
    ring.consumer.Release(Receive(ring).number);
  }
}

TEST(ShmRingTest, OnlyASleepingConsumerIsWoken) {
  Ring ring;
  const auto publish = [&ring] {
    EXPECT_NE(ring.producer.Allocate(8), nullptr);
    return ring.producer.Publish();
  };
  EXPECT_FALSE(publish());
  ring.consumer.AnnounceSleep();
  EXPECT_TRUE(publish());
  EXPECT_FALSE(publish()) << "one wake-up is enough";
  ring.consumer.AnnounceSleep();
  ring.consumer.AnnounceAwake();
  EXPECT_FALSE(publish());
}

// Whatever stands in a slot, a frame lies in the arena or is refused.
TEST(ShmRingTest, ALyingProducerIsRefused) {
  struct Lie {
    uint64_t offset, bytes;
    bool good;
  };
  const Lie lies[] = {{0, kArenaBytes, true},
                      {kArenaBytes, 0, true},
                      {64, kArenaBytes - 64, true},
                      {0, kArenaBytes + 1, false},
                      {64, kArenaBytes - 63, false},
                      {kArenaBytes + 64, 0, false},
                      {1, 8, false},
                      {UINT64_MAX - 63, 128, false},
                      {64, UINT64_MAX, false},
                      {UINT64_MAX, UINT64_MAX, false}};
  for (const Lie& lie : lies) {
    Ring ring;
    ring.shared.slots[0].offset_bytes = lie.offset;
    ring.shared.slots[0].frame_bytes = lie.bytes;
    ring.shared.slots[0].published = 1;
    const auto frame = ring.consumer.Take();
    ASSERT_EQ(frame.ok(), lie.good) << lie.offset << " " << lie.bytes;
    if (!frame.ok()) continue;
    ASSERT_TRUE(frame->has_value());
    EXPECT_EQ((*frame)->bytes.data(), ring.memory.get() + lie.offset);
    EXPECT_EQ((*frame)->bytes.size(), lie.bytes);
  }
}

// A consumer that writes nonsense into the slots spoils frames, never the producer's books.
TEST(ShmRingTest, ALyingConsumerOnlyHarmsItself) {
  Ring ring;
  std::mt19937_64 random(3);
  for (int i = 0; i < 20000; ++i) {
    RingSlot& slot = ring.shared.slots[random() % kRingSlots];
    slot.released = random() % 4 == 0 ? random() : static_cast<uint64_t>(i) + random() % 3;
    slot.offset_bytes = random();
    slot.frame_bytes = random();
    const size_t bytes = 1 + random() % 1500;
    std::byte* const frame = ring.producer.Allocate(bytes);
    if (frame == nullptr) continue;
    ASSERT_GE(frame, ring.memory.get());
    ASSERT_LE(frame + bytes, ring.memory.get() + kArenaBytes);
    ring.producer.Publish();
  }
}

// Frames of every size between two threads, released out of order by a third way round, with the
// consumer sleeping now and then: nothing is lost, mixed up or overwritten too early.
TEST(ShmRingTest, TwoThreadsExchangeManyFrames) {
  constexpr uint32_t kFrames = 20000;
  Ring ring(16384);
  std::atomic<bool> rung{false};
  std::thread sender([&] {
    std::mt19937 random(1);
    for (uint32_t i = 0; i < kFrames;) {
      const size_t words = 1 + random() % 700;
      auto* const frame = reinterpret_cast<uint32_t*>(ring.producer.Allocate(words * 4));
      if (frame == nullptr) {
        std::this_thread::yield();
        continue;
      }
      std::fill_n(frame, words, i++);
      if (ring.producer.Publish()) rung.store(true);
    }
  });
  std::vector<RingFrame> held;
  std::mt19937 random(2);
  const auto release_one = [&] {
    const size_t at = random() % held.size();
    for (size_t k = 0; k < held[at].bytes.size(); k += 4) {
      uint32_t word = 0;
      std::memcpy(&word, held[at].bytes.data() + k, 4);
      ASSERT_EQ(word, held[at].number);
    }
    ring.consumer.Release(held[at].number);
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
  };
  for (uint32_t next = 0; next < kFrames;) {
    const auto frame = ring.consumer.Take();
    ASSERT_TRUE(frame.ok()) << frame.status();
    if (frame->has_value()) {
      ASSERT_EQ((*frame)->number, next++);
      held.push_back(**frame);
      if (held.size() > 4) release_one();
      continue;
    }
    while (!held.empty()) release_one();
    ring.consumer.AnnounceSleep();
    const int64_t end = MonotonicNanos() + int64_t{20} * 1'000'000'000;
    while (!ring.consumer.HasNews() && !rung.load()) ASSERT_LT(MonotonicNanos(), end) << "lost";
    rung.store(false);
    ring.consumer.AnnounceAwake();
  }
  sender.join();
}

TEST(SpinWaitTest, EndsInTimeAndNotAgainAfterLosingTheProcessor) {
  const auto spin_ns = [](int64_t pause_ms) {
    const int64_t start = MonotonicNanos();
    SpinWait wait(20'000'000);
    std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
    while (wait.Again()) {
    }
    return MonotonicNanos() - start;
  };
  EXPECT_GE(spin_ns(1), 1'000'000);
  const int64_t start = MonotonicNanos();
  const int64_t next = spin_ns(0);
  // Had this thread been away for long, it would spin again.
  if (MonotonicNanos() - start < 20'000'000) EXPECT_LT(next, 20'000'000);
}

TEST(SpinHabitTest, GivesUpWhatNeverHelpsAndTriesAgainNowAndThen) {
  SpinHabit habit;
  int tried = 0;
  for (int i = 0; i < 1000; ++i) {
    if (!habit.WorthTrying()) continue;
    ++tried;
    habit.Learn(false);
  }
  EXPECT_GT(tried, 10);
  EXPECT_LT(tried, 30);
  while (!habit.WorthTrying()) {
  }
  habit.Learn(true);
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(habit.WorthTrying());
    habit.Learn(true);
  }
}

}  // namespace
}  // namespace tandem::rpc
