// Same weights, prompt and seed give the same tokens and the same log probabilities, bit for bit,
// whatever the batch, the number of expert workers, the chunks a prompt is cut into or the way rows
// travel. Real processes, the model that ships; on the host and, emulated, on CUDA.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/cluster/inference_client.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/quiz_prompts.h"

namespace tandem::cluster_test {
namespace {

constexpr int kRequests = 16;
constexpr int kTokens = 24;

std::string Ask(InferenceClient& client, const inference::v1::GenerateRequest& request) {
  auto answer = client.Generate(request, absl::Seconds(120));
  if (!answer.ok()) return absl::StrCat("failed: ", answer.status().ToString());
  if (answer->ids.size() != request.max_tokens()) return "failed: wrong number of tokens";
  return Fingerprint(*answer);
}

// One answer after another, or all at once.
std::vector<std::string> AskAll(const std::string& address,
                                const std::vector<inference::v1::GenerateRequest>& requests,
                                bool together) {
  std::vector<std::string> answers(requests.size());
  InferenceClient client(address);
  if (!together) {
    for (size_t i = 0; i < requests.size(); ++i) answers[i] = Ask(client, requests[i]);
    return answers;
  }
  std::vector<std::thread> threads;
  for (size_t i = 0; i < requests.size(); ++i) {
    threads.emplace_back([&, i] { answers[i] = Ask(client, requests[i]); });
  }
  for (auto& thread : threads) thread.join();
  return answers;
}

using Answers = std::vector<std::string>;

class ClusterRuns : public testing::Test {
 protected:
  void Prepare(int requests, int tokens, float temperature) {
    auto made = QuizRequests(requests, tokens, temperature);
    ASSERT_TRUE(made.ok()) << made.status();
    requests_ = *std::move(made);
    ASSERT_EQ(static_cast<int>(requests_.size()), requests);
  }

  // What a cluster of its own answers.
  Answers Run(int workers, bool together, std::vector<std::string> flags) {
    ClusterOptions options;
    options.model = QuizModelPath();
    options.cpu_workers = workers;
    options.flags = std::move(flags);
    auto cluster = LocalCluster::Start(options);
    EXPECT_TRUE(cluster.ok()) << cluster.status();
    if (!cluster.ok()) return {};
    auto answers = AskAll(cluster->address(), requests_, together);
    worker_answers_ = WorkerAnswers(*cluster);
    EXPECT_TRUE(cluster->Stop().ok());
    return answers;
  }

  // One after another on one worker: what all other ways must equal.
  Answers Baseline(std::vector<std::string> flags) {
    Answers answers = Run(1, /*together=*/false, std::move(flags));
    EXPECT_EQ(answers.size(), requests_.size());
    for (const auto& answer : answers)
      EXPECT_EQ(answer.find("failed"), std::string::npos) << answer;
    return answers;
  }

  // How often expert workers answered the GPU worker; negative when it does not say.
  static double WorkerAnswers(const LocalCluster& cluster) {
    const auto processes = cluster.Processes();
    if (!processes.ok()) return -1;
    for (const ProcessInfo& process : *processes) {
      if (process.role != "gpu_worker") continue;
      return MetricOf(process.admin_address,
                      "tandem_engine_expert_answers_total{transport=\"shm\"}")
          .value_or(-1);
    }
    return -1;
  }

