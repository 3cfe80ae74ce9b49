// Products of warpgroups in the emulator: recorded when they are issued, with accumulators made
// NaN, and given back at the wait. Operands are read through their descriptors, bit by bit as the
// PTX ISA has them, so that a wrong descriptor gives a wrong product.
#include "gpu_worker/backend/cuda/simt/hopper_wgmma.h"

#include <cstring>

#include "gpu_worker/backend/cuda/emulator/hopper_state.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"

namespace tandem::gpu_worker::cuda::emulator {
namespace {

constexpr int kRows = 64;
// A NaN that no arithmetic makes: whoever finds another value has written.
constexpr uint32_t kPoison = 0x7fdead01;

struct Descriptor {
  uint32_t start, leading, stride;  // bytes
  bool swizzle;
};

Descriptor Decode(uint64_t bits) {
  if (bits >> 62 > 1) Fail("a wgmma descriptor with another swizzle than 128 bytes or none");
  if ((bits >> 49 & 7) != 0) Fail("a wgmma descriptor with a base offset");
  const auto field = [bits](int at) { return static_cast<uint32_t>(bits >> at & 0x3fff) << 4; };
  return {field(0), field(16), field(32), bits >> 62 == 1};
}

// Byte `byte` of the 32 bytes of k of row (or column) `i`, T = 16 bytes: with a swizzle
// ((8, m), (T, 2)) : ((8 T, SBO), (1, T)), without ((8, m), (T, 2)) : ((T, SBO), (1, LBO)).
uint32_t KMajorAddress(const Descriptor& d, int i, int byte) {
  if (!d.swizzle) {
    return d.start + static_cast<uint32_t>(i / 8) * d.stride + static_cast<uint32_t>(i % 8) * 16 +
           static_cast<uint32_t>(byte / 16) * d.leading + static_cast<uint32_t>(byte % 16);
  }
  return Swizzle128(d.start + static_cast<uint32_t>(i / 8) * d.stride +
                    static_cast<uint32_t>(i % 8) * 128 + static_cast<uint32_t>(byte));
}

// bf16 (k, i): ((T, 8, m), (8, k)) : ((1, T, LBO), (8 T, SBO)), T = 8 values.
uint32_t MnMajorAddress(const Descriptor& d, int i, int k) {
  if (!d.swizzle) Fail("a transposed operand without a swizzle");
  return Swizzle128(d.start + static_cast<uint32_t>(i / 64) * d.leading +
                    static_cast<uint32_t>(i % 64) * 2 + static_cast<uint32_t>(k / 8) * d.stride +
                    static_cast<uint32_t>(k % 8) * 128);
}

float ReadBf16(uint32_t address) {
  Bf16 bits;
  std::memcpy(&bits, ViewPointer(address, 2), 2);
  return FromBf16(bits);
}

// [k, count] of an operand in shared memory, k outermost: the product's inner loop runs over count.
std::vector<float> ReadOperand(const WgmmaShape& shape, uint64_t bits, bool transposed, int count) {
  const Descriptor d = Decode(bits);
  const int depth = shape.e4m3 ? 32 : 16;
  std::vector<float> values(static_cast<size_t>(depth) * count);
  for (int k = 0; k < depth; ++k) {
    for (int i = 0; i < count; ++i) {
      float& value = values[static_cast<size_t>(k) * count + i];
      if (shape.e4m3) {
        value = FromE4m3(*ViewPointer(KMajorAddress(d, i, k), 1));
      } else {
        value = ReadBf16(transposed ? MnMajorAddress(d, i, k) : KMajorAddress(d, i, 2 * k));
      }
    }
  }
  return values;
}

// [16, 64] from the words of all threads.
std::vector<float> ReadRegisters(const uint32_t* const* a) {
  std::vector<float> values(16 * kRows);
  for (int thread = 0; thread < kWarpgroupThreads; ++thread) {
    const int row = thread / 32 * 16 + thread % 32 / 4, t = thread % 4;
    for (int word = 0; word < 4; ++word) {
      for (int half = 0; half < 2; ++half) {
        const int k = word / 2 * 8 + 2 * t + half;
        values[static_cast<size_t>(k) * kRows + row + word % 2 * 8] =
            FromBf16(static_cast<Bf16>(a[thread][word] >> (16 * half)));
      }
    }
  }
  return values;
}

// Calls value(thread's register, its place in [64, n]).
template <typename Value>
void ForAccumulators(WgmmaAccumulator& accumulator, Value value) {
  for (int thread = 0; thread < kWarpgroupThreads; ++thread) {
    const int row = thread / 32 * 16 + thread % 32 / 4, t = thread % 4;
    for (int i = 0; i < accumulator.n / 2; ++i) {
      const int column = i / 4 * 8 + 2 * t + i % 2;
      value(accumulator.registers[thread][i],
            accumulator.values[static_cast<size_t>(row + i % 4 / 2 * 8) * accumulator.n + column]);
    }
  }
}

void CheckUntouched(WgmmaAccumulator& accumulator) {
  ForAccumulators(accumulator, [](float& mine, float&) {
    if (__float_as_uint(mine) != kPoison) Fail("an accumulator was written while a wgmma used it");
  });
}

void Execute(WgmmaWarpgroup& group, WgmmaProduct& product) {
  const int n = product.shape.n, depth = product.shape.e4m3 ? 32 : 16;
  const std::vector<float> a = product.a_in_registers
                                   ? std::move(product.a)
                                   : ReadOperand(product.shape, product.a_descriptor, false, kRows);
  const std::vector<float> b =
      ReadOperand(product.shape, product.b_descriptor, product.shape.transposed_b, n);
  std::vector<float>& sums = group.accumulators.at(product.accumulator).values;
  if (!product.accumulate) std::fill(sums.begin(), sums.end(), 0.0f);
  for (int row = 0; row < kRows; ++row) {
    float* const sum = sums.data() + static_cast<size_t>(row) * n;
    for (int k = 0; k < depth; ++k) {
      const float left = a[static_cast<size_t>(k) * kRows + row];
      const float* const right = b.data() + static_cast<size_t>(k) * n;
      for (int column = 0; column < n; ++column) sum[column] += left * right[column];
    }
  }
  product.done = true;
}

struct IssueArguments {
  WgmmaShape shape;
  float* d;
  const uint32_t* a;
  uint64_t a_descriptor, b_descriptor;
  bool accumulate;
};

bool SameProduct(const IssueArguments& x, const IssueArguments& y) {
  return x.a_descriptor == y.a_descriptor && x.b_descriptor == y.b_descriptor &&
         x.accumulate == y.accumulate && (x.a == nullptr) == (y.a == nullptr) &&
         x.shape.n == y.shape.n && x.shape.e4m3 == y.shape.e4m3 &&
         x.shape.transposed_b == y.shape.transposed_b;
}

// The accumulator that a product is issued on: taken from the registers, or already under way.
void TakeAccumulator(WgmmaWarpgroup& group, IssueArguments* const* lanes) {
  const auto [at, fresh] = group.accumulators.try_emplace(lanes[0]->d);
  WgmmaAccumulator& accumulator = at->second;
  const int n = lanes[0]->shape.n;
  if (!fresh) {
    if (accumulator.n != n) Fail("wgmmas of different widths share an accumulator in flight");
    CheckUntouched(accumulator);
  } else {
    accumulator.n = n;
    accumulator.values.resize(static_cast<size_t>(kRows) * n);
    for (int i = 0; i < kWarpgroupThreads; ++i) accumulator.registers[i] = lanes[i]->d;
    ForAccumulators(accumulator, [](float& mine, float& value) {
      value = mine;
      mine = __uint_as_float(kPoison);
    });
  }
  ++accumulator.products;
}

void Issue(IssueArguments* const* lanes) {
  WgmmaWarpgroup& group = Hopper().warpgroups[LinearThread() / kWarpgroupThreads];
  const IssueArguments& first = *lanes[0];
  if (!group.fenced) Fail("a wgmma without a wgmma.fence since registers were last waited for");
  for (int i = 1; i < kWarpgroupThreads; ++i) {
    if (!SameProduct(first, *lanes[i])) Fail("threads of a warpgroup issue different wgmmas");
  }
  TakeAccumulator(group, lanes);
  WgmmaProduct product{first.shape,
                       first.accumulate,
                       first.a != nullptr,
                       {},
                       first.a_descriptor,
                       first.b_descriptor,
                       first.d,
                       false};
  if (first.a != nullptr) {
    std::array<const uint32_t*, kWarpgroupThreads> words;
    for (int i = 0; i < kWarpgroupThreads; ++i) words[i] = lanes[i]->a;
    product.a = ReadRegisters(words.data());
  }
  // Products on one accumulator are done in order: early only when no earlier one is left.
  bool all_done = true;
  for (const auto& products : group.groups) {
    for (const WgmmaProduct& p : products) all_done = all_done && p.done;
  }
  for (const WgmmaProduct& p : group.open) all_done = all_done && p.done;
  if (all_done && Random() % 2 == 1) Execute(group, product);
  group.open.push_back(std::move(product));
}

void GiveBack(WgmmaWarpgroup& group, float* name) {
  WgmmaAccumulator& accumulator = group.accumulators.at(name);
  if (--accumulator.products > 0) return;
  CheckUntouched(accumulator);
  ForAccumulators(accumulator, [](float& mine, float& value) { mine = value; });
  group.accumulators.erase(name);
}

struct WaitArguments {
  int groups_pending_max;
};

void Wait(int groups_pending_max) {
  WgmmaWarpgroup& group = Hopper().warpgroups[LinearThread() / kWarpgroupThreads];
  group.fenced = false;
  while (static_cast<int>(group.groups.size()) > groups_pending_max) {
    for (WgmmaProduct& product : group.groups.front()) {
      if (!product.done) Execute(group, product);
      GiveBack(group, product.accumulator);
    }
    group.groups.pop_front();
  }
}

}  // namespace

void WgmmaFence() {
  NoArguments none;
  WarpgroupCollective(none, [](NoArguments* const*) {
    Hopper().warpgroups[LinearThread() / kWarpgroupThreads].fenced = true;
  });
}

void WgmmaIssue(const WgmmaShape& shape, float* d, const uint32_t* a, uint64_t a_descriptor,
                uint64_t b_descriptor, bool accumulate) {
  IssueArguments mine{shape, d, a, a_descriptor, b_descriptor, accumulate};
  WarpgroupCollective(mine, [](IssueArguments* const* lanes) { Issue(lanes); });
}

void WgmmaCommit() {
  NoArguments none;
  WarpgroupCollective(none, [](NoArguments* const*) {
    WgmmaWarpgroup& group = Hopper().warpgroups[LinearThread() / kWarpgroupThreads];
    group.groups.push_back(std::move(group.open));
    group.open.clear();
  });
}

void WgmmaWait(int groups_pending_max) {
  WaitArguments mine{groups_pending_max};
  WarpgroupCollective(mine, [](WaitArguments* const* lanes) {
    for (int i = 1; i < kWarpgroupThreads; ++i) {
      if (lanes[i]->groups_pending_max != lanes[0]->groups_pending_max) {
        Fail("threads of a warpgroup wait for different wgmmas");
      }
    }
    Wait(lanes[0]->groups_pending_max);
  });
}

}  // namespace tandem::gpu_worker::cuda::emulator
