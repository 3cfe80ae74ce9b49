#include "lib/experts/expert_ffn.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "lib/experts/test_experts.h"
#include "lib/kernels/expert_grid.h"
#include "lib/kernels/weights.h"
#include "lib/tensor/codec.h"

namespace tandem {
namespace {

using kernels::RowForm;
using kernels::RowFormOf;

constexpr int kTopK = 8;

std::vector<DType> ExpertTypes() {
  std::vector<DType> types;
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    if (kernels::CheckWeightType(static_cast<DType>(i), 256).ok()) {
      types.push_back(static_cast<DType>(i));
    }
  }
  return types;
}

// A call with random rows, experts and weights.
struct Call {
  int64_t hidden = 0;
  std::vector<uint16_t> x;  // [rows, hidden] bf16
  std::vector<int> exponents;
  std::vector<std::vector<std::pair<uint32_t, float>>> experts;  // per row: id, router weight
};

Call MakeCall(int64_t rows, int64_t hidden, uint32_t experts, int per_row,
              std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> weight(0.05f, 1.0f);
  Call call{hidden, {}, {}, {}};
  for (int64_t r = 0; r < rows; ++r) {
    float largest = 0;
    for (int64_t k = 0; k < hidden; ++k) {
      const uint16_t bits = F32ToBF16(normal(random));
      call.x.push_back(bits);
      largest = std::max(largest, std::abs(BF16ToF32(bits)));
    }
    call.exponents.push_back(kernels::GridExponent(largest, 1.0f, kTopK));
    std::vector<uint32_t> ids(experts);
    for (uint32_t e = 0; e < experts; ++e) ids[e] = e;
    std::shuffle(ids.begin(), ids.end(), random);
    call.experts.emplace_back();
    for (int i = 0; i < per_row; ++i) call.experts.back().push_back({ids[i], weight(random)});
  }
  return call;
}

struct Answer {
  std::vector<int32_t> sums;   // [rows, hidden]
  std::vector<uint8_t> flags;  // [rows]
  std::vector<float> apart;    // [pairs, hidden]
};

// Runs rows [begin, end) of the call, only the experts `keep` accepts.
Answer RunOn(base::ThreadPool* pool, const kernels::KernelTable& table, const Call& call,
             const std::vector<TestExpert>& experts, ActivationForm activation, ReplyForm reply,
             int64_t begin, int64_t end, const std::function<bool(uint32_t)>& keep) {
  ExpertFfn ffn(table, pool);
  Answer answer;
  const int64_t rows = end - begin;
  answer.sums.assign(rows * call.hidden, 0);
  answer.flags.assign(rows, 0);
  FfnBatch batch{.x_dtype = DType::kBF16,
                 .activation = activation,
                 .reply = reply,
                 .grid_limit = kernels::GridLimit(kTopK),
                 .rows = {},
                 .pairs = {}};
  for (int64_t r = 0; r < rows; ++r) {
    batch.rows.push_back(
        {reinterpret_cast<const std::byte*>(call.x.data() + (begin + r) * call.hidden),
         call.exponents[begin + r], answer.sums.data() + r * call.hidden, &answer.flags[r]});
    for (const auto& [expert, weight] : call.experts[begin + r]) {
      if (keep(expert)) batch.pairs.push_back({r, expert, weight, nullptr});
    }
  }
  if (reply == ReplyForm::kPerExpertF32) {
    answer.apart.assign(batch.pairs.size() * call.hidden, NAN);
    for (size_t i = 0; i < batch.pairs.size(); ++i) {
      batch.pairs[i].out = answer.apart.data() + i * call.hidden;
    }
  }
  ffn.Run(batch, [&](uint32_t expert) { return &experts[expert].packed; });
  return answer;
}

Answer RunCall(const kernels::KernelTable& table, int threads, const Call& call,
               const std::vector<TestExpert>& experts, ActivationForm activation, ReplyForm reply,
               int64_t begin, int64_t end, const std::function<bool(uint32_t)>& keep) {
  base::ThreadPool pool(threads);
  return RunOn(&pool, table, call, experts, activation, reply, begin, end, keep);
}

// All of it on a pool of three nodes with four threads.
Answer RunOnNodes(const kernels::KernelTable& table, const Call& call,
                  const std::vector<TestExpert>& experts, ReplyForm reply) {
  base::ThreadPool pool(std::vector<base::ThreadPlace>{{{}, 0}, {{}, 1}, {{}, 1}, {{}, 2}});
  return RunOn(&pool, table, call, experts, ActivationForm::kNative, reply, 0,
               static_cast<int64_t>(call.exponents.size()), [](uint32_t) { return true; });
}

Answer RunAll(const kernels::KernelTable& table, int threads, const Call& call,
              const std::vector<TestExpert>& experts, ActivationForm activation, ReplyForm reply) {
  return RunCall(table, threads, call, experts, activation, reply, 0, call.exponents.size(),
                 [](uint32_t) { return true; });
}

// y = W x in double with the codec's weights, and the most it can be off when each x[k] is off by
// at most x_error[k].
void MultiplyDouble(const Matrix& matrix, const std::vector<double>& x,
                    const std::vector<double>& x_error, std::vector<double>* y,
                    std::vector<double>* y_error) {
  std::vector<float> w(matrix.cols());
  y->assign(matrix.rows(), 0);
  y_error->assign(matrix.rows(), 0);
  for (int64_t o = 0; o < matrix.rows(); ++o) {
    DequantizeMatrixRow(matrix, o, w.data());
    double magnitude = 0, error = 0;
    for (int64_t k = 0; k < matrix.cols(); ++k) {
      (*y)[o] += static_cast<double>(w[k]) * x[k];
      error += std::abs(w[k]) * x_error[k];
      magnitude += std::abs(w[k]) * (std::abs(x[k]) + x_error[k]);
    }
    // f32 roundings on the longest chain of panel.h, a quarter of the columns. Codes and minima are
    // summed apart: for the formats here their magnitudes are below 32 times the weights'.
    const double factor = kernels::HasMins(matrix.view.dtype) ? 32 : 2;
    (*y_error)[o] = error + factor * (matrix.cols() / 4.0 + 18) * std::exp2(-24) * magnitude;
  }
}

// Largest error that storing `x` in the form of `weights` makes in each value.
std::vector<double> RoundingErrors(DType weights, ActivationForm activation,
                                   const std::vector<double>& x) {
  std::vector<double> error(x.size(), 0);
  const RowForm form = RowFormOf(weights, activation);
  for (size_t begin = 0; begin < x.size(); begin += 32) {
    double largest = 0;
    for (size_t k = begin; k < begin + 32; ++k) largest = std::max(largest, std::abs(x[k]));
    for (size_t k = begin; k < begin + 32; ++k) {
      if (form == RowForm::kInt8) {
        error[k] = largest / 127 * 0.5001;
      } else if (activation == ActivationForm::kNative) {
        error[k] = std::abs(x[k]) * std::exp2(-8);  // bf16 keeps 8 bits
      }
    }
  }
  return error;
}

// The whole FFN of one pair in double, with a bound on the worker's error.
void FfnDouble(const FfnWeights& weights, ActivationForm activation, const std::vector<double>& x,
               std::vector<double>* y, std::vector<double>* y_error) {
  std::vector<double> gate, gate_error, up, up_error;
  MultiplyDouble(weights.gate, x, RoundingErrors(weights.gate.view.dtype, activation, x), &gate,
                 &gate_error);
  MultiplyDouble(weights.up, x, RoundingErrors(weights.up.view.dtype, activation, x), &up,
                 &up_error);
  std::vector<double> h(gate.size()), h_error(gate.size());
  for (size_t i = 0; i < h.size(); ++i) {
    const double silu = gate[i] / (1 + std::exp(-gate[i]));
    h[i] = silu * up[i];
    // |silu'| <= 1.1 everywhere; the polynomial and the roundings stay below 2^-20.
    const double silu_error = 1.1 * gate_error[i] + std::abs(silu) * std::exp2(-20);
    h_error[i] = silu_error * (std::abs(up[i]) + up_error[i]) + std::abs(silu) * up_error[i] +
                 std::abs(h[i]) * std::exp2(-20);
  }
  std::vector<double> h_larger(h.size());
  for (size_t i = 0; i < h.size(); ++i) h_larger[i] = std::abs(h[i]) + h_error[i];
  const std::vector<double> stored = RoundingErrors(weights.down.view.dtype, activation, h_larger);
  for (size_t i = 0; i < h.size(); ++i) h_error[i] += stored[i];
  MultiplyDouble(weights.down, h, h_error, y, y_error);
}

std::vector<TestExpert> MakeExperts(DType type, int64_t hidden, int64_t inter, int count,
                                    std::mt19937_64& random) {
  std::vector<TestExpert> experts;
  for (int e = 0; e < count; ++e) {
    experts.push_back(MakeTestExpert(type, type, type, hidden, inter, random));
  }
  return experts;
}

TEST(ExpertFfn, EveryTypeMatchesDoubleWithinTheComputedBound) {
  std::mt19937_64 random(1);
  for (DType type : ExpertTypes()) {
    const std::vector<TestExpert> experts = MakeExperts(type, 256, 256, 2, random);
    const Call call = MakeCall(2, 256, 2, 2, random);
    for (ActivationForm activation : {ActivationForm::kNative, ActivationForm::kF32}) {
      const Answer answer =
          RunAll(kernels::ActiveTable(), 1, call, experts, activation, ReplyForm::kPerExpertF32);
      size_t pair = 0;
      double error_squares = 0, value_squares = 0;
      for (size_t r = 0; r < call.experts.size(); ++r) {
        std::vector<double> x(256);
        for (int k = 0; k < 256; ++k) x[k] = BF16ToF32(call.x[r * 256 + k]);
        for (const auto& [expert, weight] : call.experts[r]) {
          std::vector<double> want, bound;
          FfnDouble(experts[expert].weights, activation, x, &want, &bound);
          for (int k = 0; k < 256; ++k) {
            const double got = answer.apart[pair * 256 + k];
            ASSERT_NEAR(got, want[k] * weight, bound[k] * weight * 1.001)
                << NameOf(type) << " form " << static_cast<int>(activation);
            error_squares += (got - want[k] * weight) * (got - want[k] * weight);
            value_squares += want[k] * weight * want[k] * weight;
          }
          ++pair;
        }
      }
      // The bound is a worst case; together the errors must be far smaller: int8 and bf16
      // activations cost about 1 %.
      const double relative = std::sqrt(error_squares / value_squares);
      EXPECT_LT(relative, activation == ActivationForm::kF32 ? 1e-5 : 0.03) << NameOf(type);
    }
  }
}

TEST(ExpertFfn, EveryTypeHasTheSameBitsOnEveryTableAndThreadCount) {
  std::mt19937_64 random(2);
  for (DType type : ExpertTypes()) {
    const std::vector<TestExpert> experts = MakeExperts(type, 256, 256, 3, random);
    // Few rows an expert, and enough for row tiles.
    const Call call = MakeCall(3 + 20 * (static_cast<int>(type) % 2), 256, 3, 2, random);
    for (ActivationForm activation : {ActivationForm::kNative, ActivationForm::kF32}) {
      for (ReplyForm reply : {ReplyForm::kGridSum, ReplyForm::kPerExpertF32}) {
        const Answer want =
            RunAll(*kernels::SupportedTables().front(), 1, call, experts, activation, reply);
        for (const kernels::KernelTable* table : kernels::SupportedTables()) {
          for (int threads : {1, 2}) {
            const Answer got = RunAll(*table, threads, call, experts, activation, reply);
            ASSERT_EQ(got.sums, want.sums) << NameOf(type) << " " << table->isa;
            ASSERT_EQ(got.flags, want.flags);
            ASSERT_EQ(got.apart.size(), want.apart.size());
            if (want.apart.empty()) continue;  // a sum on the grid
            ASSERT_EQ(std::memcmp(got.apart.data(), want.apart.data(), want.apart.size() * 4), 0)
                << NameOf(type) << " " << table->isa;
          }
        }
      }
    }
  }
}

// Rows alone, rows together, experts on one worker or spread over three: the same integers.
TEST(ExpertFfn, GroupingAndPlacementDoNotChangeTheSums) {
  std::mt19937_64 random(3);
  for (DType type : {DType::kQ8_0, DType::kQ4_K, DType::kQ6_K, DType::kIQ1_M, DType::kBF16,
                     DType::kF16, DType::kF8E4M3}) {
    const int64_t hidden = 512, inter = 256;
    const std::vector<TestExpert> experts = MakeExperts(type, hidden, inter, 8, random);
    const Call call = MakeCall(33, hidden, 8, 4, random);
    const kernels::KernelTable& table = kernels::ActiveTable();
    const Answer want =
        RunAll(table, 2, call, experts, ActivationForm::kNative, ReplyForm::kGridSum);
    ASSERT_EQ(std::count(want.flags.begin(), want.flags.end(), 1), 0);
    ASSERT_NE(std::count(want.sums.begin(), want.sums.end(), 0), hidden * 33);
    for (int64_t rows = 1; rows <= 33; ++rows) {
      std::vector<int32_t> sums(33 * hidden);
      for (int64_t begin = 0; begin < 33; begin += rows) {
        const int64_t end = std::min<int64_t>(33, begin + rows);
        for (uint32_t worker = 0; worker < 3; ++worker) {
          const Answer part =
              RunCall(table, 1, call, experts, ActivationForm::kNative, ReplyForm::kGridSum, begin,
                      end, [&](uint32_t expert) { return (expert * 7 + rows) % 3 == worker; });
          for (size_t i = 0; i < part.sums.size(); ++i) sums[begin * hidden + i] += part.sums[i];
        }
      }
      ASSERT_EQ(sums, want.sums) << NameOf(type) << " rows " << rows;
    }
  }
}

// Experts on one, two and three memory nodes, in every reply form: nothing changes.
TEST(ExpertFfn, MemoryNodesDoNotChangeTheSums) {
  std::mt19937_64 random(5);
  const kernels::KernelTable& table = kernels::ActiveTable();
  for (const DType type : {DType::kQ4_K, DType::kBF16}) {
    std::vector<TestExpert> experts;
    for (int e = 0; e < 6; ++e) {
      experts.push_back(MakeTestExpert(type, type, type, 256, 256, random));
    }
    const Call call = MakeCall(12, 256, 6, 4, random);
    for (const ReplyForm reply : {ReplyForm::kGridSum, ReplyForm::kPerExpertF32}) {
      for (TestExpert& expert : experts) expert.packed.node = 0;
      const Answer want = RunAll(table, 2, call, experts, ActivationForm::kNative, reply);
      for (const std::vector<int>& nodes :
           {std::vector<int>{0, 1, 2, 0, 1, 2}, {2, 2, 1, 1, 1, 2}, {1, 1, 1, 1, 1, 1}}) {
        for (size_t e = 0; e < nodes.size(); ++e) experts[e].packed.node = nodes[e];
        for (int repeat = 0; repeat < 5; ++repeat) {
          const Answer got = RunOnNodes(table, call, experts, reply);
          EXPECT_EQ(got.sums, want.sums);
          EXPECT_EQ(got.flags, want.flags);
          EXPECT_EQ(got.apart, want.apart);
        }
      }
    }
  }
}

TEST(ExpertFfn, GridSumIsTheRoundedSumOfTheSeparateOutputs) {
  std::mt19937_64 random(4);
  const std::vector<TestExpert> experts = MakeExperts(DType::kQ6_K, 256, 256, 4, random);
  const Call call = MakeCall(5, 256, 4, 3, random);
  const kernels::KernelTable& table = kernels::ActiveTable();
  const Answer sums = RunAll(table, 1, call, experts, ActivationForm::kNative, ReplyForm::kGridSum);
  const Answer apart =
      RunAll(table, 1, call, experts, ActivationForm::kNative, ReplyForm::kPerExpertF32);
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t k = 0; k < 256; ++k) {
      int32_t want = 0;
      for (int64_t i = 0; i < 3; ++i) {
        want += kernels::GridEncode(apart.apart[(r * 3 + i) * 256 + k], call.exponents[r],
                                    kernels::GridLimit(kTopK))
                    .steps;
      }
      ASSERT_EQ(sums.sums[r * 256 + k], want);
    }
  }
}

