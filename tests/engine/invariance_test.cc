// The promise that an answer does not depend on how it was computed: bit-equal logits whatever the
// batch, the chunks of the prompt, the place where an answer was cut and replayed, the threads, and
// the number of expert workers.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "lib/kernels/onednn_linear.h"
#include "tests/engine/harness.h"

namespace tandem::gpu_worker {
namespace {

// Two and a half pages of prompt, an answer that crosses into a fourth page.
constexpr int64_t kPrompt = 150, kAnswer = 50;

struct Setting {
  const char* name;
  Precision precision;
  AttentionKernel attention;
  LinearFormat linear;
};

class InvarianceTest : public testing::TestWithParam<Setting> {
 protected:
  InvarianceTest() : golden_(LoadGolden("v3")) {
    tokens_ = RandomTokens(kPrompt + kAnswer, golden_.weights.config.vocab_size, 11);
  }

  void SetUp() override {
    if (GetParam().linear.kernel == LinearKernel::kOneDnn && !kernels::OneDnnLinear::Available()) {
      GTEST_SKIP() << "oneDNN has no bf16 matmul on this processor";
    }
  }

  HarnessOptions Options(int threads = 1, int workers = 1) const {
    HarnessOptions options;
    options.precision = GetParam().precision;
    options.attention = GetParam().attention;
    options.linear = GetParam().linear;
    options.threads = threads;
    options.workers = workers;
    return options;
  }

  std::vector<uint32_t> Tokens(int64_t begin, int64_t end) const {
    return {tokens_.begin() + begin, tokens_.begin() + end};
  }

  // Prompt in one piece, answer token by token.
  LogitRows Plain(Harness& harness, int sequence = 0) const {
    LogitRows logits = harness.Run({{sequence, RowKind::kPrefill, Tokens(0, kPrompt)}});
    for (int64_t t = kPrompt; t < kPrompt + kAnswer; ++t) {
      logits.push_back(harness.Run({{sequence, RowKind::kDecode, Tokens(t, t + 1)}})[0]);
    }
    return logits;
  }

  const GoldenModel golden_;
  std::vector<uint32_t> tokens_;
};

void ExpectSameBits(const std::vector<float>& a, const std::vector<float>& b, int64_t position) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0)
      << "position " << position;
}

void ExpectSameBits(const LogitRows& a, const LogitRows& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t t = 0; t < a.size(); ++t) ExpectSameBits(a[t], b[t], static_cast<int64_t>(t));
}

TEST_P(InvarianceTest, DifferentTokensGiveDifferentLogits) {
  // The comparison below can fail at all: one token changed early changes what follows.
  Harness a(golden_.weights, Options()), b(golden_.weights, Options());
  const LogitRows plain = Plain(a);
  tokens_[3] = (tokens_[3] + 1) % 128;
  const LogitRows other = Plain(b);
  EXPECT_NE(std::memcmp(plain.back().data(), other.back().data(), plain.back().size() * 4), 0);
}

TEST_P(InvarianceTest, ThreadsAndWorkers) {
  Harness one(golden_.weights, Options());
  const LogitRows expected = Plain(one);
  for (const int workers : {2, 3}) {
    Harness other(golden_.weights, Options(/*threads=*/2, workers));
    ExpectSameBits(expected, Plain(other));
    EXPECT_GT(other.cluster.calls.size(), one.cluster.calls.size());
  }
}

TEST_P(InvarianceTest, PromptChunks) {
  Harness whole(golden_.weights, Options());
  const LogitRows expected = whole.Run({{0, RowKind::kPrefill, Tokens(0, kPrompt)}});
  for (const std::vector<int64_t>& chunks :
       {std::vector<int64_t>{64, 64, 22}, {1, 62, 2, 80, 5}, {7, 143}}) {
    Harness cut(golden_.weights, Options());
    LogitRows logits;
    int64_t begin = 0;
    for (const int64_t chunk : chunks) {
      for (auto& row : cut.Run({{0, RowKind::kPrefill, Tokens(begin, begin + chunk)}})) {
        logits.push_back(std::move(row));
      }
      begin += chunk;
    }
    ExpectSameBits(expected, logits);
  }
}

