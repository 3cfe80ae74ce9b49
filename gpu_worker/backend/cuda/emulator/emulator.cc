#include "gpu_worker/backend/cuda/emulator/emulator.h"

#include <algorithm>
#include <array>
#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <vector>

#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda::emulator {
namespace {

namespace context = boost::context;

// Room for a kernel's locals: accumulators of a whole tile and the calls below. Sanitizers make
// frames several times as large.
constexpr size_t kStackBytes = size_t{256} << 10;
constexpr int kWarpLanes = 32;
constexpr int kBarriers = 16;
constexpr int kGroupThreadsMax = 128;
// Multiples of a page keep the end of shared memory under a sanitizer's guard; TMA wants 1024.
constexpr size_t kSharedAlign = 1024;

// Threads that came to one place, and how often all of them have.
struct Meeting {
  const void* tag = nullptr;
  int arrived = 0;
  int expected = 0;
  uint64_t generation = 0;
  std::array<void*, kGroupThreadsMax> lanes = {};
};

struct Thread {
  dim3 index;
  int linear = 0;
  bool done = false;
  bool (*ready)(void*) = nullptr;  // null: can run
  void* ready_argument = nullptr;
  const char* why = "";
  context::fiber fiber;
  context::fiber* scheduler = nullptr;                         // where the fiber goes back to
  std::deque<std::vector<std::function<void()>>> copy_groups;  // cp.async, oldest first
  std::vector<std::function<void()>> copies_uncommitted;
};

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

struct Block {
  dim3 index;
  std::vector<Thread> threads;
  std::unique_ptr<unsigned char, FreeDeleter> shared;
  std::array<Meeting, kBarriers> barriers;
  std::map<std::pair<int, uint32_t>, Meeting> warp_meetings;  // by warp and mask
  std::map<int, Meeting> group_meetings;                      // by first warp
  std::vector<std::function<void()>> deferred;
  std::unique_ptr<BlockState> state;
  std::mt19937_64* random = nullptr;
};

thread_local const LaunchShape* launch = nullptr;
thread_local Block* block = nullptr;
thread_local Thread* self = nullptr;

uint64_t SeedOfEnvironment() {
  const char* text = std::getenv("TANDEM_EMULATOR_SEED");
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}
thread_local uint64_t seed = SeedOfEnvironment();

std::string Name(const Thread& thread) {
  std::ostringstream out;
  out << "thread (" << thread.index.x << ", " << thread.index.y << ", " << thread.index.z
      << ") of block (" << block->index.x << ", " << block->index.y << ", " << block->index.z
      << ")";
  return out.str();
}

void Resume(Thread& thread) {
  self = &thread;
  thread.ready = nullptr;
  thread.fiber = std::move(thread.fiber).resume();
  self = nullptr;
}

// Back to the scheduler until it resumes this thread.
void Suspend() { *self->scheduler = std::move(*self->scheduler).resume(); }

[[noreturn]] void Deadlock() {
  std::map<std::string, int> reasons;
  std::string first;
  for (const Thread& thread : block->threads) {
    if (thread.done) continue;
    if (reasons[thread.why]++ == 0) first += "; " + Name(thread) + " waits for " + thread.why;
  }
  std::ostringstream out;
  out << "emulated kernel cannot go on" << first << " (";
  for (const auto& [why, count] : reasons) out << count << " threads: " << why << ". ";
  out << ")";
  base::CheckFailed(__FILE__, __LINE__, out.str());
}

// A walk over all threads in an order of the seed's: start and stride, the stride coprime.
struct Order {
  size_t start = 0, stride = 1;
  Order(std::mt19937_64& random, size_t count) {
    if (seed == 0 || count == 1) return;
    start = random() % count;
    do {
      stride = 1 + random() % count;
    } while (std::gcd(stride, count) != 1);
  }
};

void RunBlock(std::mt19937_64& random) {
  block->random = &random;
  size_t live = block->threads.size();
  const size_t count = live;
  while (live > 0) {
    bool progressed = false;
    const Order order(random, count);
    for (size_t i = 0; i < count; ++i) {
      Thread& thread = block->threads[(order.start + i * order.stride) % count];
      if (thread.done || (thread.ready != nullptr && !thread.ready(thread.ready_argument)))
        continue;
      Resume(thread);
      progressed = true;
      if (thread.done) --live;
    }
    if (!block->deferred.empty() && (!progressed || (seed != 0 && random() % 8 == 0))) {
      std::swap(block->deferred[random() % block->deferred.size()], block->deferred.back());
      const std::function<void()> work = std::move(block->deferred.back());
      block->deferred.pop_back();
      work();
      progressed = true;
    }
    if (!progressed) Deadlock();
  }
  if (!block->deferred.empty()) Fail("a block ended while copies to it were under way");
  if (block->state != nullptr) block->state->Finish();
}

// Shared memory of its exact size, so that a sanitizer sees the first byte behind it.
std::unique_ptr<unsigned char, FreeDeleter> NewShared(size_t bytes) {
  void* pointer = nullptr;
  TANDEM_CHECK_EQ(posix_memalign(&pointer, kSharedAlign, std::max<size_t>(bytes, 1)), 0);
  std::memset(pointer, 0xff, bytes);
  return std::unique_ptr<unsigned char, FreeDeleter>(static_cast<unsigned char*>(pointer));
}

void StartThreads(context::pooled_fixedsize_stack& stacks, const std::function<void()>& kernel) {
  const dim3 shape = launch->block;
  for (unsigned z = 0; z < shape.z; ++z) {
    for (unsigned y = 0; y < shape.y; ++y) {
      for (unsigned x = 0; x < shape.x; ++x) {
        Thread& thread = block->threads.emplace_back();
        thread.index = {x, y, z};
        thread.linear = static_cast<int>(block->threads.size()) - 1;
      }
    }
  }
  for (Thread& thread : block->threads) {
    thread.fiber =
        context::fiber(std::allocator_arg, stacks, [&thread, &kernel](context::fiber&& caller) {
          thread.scheduler = &caller;
          kernel();
          thread.done = true;
          return std::move(caller);
        });
  }
}

bool HasMoved(void* argument) {
  const auto* wait = static_cast<std::pair<const Meeting*, uint64_t>*>(argument);
  return wait->first->generation != wait->second;
}

// One more has come; true for the last.
bool Arrive(Meeting& meeting, int expected) {
  if (meeting.arrived == 0) meeting.expected = expected;
  if (meeting.expected != expected) Fail("a barrier is told different numbers of threads");
  return ++meeting.arrived == expected;
}

void Leave(Meeting& meeting) {
  meeting.arrived = 0;
  ++meeting.generation;
}

void WaitForOthers(Meeting& meeting, const char* why) {
  std::pair<const Meeting*, uint64_t> wait(&meeting, meeting.generation);
  WaitUntil(HasMoved, &wait, why);
}

}  // namespace

