#include "gpu_worker/backend/cuda/emulator/emulator.h"

#include <algorithm>
#include <array>
#include <atomic>
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

#include "gpu_worker/backend/cuda/emulator/launches.h"
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
constexpr unsigned kClusterMax = 8;  // what every GPU that has clusters has
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

struct Block;

struct Thread {
  Block* block = nullptr;
  dim3 index;
  int linear = 0;
  bool done = false;
  bool in_cluster_barrier = false;  // has arrived, has not waited
  uint64_t cluster_generation = 0;  // in which it arrived
  bool (*ready)(void*) = nullptr;   // null: can run
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
  size_t live = 0;  // threads that have not ended
};

// Blocks that run together.
struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  Meeting barrier;
  std::mt19937_64* random = nullptr;
};

std::atomic<int64_t> kernels_run{0};
thread_local const LaunchShape* launch = nullptr;
thread_local Cluster* cluster = nullptr;
thread_local Block* block = nullptr;
thread_local Thread* self = nullptr;

uint64_t SeedOfEnvironment() {
  const char* text = std::getenv("TANDEM_EMULATOR_SEED");
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}
thread_local uint64_t seed = SeedOfEnvironment();

std::string Name(const Thread& thread) {
  std::ostringstream out;
  const dim3 at = thread.block->index;
  out << "thread (" << thread.index.x << ", " << thread.index.y << ", " << thread.index.z
      << ") of block (" << at.x << ", " << at.y << ", " << at.z << ")";
  return out.str();
}

void Resume(Thread& thread) {
  self = &thread;
  block = thread.block;
  thread.ready = nullptr;
  thread.fiber = std::move(thread.fiber).resume();
  if (thread.done && --block->live == 0 && !block->deferred.empty()) {
    Fail("a block ended while copies to it were under way");
  }
  self = nullptr;
  block = nullptr;
}

// Back to the scheduler until it resumes this thread.
void Suspend() { *self->scheduler = std::move(*self->scheduler).resume(); }

[[noreturn]] void Deadlock() {
  std::map<std::string, int> reasons;
  std::string first;
  for (const auto& each : cluster->blocks) {
    for (const Thread& thread : each->threads) {
      if (thread.done) continue;
      if (reasons[thread.why]++ == 0) first += "; " + Name(thread) + " waits for " + thread.why;
    }
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

// One piece of work that was put off, of the block whose number of such the seed picks; false where
// there is none.
bool DoDeferred() {
  size_t left = 0;
  for (const auto& each : cluster->blocks) left += each->deferred.size();
  if (left == 0) return false;
  size_t pick = (*cluster->random)() % left;
  for (const auto& each : cluster->blocks) {
    if (pick >= each->deferred.size()) {
      pick -= each->deferred.size();
      continue;
    }
    std::swap(each->deferred[pick], each->deferred.back());
    const std::function<void()> work = std::move(each->deferred.back());
    each->deferred.pop_back();
    block = each.get();
    work();
    block = nullptr;
    return true;
  }
  return false;
}

void RunThreads(std::mt19937_64& random) {
  std::vector<Thread*> threads;
  for (const auto& each : cluster->blocks) {
    for (Thread& thread : each->threads) threads.push_back(&thread);
  }
  const size_t count = threads.size();
  size_t live = count;
  while (live > 0) {
    bool progressed = false;
    const Order order(random, count);
    for (size_t i = 0; i < count; ++i) {
      Thread& thread = *threads[(order.start + i * order.stride) % count];
      if (thread.done || (thread.ready != nullptr && !thread.ready(thread.ready_argument)))
        continue;
      Resume(thread);
      progressed = true;
      if (thread.done) --live;
    }
    if (!progressed || (seed != 0 && random() % 8 == 0)) progressed |= DoDeferred();
    if (!progressed) Deadlock();
  }
}

void RunCluster(std::mt19937_64& random) {
  cluster->random = &random;
  RunThreads(random);
  for (const auto& each : cluster->blocks) {
    block = each.get();
    if (block->state != nullptr) block->state->Finish();
    block = nullptr;
  }
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
        thread.block = block;
        thread.index = {x, y, z};
        thread.linear = static_cast<int>(block->threads.size()) - 1;
      }
    }
  }
  block->live = block->threads.size();
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

void StartBlock(dim3 index, size_t threads, context::pooled_fixedsize_stack& stacks,
                const std::function<void()>& kernel) {
  cluster->blocks.push_back(std::make_unique<Block>());
  block = cluster->blocks.back().get();
  block->index = index;
  block->shared = NewShared(launch->shared_bytes);
  block->threads.reserve(threads);
  StartThreads(stacks, kernel);
  block = nullptr;
}

}  // namespace

int64_t KernelsRun() { return kernels_run.load(); }

void RunKernel(const LaunchShape& shape, const std::function<void()>& kernel) {
  kernels_run.fetch_add(1);
  TANDEM_CHECK(launch == nullptr);
  const size_t threads = size_t{shape.block.x} * shape.block.y * shape.block.z;
  TANDEM_CHECK(threads >= 1 && threads <= 1024);
  TANDEM_CHECK(shape.grid.x >= 1 && shape.grid.y >= 1 && shape.grid.z >= 1);
  TANDEM_CHECK(shape.grid.y <= 65535 && shape.grid.z <= 65535);
  TANDEM_CHECK(shape.cluster >= 1 && shape.cluster <= kClusterMax);
  TANDEM_CHECK_EQ(shape.grid.x % shape.cluster, 0u);
  launch = &shape;
  context::pooled_fixedsize_stack stacks(kStackBytes);
  std::mt19937_64 random(seed);
  for (unsigned z = 0; z < shape.grid.z; ++z) {
    for (unsigned y = 0; y < shape.grid.y; ++y) {
      for (unsigned x = 0; x < shape.grid.x; x += shape.cluster) {
        Cluster state;
        cluster = &state;
        for (unsigned i = 0; i < shape.cluster; ++i) {
          StartBlock({x + i, y, z}, threads, stacks, kernel);
        }
        RunCluster(random);
        cluster = nullptr;
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
uint64_t Random() { return seed == 0 ? 0 : (*cluster->random)(); }
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

int ClusterRank() { return static_cast<int>(self->block->index.x % launch->cluster); }
int ClusterBlocks() { return static_cast<int>(launch->cluster); }

void ClusterArrive() {
  if (self->in_cluster_barrier) Fail("a thread arrives twice at the cluster's barrier");
  self->in_cluster_barrier = true;
  self->cluster_generation = cluster->barrier.generation;
  const int threads = ClusterBlocks() * BlockThreads();
  if (Arrive(cluster->barrier, threads)) Leave(cluster->barrier);
  Yield();
}

void ClusterWait() {
  if (!self->in_cluster_barrier) Fail("a thread waits at the cluster's barrier, but has not come");
  std::pair<const Meeting*, uint64_t> wait(&cluster->barrier, self->cluster_generation);
  WaitUntil(HasMoved, &wait, "the cluster's barrier");
  self->in_cluster_barrier = false;
}

void InBlock(int rank, const std::function<void()>& body) {
  if (rank < 0 || rank >= ClusterBlocks())
    Fail("a block that is not of this cluster is reached for");
  Block* const mine = block;
  block = cluster->blocks[rank].get();
  if (block->live == 0) Fail("a block is reached for that has ended");
  body();
  block = mine;
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
