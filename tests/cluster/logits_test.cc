// Logits of whole clusters against float64 golden logits of random small models with the fields of
// V2, V2-Lite, V3, Kimi-K2 and Moonlight (tests/golden/make_logits.py): prompt, then decoding token
// by token, in f32 from weights to wire, with both attention kernels and one to three expert
// workers; on the host and, emulated, on CUDA. The tolerance is derived in
// tests/engine/tolerance.h.
#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/cluster/inference_client.h"
#include "tests/cluster/local_cluster.h"
#include "tests/engine/tolerance.h"

namespace tandem::cluster_test {
namespace {

using gpu_worker::GoldenModel;

// The golden folder with a tokenizer beside the weights: the coordinator wants one, and requests on
// token ids never use it. Removed with the object.
class ModelFolder {
 public:
  explicit ModelFolder(const std::string& name) {
    char pattern[] = "/tmp/tandem_golden_XXXXXX";
    path_ = ::mkdtemp(pattern);
    Link(gpu_worker::SourcePath("tests/golden/logits/" + name));
    Link(gpu_worker::SourcePath("tests/golden/text/small_v3"));
  }
  ~ModelFolder() { std::filesystem::remove_all(path_); }
  std::string path() const { return path_.string(); }

 private:
  void Link(const std::string& folder) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      std::filesystem::create_symlink(std::filesystem::absolute(entry.path()),
                                      path_ / entry.path().filename());
    }
  }
  std::filesystem::path path_;
};

// Log probabilities of every token at one position, by id.
std::vector<double> ByToken(const sampling::v1::PositionLogprobs& logprobs, size_t vocab) {
  std::vector<double> row(vocab, NAN);
  for (const auto& entry : logprobs.top()) row.at(entry.token_id()) = entry.logprob();
  return row;
}

// Without its mean: what a softmax does not see. Log probabilities and logits agree in it, and no
// error grows by it.
std::vector<double> Centred(std::vector<double> row) {
  double mean = 0;
  for (const double x : row) mean += x / static_cast<double>(row.size());
  for (double& x : row) x -= mean;
  return row;
}

// The error of a row is at most delta * |row|, and each log probability is rounded once to f32.
void ExpectRow(const std::vector<double>& golden_logits, const std::vector<double>& found,
               double delta, const std::string& where, double* worst) {
  const double size = gpu_worker::Norm(golden_logits);
  const double allowed = delta * size + std::ldexp(gpu_worker::Norm(found), -24);
  const std::vector<double> expected = Centred(golden_logits), centred = Centred(found);
  std::vector<double> difference;
  for (size_t i = 0; i < expected.size(); ++i) difference.push_back(centred[i] - expected[i]);
  const double error = gpu_worker::Norm(difference);
  ASSERT_LE(error, allowed) << where;  // NaN, a token that was not listed, fails
  *worst = std::max(*worst, error / allowed);
  const auto [gap, best] = gpu_worker::Top(golden_logits);
  if (gap > 2 * delta * size) {
    EXPECT_EQ(std::max_element(found.begin(), found.end()) - found.begin(),
              static_cast<ptrdiff_t>(best))
        << where;
  }
}

void CheckAnswer(const GoldenModel& golden, const Answer& answer, double delta) {
  const size_t vocab = golden.logits[0].size();
  const size_t prompt = golden.prompt_tokens;
  ASSERT_EQ(answer.prompt_logprobs.size(), prompt - 1);
  const std::vector<uint32_t> generated(golden.tokens.begin() + prompt, golden.tokens.end());
  ASSERT_EQ(answer.ids, generated) << "greedy tokens";
  double worst = 0;
  for (size_t t = 0; t + 1 < golden.tokens.size(); ++t) {
    const auto& logprobs =
        t + 1 < prompt ? answer.prompt_logprobs[t] : answer.logprobs[t + 1 - prompt];
    ExpectRow(golden.logits[t], ByToken(logprobs, vocab), delta, absl::StrCat("position ", t),
              &worst);
    if (testing::Test::HasFatalFailure()) return;
  }
  std::printf("  %s: worst row at %.1f %% of its tolerance\n", golden.name.c_str(), 100 * worst);
}

void ExpectTheOracle(const std::string& name, const std::vector<int>& worker_counts,
                     const std::vector<std::string>& flags) {
  const GoldenModel golden = gpu_worker::LoadGolden(name);
  const double delta = gpu_worker::ToleranceF32(golden);
  const ModelFolder folder(name);
  const std::vector<uint32_t> prompt(golden.tokens.begin(),
                                     golden.tokens.begin() + golden.prompt_tokens);
  for (const std::string attention : {"flash", "reference"}) {
    for (const int workers : worker_counts) {
      SCOPED_TRACE(absl::StrCat(attention, ", ", workers, " workers"));
      ClusterOptions options;
      options.model = folder.path();
      options.cpu_workers = workers;
      options.flags = {"--precision", "f32", "--attention", attention};
      options.flags.insert(options.flags.end(), flags.begin(), flags.end());
      auto cluster = LocalCluster::Start(options);
      ASSERT_TRUE(cluster.ok()) << cluster.status();
      auto request = TokenRequest(prompt, static_cast<int>(golden.tokens.size() - prompt.size()),
                                  static_cast<int>(golden.logits[0].size()));
      auto answer = InferenceClient(cluster->address()).Generate(request, absl::Seconds(60));
      ASSERT_TRUE(answer.ok()) << answer.status();
      CheckAnswer(golden, *answer, delta);
      EXPECT_TRUE(cluster->Stop().ok());
    }
  }
}

class ClusterLogitsTest : public testing::TestWithParam<std::string> {};

TEST_P(ClusterLogitsTest, F32MatchesTheOracle) { ExpectTheOracle(GetParam(), {1, 2, 3}, {}); }

TEST_P(ClusterLogitsTest, F32OnCudaMatchesTheOracle) {
  ExpectTheOracle(GetParam(), {2}, EmulatedCuda());
}

INSTANTIATE_TEST_SUITE_P(Golden, ClusterLogitsTest, testing::ValuesIn(gpu_worker::GoldenNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem::cluster_test