void RunKernel(const LaunchShape& shape, const std::function<void()>& kernel) {
  TANDEM_CHECK(launch == nullptr);
  const size_t threads = size_t{shape.block.x} * shape.block.y * shape.block.z;
  TANDEM_CHECK(threads >= 1 && threads <= 1024);
  TANDEM_CHECK(shape.grid.x >= 1 && shape.grid.y >= 1 && shape.grid.z >= 1);
  TANDEM_CHECK(shape.grid.y <= 65535 && shape.grid.z <= 65535);
  launch = &shape;
  context::pooled_fixedsize_stack stacks(kStackBytes);
  std::mt19937_64 random(seed);
  for (unsigned z = 0; z < shape.grid.z; ++z) {
    for (unsigned y = 0; y < shape.grid.y; ++y) {
      for (unsigned x = 0; x < shape.grid.x; ++x) {
        Block state;
        state.index = {x, y, z};
        state.shared = NewShared(shape.shared_bytes);
        state.threads.reserve(threads);
        block = &state;
        StartThreads(stacks, kernel);
        RunBlock(random);
        block = nullptr;
      }
    }
  }
  launch = nullptr;
}

void SetSeed(uint64_t new_seed) { seed = new_seed; }

const dim3& ThreadIndex() { return self->index; }
const dim3& BlockIndex() { return block->index; }
const dim3& BlockShape() { return launch->block; }
const dim3& GridShape() { return launch->grid; }
int BlockThreads() { return static_cast<int>(block->threads.size()); }
int LinearThread() { return self->linear; }
int Lane() { return self->linear % kWarpLanes; }
unsigned char* SharedMemory() { return block->shared.get(); }

