// The quiz model's files against llama.cpp and transformers, through a whole cluster: 200 prompts,
// the distribution after each, mean KL divergence and top-1 agreement (vectors and their maker:
// tests/golden/quiz, tests/golden/make_quiz_reference.py).
//
// What difference is allowed? Two correct engines differ by rounding alone. Their errors are
// independent and KL is quadratic in them, so the divergence between two engines is about the sum
// of their distances to exact arithmetic. The manifest has those distances, measured on these
// prompts with engines that are not ours:
//   bf16 activations everywhere, as here    KL(transformers bfloat16 || transformers f32)
//   llama.cpp's bf16                        KL(llama bf16 || transformers f32)
//   int8 activations, once for each engine  KL(llama q8_0 || transformers f32), whose weights are
//                                           nearly exact
// kSafety covers that a mean over 200 prompts of a heavy-tailed quantity is known to a factor of
// about two, and that k- and i-quants use one activation scale per 256 values in llama.cpp.
#include <atomic>
#include <cmath>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cluster/inference_client.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/quiz_prompts.h"

namespace tandem::cluster_test {
namespace {

constexpr int kTop = 64;
constexpr int kReported = 256;  // the most likely tokens an answer may list
constexpr int kClients = 8;
constexpr double kSafety =
    3;  // means over 200 prompts of a heavy-tailed quantity scatter by tens of per cent

struct Variant {
  std::string name;   // of the vectors
  std::string model;  // relative to models/quiz
  bool block_quantized;
  std::string backend = "host";
  size_t prompts = 200;
};

void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.name << "_" << variant.backend;
}

std::string GoldenPath(const std::string& file) {
  const char* source = std::getenv("TANDEM_SOURCE_DIR");
  return absl::StrCat(source != nullptr ? source : ".", "/tests/golden/quiz/", file);
}

nlohmann::json ReadJson(const std::string& file) {
  std::ifstream in(GoldenPath(file));
  return nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
}

template <typename T>
std::vector<T> ReadBinary(const std::string& file) {
  std::ifstream in(GoldenPath(file), std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

// Log probabilities by token id after each prompt.
using Distribution = std::vector<float>;

// KL of the reference's 64 likeliest tokens and one bucket for all others: a lower bound of the
// full divergence, equal to it up to what happens inside the bucket.
double KlDivergence(const uint16_t* ids, const float* p, const Distribution& q) {
  double kl = 0, p_rest = 1, q_rest = 1;
  for (int i = 0; i < kTop; ++i) {
    const double p_i = std::exp(p[i]);
    kl += p_i * (p[i] - q[ids[i]]);
    p_rest -= p_i;
    q_rest -= std::exp(q[ids[i]]);
  }
  // Below f32's resolution of the sums the bucket is empty.
  if (p_rest > 1e-6) kl += p_rest * std::log(p_rest / std::max(q_rest, 1e-9));
  return kl;
}

// A token that is not among the 256 listed is at most as likely as the last of them.
Distribution Reported(const sampling::v1::PositionLogprobs& logprobs, int vocab) {
  Distribution all(vocab, logprobs.top(logprobs.top_size() - 1).logprob());
  for (const auto& entry : logprobs.top()) {
    if (static_cast<int>(entry.token_id()) < vocab) all[entry.token_id()] = entry.logprob();
  }
  return all;
}

class QuizReferenceTest : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    manifest_ = ReadJson("MANIFEST.json");
    const auto prompts = ReadJson("prompts.json");
    ASSERT_TRUE(manifest_.is_object() && prompts.is_object()) << "golden vectors are missing";
    prompts_ = prompts["tokens"].get<std::vector<std::vector<uint32_t>>>();
    answers_ = prompts["answer_token"].get<std::vector<uint32_t>>();
    prompts_.resize(std::min(prompts_.size(), GetParam().prompts));
    vocab_ = 0;
    for (const std::string kind : {"transformers_f32", "llama_bf16"}) {
      for (uint16_t id : ReadBinary<uint16_t>(kind + ".ids.u16"))
        vocab_ = std::max<int>(vocab_, id + 1);
    }
  }

  double Noise(const std::string& key) const {
    return manifest_["noise"][key]["kl_mean"].get<double>();
  }

  double Allowed(const Variant& variant) const {
    const double rounding = Noise("transformers bfloat16: against transformers_f32") +
                            Noise("bf16: against transformers_f32");
    if (!variant.block_quantized) return kSafety * rounding;
    return kSafety * (rounding + 2 * Noise("q8_0: against transformers_f32"));
  }

  std::vector<Distribution> Ask(const std::string& address, int vocab) {
    std::vector<Distribution> all(prompts_.size());
    std::atomic<size_t> next = 0;
    std::vector<std::thread> threads;
    for (int c = 0; c < kClients; ++c) {
      threads.emplace_back([&] {
        InferenceClient client(address);
        for (size_t i = next++; i < prompts_.size(); i = next++) {
          auto request = TokenRequest(prompts_[i], 1, 0);
          request.mutable_sampling()->set_logprobs(true);
          request.mutable_sampling()->set_top_logprobs(kReported);
          auto answer = client.Generate(request, absl::Seconds(120));
          EXPECT_TRUE(answer.ok()) << answer.status();
          if (!answer.ok() || answer->logprobs.size() != 1) continue;
          all[i] = Reported(answer->logprobs[0], vocab);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    return all;
  }

  nlohmann::json manifest_;
  std::vector<std::vector<uint32_t>> prompts_;
  std::vector<uint32_t> answers_;
  int vocab_ = 0;
};

TEST_P(QuizReferenceTest, AgreesWithLlamaCpp) {
  ClusterOptions options;
  options.model = absl::StrCat(QuizModelPath(), GetParam().model);
  if (GetParam().backend == "cuda") options.flags = EmulatedCuda();
  auto cluster = LocalCluster::Start(options);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  auto info = InferenceClient(cluster->address()).Info();
  ASSERT_TRUE(info.ok()) << info.status();
  const auto answers = Ask(cluster->address(), static_cast<int>(info->vocab_size()));

  const auto ids = ReadBinary<uint16_t>(absl::StrCat("llama_", GetParam().name, ".ids.u16"));
  const auto logprobs = ReadBinary<float>(absl::StrCat("llama_", GetParam().name, ".logprob.f32"));
  ASSERT_GE(ids.size(), prompts_.size() * kTop);
  ASSERT_EQ(logprobs.size(), ids.size());
  double kl_sum = 0, kl_max = 0;
  int same_best = 0, ours_right = 0, llama_right = 0;
  for (size_t i = 0; i < prompts_.size(); ++i) {
    ASSERT_FALSE(answers[i].empty()) << "no answer to prompt " << i;
    const double kl = KlDivergence(&ids[i * kTop], &logprobs[i * kTop], answers[i]);
    kl_sum += kl;
    kl_max = std::max(kl_max, kl);
    const auto best = std::max_element(answers[i].begin(), answers[i].end()) - answers[i].begin();
    same_best += best == ids[i * kTop];
    ours_right += best == answers_[i];
    llama_right += ids[i * kTop] == answers_[i];
  }
  const double mean = kl_sum / static_cast<double>(prompts_.size());
  const double agreement = same_best / static_cast<double>(prompts_.size());
  std::printf(
      "%s: mean KL %.3g nats (allowed %.3g), max %.3g, same best token %.1f %%, right: ours %d, "
      "llama.cpp %d of %zu\n",
      GetParam().name.c_str(), mean, Allowed(GetParam()), kl_max, 100 * agreement, ours_right,
      llama_right, prompts_.size());
  EXPECT_LE(mean, Allowed(GetParam()));
  // A changed best token needs a total variation of half the margin; Pinsker bounds it by sqrt(KL /
  // 2). At the allowed mean KL, prompts whose margin is below that are counted by the manifest's
  // own agreement of llama.cpp with transformers.
  const double agreement_min =
      1 -
      2 * (1 - manifest_["noise"][GetParam().name + ": against transformers_f32"]["same_best"]
                   .get<double>()) -
      0.02;
  EXPECT_GE(agreement, agreement_min);
  EXPECT_TRUE(cluster->Stop().ok());
}

INSTANTIATE_TEST_SUITE_P(Files, QuizReferenceTest,
                         testing::Values(Variant{"bf16", "", false},
                                         Variant{"q8_0", "/gguf/quiz-Q8_0.gguf", true},
                                         Variant{"q4_K_M", "/gguf/quiz-Q4_K_M.gguf", true},
                                         Variant{"iq1_s", "/gguf/quiz-IQ1_S.gguf", true}),
                         [](const auto& info) { return info.param.name; });
// The first prompts on the CUDA backend's emulator.
INSTANTIATE_TEST_SUITE_P(Cuda, QuizReferenceTest,
                         testing::Values(Variant{"bf16", "", false, "cuda", 12},
                                         Variant{"q4_K_M", "/gguf/quiz-Q4_K_M.gguf", true, "cuda",
                                                 12}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tandem::cluster_test