TEST(ExpertFfn, OutOfGridFlagsTheRowWhereverItsExpertsAre) {
  std::mt19937_64 random(5);
  const std::vector<TestExpert> experts = MakeExperts(DType::kQ8_0, 256, 256, 4, random);
  Call call = MakeCall(4, 256, 4, 2, random);
  call.exponents[1] -= 20;                    // a grid far too small
  call.x[2 * 256 + 7] = F32ToBF16(INFINITY);  // not finite
  call.experts[3][0].second = 1e30f;          // an absurd router weight
  const kernels::KernelTable& table = kernels::ActiveTable();
  const Answer all = RunAll(table, 2, call, experts, ActivationForm::kNative, ReplyForm::kGridSum);
  EXPECT_EQ(all.flags, (std::vector<uint8_t>{0, 1, 1, 1}));
  std::vector<uint8_t> flags(4, 0);
  for (uint32_t worker = 0; worker < 4; ++worker) {
    const Answer part =
        RunCall(table, 1, call, experts, ActivationForm::kNative, ReplyForm::kGridSum, 0, 4,
                [&](uint32_t expert) { return expert == worker; });
    for (int r = 0; r < 4; ++r) flags[r] |= part.flags[r];
  }
  EXPECT_EQ(flags, all.flags);
}