TEST_P(InvarianceTest, BatchOfOneAndSixteen) {
  Harness alone(golden_.weights, Options());
  const LogitRows expected = Plain(alone);
  // Sequence 0 among fifteen others of other lengths and tokens, prompts and answers mixed in each
  // pass.
  Harness together(golden_.weights, Options(/*threads=*/2, /*workers=*/2));
  std::vector<Piece> first = {{0, RowKind::kPrefill, Tokens(0, kPrompt)}};
  for (int s = 1; s < 16; ++s) first.push_back({s, RowKind::kPrefill, RandomTokens(s + 3, 128, s)});
  const LogitRows prompts = together.Run(first);
  for (int64_t t = 0; t < kPrompt; ++t) ExpectSameBits(expected[t], prompts[t], t);
  for (int64_t t = kPrompt; t < kPrompt + kAnswer; ++t) {
    std::vector<Piece> pass;
    for (int s = 1; s < 8; ++s)
      pass.push_back({s, RowKind::kDecode, RandomTokens(1, 128, t * 31 + s)});
    pass.push_back({0, RowKind::kDecode, Tokens(t, t + 1)});
    for (int s = 8; s < 16; ++s)
      pass.push_back({s, RowKind::kDecode, RandomTokens(1, 128, t * 37 + s)});
    ExpectSameBits(expected[t], together.Run(pass)[7], t);
  }
}

TEST_P(InvarianceTest, ReplayFromEveryPosition) {
  Harness plain(golden_.weights, Options());
  const LogitRows expected = Plain(plain);
  for (int64_t cut = 1; cut <= kAnswer; ++cut) {
    // A fresh worker: the prompt is prefilled, the answer so far fed as one slice of decode rows,
    // then it goes on.
    Harness replay(golden_.weights, Options());
    replay.Run({{0, RowKind::kPrefill, Tokens(0, kPrompt)}});
    const LogitRows fed = replay.Run({{0, RowKind::kDecode, Tokens(kPrompt, kPrompt + cut)}});
    for (int64_t i = 0; i < cut; ++i) ExpectSameBits(expected[kPrompt + i], fed[i], kPrompt + i);
    if (cut == kAnswer) break;
    const int64_t next = kPrompt + cut;
    ExpectSameBits(expected[next], replay.Run({{0, RowKind::kDecode, Tokens(next, next + 1)}})[0],
                   next);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, InvarianceTest,
    testing::Values(
        Setting{"Bf16Flash", Precision::kBf16, AttentionKernel::kFlash},
        Setting{"Bf16Reference", Precision::kBf16, AttentionKernel::kReference},
        Setting{"Bf16OneDnn", Precision::kBf16, AttentionKernel::kFlash, LinearKernel::kOneDnn},
        Setting{"Bf16Stored", Precision::kBf16, AttentionKernel::kFlash, LinearKernel::kStored},
        Setting{"Bf16Fp8Reference", Precision::kBf16, AttentionKernel::kReference,
                LinearKernel::kFp8},
        Setting{"Bf16Fp8", Precision::kBf16, AttentionKernel::kFlash, LinearKernel::kFp8},
        Setting{
            "Bf16Marlin8", Precision::kBf16, AttentionKernel::kFlash, {LinearKernel::kMarlin8, 64}},
        Setting{"Bf16Marlin4", Precision::kBf16, AttentionKernel::kFlash, LinearKernel::kMarlin4},
        Setting{"F32Flash", Precision::kF32, AttentionKernel::kFlash}),
    [](const auto& info) { return info.param.name; });

// The two attention kernels agree over several pages, where the golden vectors have one. Both
// compute the same sums in different orders; 200 keys, three layers: 1e-4 of a row's norm is a
// hundred times the spread seen and a thousandth of what a wrong block, mask or scale does.
TEST(AttentionKernelsTest, FlashAndReferenceAgreeOverPages) {
  for (const std::string& name : GoldenNames()) {
    const GoldenModel golden = LoadGolden(name);
    const std::vector<uint32_t> tokens = RandomTokens(200, 128, 3);
    LogitRows results[2];
    for (const AttentionKernel kernel : {AttentionKernel::kFlash, AttentionKernel::kReference}) {
      HarnessOptions options;
      options.attention = kernel;
      Harness harness(golden.weights, options);
      results[kernel == AttentionKernel::kFlash] =
          harness.Run({{0, RowKind::kPrefill, std::vector(tokens.begin(), tokens.begin() + 190)},
                       {0, RowKind::kDecode, std::vector(tokens.begin() + 190, tokens.end())}});
    }
    for (size_t t = 0; t < tokens.size(); ++t) {
      double difference = 0, size = 0;
      for (size_t i = 0; i < results[0][t].size(); ++i) {
        difference += std::pow(results[0][t][i] - results[1][t][i], 2);
        size += std::pow(results[0][t][i], 2);
      }
      EXPECT_LT(std::sqrt(difference / size), 1e-4) << name << " position " << t;
    }
  }
}

}  // namespace
}  // namespace tandem::gpu_worker