  std::vector<inference::v1::GenerateRequest> requests_;
  double worker_answers_ = -1;  // in the last run
};

class InvarianceTest : public ClusterRuns, public testing::WithParamInterface<float> {
 protected:
  void SetUp() override { Prepare(kRequests, kTokens, GetParam()); }
};

TEST_P(InvarianceTest, SameBitsForBatchWorkersAndChunks) {
  const Answers baseline = Baseline({});
  ASSERT_FALSE(HasFailure());
  EXPECT_NE(baseline[0], baseline[1]) << "different questions should not answer alike";
  EXPECT_EQ(baseline, Run(1, /*together=*/true, {})) << "batch 16";
  EXPECT_EQ(baseline, Run(2, /*together=*/true, {"--prefill-chunk", "32"})) << "2 workers";
  EXPECT_EQ(baseline, Run(3, /*together=*/true, {"--prefill-chunk", "7"})) << "3 workers";
  EXPECT_EQ(baseline, Run(2, /*together=*/true, {"--expert-transport=shm"})) << "shared memory";
  EXPECT_EQ(baseline, Run(2, /*together=*/true, {"--expert-transport=grpc"})) << "gRPC";
}

// The same in the number formats whose kernels are not bf16's.
TEST_P(InvarianceTest, SameBitsInEveryFormatOfLinearLayers) {
  std::vector<Answers> seen;
  for (const std::string format : {"native", "stored", "fp8", "marlin8", "marlin4"}) {
    const Answers baseline = Baseline({"--linear", format});
    ASSERT_FALSE(HasFailure()) << format;
    for (const auto& other : seen) EXPECT_NE(baseline, other) << format << " is another format";
    seen.push_back(baseline);
    EXPECT_EQ(baseline, Run(2, /*together=*/true,
                            {"--linear", format, "--prefill-chunk", "7", "--gpu-threads", "1"}))
        << format;
  }
}

INSTANTIATE_TEST_SUITE_P(GreedyAndSeeded, InvarianceTest, testing::Values(0.0f, 0.9f));

// The CUDA backend in whole clusters: fewer and shorter answers, because its device is emulated.
struct CudaSetting {
  std::string name;
  std::vector<std::string> flags;
};

void PrintTo(const CudaSetting& setting, std::ostream* out) { *out << setting.name; }

class CudaInvarianceTest : public ClusterRuns, public testing::WithParamInterface<CudaSetting> {
 protected:
  void SetUp() override { Prepare(/*requests=*/3, /*tokens=*/3, /*temperature=*/0.9f); }
  static std::vector<std::string> Flags(const std::vector<std::string>& more) {
    std::vector<std::string> flags = EmulatedCuda();
    flags.insert(flags.end(), GetParam().flags.begin(), GetParam().flags.end());
    flags.insert(flags.end(), more.begin(), more.end());
    return flags;
  }
};

TEST_P(CudaInvarianceTest, SameBitsForBatchWorkersChunksAndHalves) {
  const Answers baseline = Baseline(Flags({}));
  ASSERT_FALSE(HasFailure());
  EXPECT_NE(baseline[0], baseline[1]) << "different questions should not answer alike";
  EXPECT_EQ(baseline,
            Run(2, /*together=*/true, Flags({"--prefill-chunk", "48", "--half-batches", "2"})));
}

INSTANTIATE_TEST_SUITE_P(
    Formats, CudaInvarianceTest,
    testing::Values(CudaSetting{"bf16", {}}, CudaSetting{"bf16_eager", {"--cuda-graphs", "false"}},
                    CudaSetting{"fp8_hopper", {"--linear", "fp8", "--kernels", "hopper"}},
                    CudaSetting{"marlin4", {"--linear", "marlin4"}}),
    [](const auto& info) { return info.param.name; });

// Experts that the GPU worker holds itself, chosen from what its router asked for: the whole way
// from counts through the list to a worker that needs no other.
struct HotSetting {
  std::string name;
  std::vector<std::string> flags;
  int requests, tokens;
};

void PrintTo(const HotSetting& setting, std::ostream* out) { *out << setting.name; }

class HotExpertsTest : public ClusterRuns, public testing::WithParamInterface<HotSetting> {
 protected:
  void SetUp() override {
    Prepare(GetParam().requests, GetParam().tokens, /*temperature=*/0.9f);
    char pattern[] = "/tmp/tandem_hot_XXXXXX";
    folder_ = ::mkdtemp(pattern);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::vector<std::string> Flags(const std::string& flag, const std::string& file) {
    std::vector<std::string> flags = GetParam().flags;
    flags.insert(flags.end(), {flag, absl::StrCat(folder_, "/", file)});
    return flags;
  }
  // The list of experts of all that were asked for.
  int PickAll() {
    return std::system(absl::StrCat(ProgramPath("tandem"), " hot-experts ", folder_,
                                    "/counts.json --model ", QuizModelPath(), " --gib 1 --output ",
                                    folder_, "/hot.json")
                           .c_str());
  }

  std::string folder_;
};

TEST_P(HotExpertsTest, SameBitsWithoutAskingAWorker) {
  const Answers baseline = Baseline(Flags("--routing-counts", "counts.json"));
  ASSERT_FALSE(HasFailure());
  EXPECT_GT(worker_answers_, 0);
  ASSERT_EQ(PickAll(), 0);
  EXPECT_EQ(baseline, Run(1, /*together=*/true, Flags("--hot-experts", "hot.json")));
  EXPECT_EQ(worker_answers_, 0);
}

INSTANTIATE_TEST_SUITE_P(Backends, HotExpertsTest,
                         testing::Values(HotSetting{"host", {}, 4, 8},
                                         HotSetting{"cuda_emulated", EmulatedCuda(), 2, 3}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tandem::cluster_test