TEST(ExpertFfn, OddSizesMixedTypesAndManyRows) {
  std::mt19937_64 random(6);
  // 96 and 160 are no multiples of 64; the third expert's matrices have three different types; 300
  // rows of one expert.
  std::vector<TestExpert> experts;
  experts.push_back(MakeTestExpert(DType::kQ5_0, DType::kQ8_0, DType::kQ4_1, 96, 160, random));
  experts.push_back(MakeTestExpert(DType::kBF16, DType::kF32, DType::kIQ4_NL, 96, 160, random));
  experts.push_back(MakeTestExpert(DType::kQ4_0, DType::kBF16, DType::kF16, 96, 160, random));
  const Call call = MakeCall(300, 96, 3, 2, random);
  const Answer want = RunAll(*kernels::SupportedTables().front(), 1, call, experts,
                             ActivationForm::kNative, ReplyForm::kGridSum);
  for (const kernels::KernelTable* table : kernels::SupportedTables()) {
    const Answer got =
        RunAll(*table, 3, call, experts, ActivationForm::kNative, ReplyForm::kGridSum);
    EXPECT_EQ(got.sums, want.sums) << table->isa;
  }
  const Answer last = RunCall(kernels::ActiveTable(), 1, call, experts, ActivationForm::kNative,
                              ReplyForm::kGridSum, 299, 300, [](uint32_t) { return true; });
  EXPECT_TRUE(std::equal(last.sums.begin(), last.sums.end(), want.sums.end() - 96));
}

}  // namespace
}  // namespace tandem
