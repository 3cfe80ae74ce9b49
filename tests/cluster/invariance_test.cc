// Same weights, prompt and seed give the same tokens and the same log probabilities, bit for bit,
// whatever the batch, the number of expert workers, the chunks a prompt is cut into or the way rows
// travel. Real processes, the model that ships.
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
  if (static_cast<int>(answer->ids.size()) != kTokens) return "failed: wrong number of tokens";
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

class InvarianceTest : public testing::TestWithParam<float> {
 protected:
  std::vector<std::string> Run(int workers, bool together, std::vector<std::string> flags) {
    ClusterOptions options;
    options.model = QuizModelPath();
    options.cpu_workers = workers;
    options.flags = std::move(flags);
    auto cluster = LocalCluster::Start(options);
    EXPECT_TRUE(cluster.ok()) << cluster.status();
    if (!cluster.ok()) return {};
    auto answers = AskAll(cluster->address(), requests_, together);
    EXPECT_TRUE(cluster->Stop().ok());
    return answers;
  }

  void SetUp() override {
    auto requests = QuizRequests(kRequests, kTokens, GetParam());
    ASSERT_TRUE(requests.ok()) << requests.status();
    requests_ = *std::move(requests);
    ASSERT_EQ(static_cast<int>(requests_.size()), kRequests);
  }

  std::vector<inference::v1::GenerateRequest> requests_;
};

TEST_P(InvarianceTest, SameBitsForBatchWorkersAndChunks) {
  const auto baseline = Run(1, /*together=*/false, {});
  ASSERT_EQ(static_cast<int>(baseline.size()), kRequests);
  for (const auto& answer : baseline) ASSERT_EQ(answer.find("failed"), std::string::npos) << answer;
  EXPECT_NE(baseline[0], baseline[1]) << "different questions should not answer alike";
  EXPECT_EQ(baseline, Run(1, /*together=*/true, {})) << "batch 16";
  EXPECT_EQ(baseline, Run(2, /*together=*/true, {"--prefill-chunk", "32"})) << "2 workers";
  EXPECT_EQ(baseline, Run(3, /*together=*/true, {"--prefill-chunk", "7"})) << "3 workers";
  EXPECT_EQ(baseline, Run(2, /*together=*/true, {"--expert-transport=shm"})) << "shared memory";
  EXPECT_EQ(baseline, Run(2, /*together=*/true, {"--expert-transport=grpc"})) << "gRPC";
}

// The same in the number formats whose kernels are not bf16's.
TEST_P(InvarianceTest, SameBitsInEveryFormatOfLinearLayers) {
  std::vector<std::vector<std::string>> seen;
  for (const std::string format : {"native", "stored", "fp8", "marlin8", "marlin4"}) {
    const auto baseline = Run(1, /*together=*/false, {"--linear", format});
    ASSERT_EQ(static_cast<int>(baseline.size()), kRequests);
    for (const auto& answer : baseline) {
      ASSERT_EQ(answer.find("failed"), std::string::npos) << format << ": " << answer;
    }
    for (const auto& other : seen) EXPECT_NE(baseline, other) << format << " is another format";
    seen.push_back(baseline);
    EXPECT_EQ(baseline, Run(2, /*together=*/true,
                            {"--linear", format, "--prefill-chunk", "7", "--gpu-threads", "1"}))
        << format;
  }
}

INSTANTIATE_TEST_SUITE_P(GreedyAndSeeded, InvarianceTest, testing::Values(0.0f, 0.9f));

}  // namespace
}  // namespace tandem::cluster_test