uint32_t SharedAddress(const void* pointer) {
  const ptrdiff_t offset = static_cast<const unsigned char*>(pointer) - block->shared.get();
  if (offset < 0 || offset > static_cast<ptrdiff_t>(launch->shared_bytes)) {
    Fail("a pointer outside of shared memory is taken for one into it");
  }
  return static_cast<uint32_t>(offset);
}

unsigned char* SharedPointer(uint32_t address, size_t bytes) {
  if (address + bytes > launch->shared_bytes) Fail("an address is outside of shared memory");
  return block->shared.get() + address;
}

size_t SharedBytes() { return launch->shared_bytes; }
uint64_t Random() { return seed == 0 ? 0 : (*block->random)(); }
std::unique_ptr<BlockState>& StateOfBlock() { return block->state; }

void Fail(const char* what) {
  base::CheckFailed(__FILE__, __LINE__,
                    std::string("emulated kernel: ") + what + ", " +
                        (self == nullptr ? "outside of its threads" : Name(*self)));
}

void WaitUntil(bool (*ready)(void*), void* argument, const char* why) {
  if (ready(argument)) return;
  self->ready = ready;
  self->ready_argument = argument;
  self->why = why;
  Suspend();
}

void Yield() {
  // Mostly a few rounds; now and then enough for others to go through a good part of their loop.
  constexpr uint64_t kRounds = 8, kManyRounds = 96, kOddsOfMany = 64;
  const uint64_t most = Random() % kOddsOfMany == 1 ? kManyRounds : kRounds;
  for (uint64_t rounds = Random() % most; rounds > 0; --rounds) Suspend();
}

void BarrierSync(int id, int threads) {
  if (id < 0 || id >= kBarriers) Fail("a barrier's number is not 0 to 15");
  Meeting& meeting = block->barriers[id];
  if (Arrive(meeting, threads)) {
    Leave(meeting);
  } else {
    WaitForOthers(meeting, id == 0 ? "barrier 0 (__syncthreads)" : "a named barrier");
  }
}

void BarrierArrive(int id, int threads) {
  if (id < 0 || id >= kBarriers) Fail("a barrier's number is not 0 to 15");
  if (Arrive(block->barriers[id], threads)) Leave(block->barriers[id]);
  Yield();
}

void Defer(std::function<void()> work) { block->deferred.push_back(std::move(work)); }

void PushCopy(std::function<void()> copy) { self->copies_uncommitted.push_back(std::move(copy)); }

void CommitCopies() {
  self->copy_groups.push_back(std::move(self->copies_uncommitted));
  self->copies_uncommitted.clear();
}

void WaitCopies(int groups_pending_max) {
  while (static_cast<int>(self->copy_groups.size()) > groups_pending_max) {
    for (const auto& copy : self->copy_groups.front()) copy();
    self->copy_groups.pop_front();
  }
}

namespace internal {

void Collective(int warps, uint32_t mask, const void* tag, void* mine,
                void (*run)(void* const* lanes, uint32_t mask)) {
  const int warp = self->linear / kWarpLanes;
  const int lane = warps == 1 ? Lane() : self->linear % kGroupThreadsMax;
  if (warps == 1 && (mask >> lane & 1) == 0) Fail("a lane takes part that is not in its own mask");
  Meeting& meeting =
      warps == 1 ? block->warp_meetings[{warp, mask}] : block->group_meetings[warp / 4];
  if (meeting.arrived > 0 && meeting.tag != tag) {
    Fail("threads that must act together are at different operations");
  }
  if (meeting.arrived == 0) meeting.lanes.fill(nullptr);
  meeting.tag = tag;
  if (meeting.lanes[lane] != nullptr) Fail("a thread comes twice where others have not come once");
  meeting.lanes[lane] = mine;
  const int expected = warps == 1 ? __builtin_popcount(mask) : kGroupThreadsMax;
  if (Arrive(meeting, expected)) {
    run(meeting.lanes.data(), mask);
    Leave(meeting);
  } else {
    WaitForOthers(
        meeting, warps == 1 ? "the other lanes of its warp" : "the other threads of its warpgroup");
  }
}

}  // namespace internal
}  // namespace tandem::gpu_worker::cuda::emulator
