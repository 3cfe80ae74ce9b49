// The same prompt, parameters and seed over gRPC and over HTTP: the same tokens, text and bits of
// every log probability. Real processes, the model that ships.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/cluster/inference_client.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/quiz_prompts.h"

namespace tandem::cluster_test {
namespace {

using Json = nlohmann::json;
using inference::v1::GenerateRequest;

constexpr int kSeeds = 8;
constexpr int kTokens = 24;
constexpr int kTop = 5;

// The body of the answer to one POST; everything that goes wrong becomes a JSON that is no answer.
Json Post(const std::string& address, const std::string& path, const Json& body) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (!absl::SimpleAtoi(address.substr(colon + 1), &port)) return {{"failed", address}};
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval wait_max = {120, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait_max, sizeof wait_max);
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return {{"failed", "connect"}};
  const std::string text = body.dump();
  const std::string request = absl::StrCat(
      "POST ", path,
      " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n",
      "Content-Length: ", text.size(), "\r\n\r\n", text);
  std::string answer;
  char buffer[65536];
  if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) == ssize_t(request.size())) {
    for (ssize_t n; (n = recv(fd, buffer, sizeof buffer, 0)) > 0;) answer.append(buffer, n);
  }
  close(fd);
  const size_t head_end = answer.find("\r\n\r\n");
  if (head_end == std::string::npos) return {{"failed", answer}};
  return Json::parse(answer.substr(head_end + 4), nullptr, /*allow_exceptions=*/false);
}

GenerateRequest Sampled(uint64_t seed) {
  GenerateRequest request;
  request.set_max_tokens(kTokens);
  auto* sampling = request.mutable_sampling();
  sampling->set_temperature(0.9f);
  sampling->set_top_p(0.95f);
  sampling->set_top_k(40);
  sampling->set_min_p(0.01f);
  sampling->set_repetition_penalty(1.05f);
  sampling->set_presence_penalty(0.25f);
  sampling->set_seed(seed);
  sampling->set_logprobs(true);
  sampling->set_top_logprobs(kTop);
  return request;
}

Json SampledJson(uint64_t seed) {
  return {{"max_tokens", kTokens}, {"temperature", 0.9f},     {"top_p", 0.95f},
          {"top_k", 40},           {"min_p", 0.01f},          {"repetition_penalty", 1.05f},
          {"seed", seed},          {"presence_penalty", 0.25}};
}

// Log probabilities of the answer's tokens, as doubles that hold exactly the floats.
Json ChosenOf(const Answer& answer) {
  Json out = Json::array();
  for (const auto& at : answer.logprobs) out.push_back(static_cast<double>(at.chosen().logprob()));
  return out;
}

class GrpcHttpEqualityTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ClusterOptions options;
    options.model = QuizModelPath();
    auto started = LocalCluster::Start(options);
    ASSERT_TRUE(started.ok()) << started.status();
    cluster_ = new LocalCluster(*std::move(started));
  }
  static void TearDownTestSuite() {
    const auto code = cluster_->Stop();
    EXPECT_TRUE(code.ok() && *code == 0);
    delete cluster_;
  }

  Answer Ask(const GenerateRequest& request) {
    InferenceClient client(cluster_->address());
    auto answer = client.Generate(request, absl::Seconds(120));
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *std::move(answer) : Answer();
  }
  Json AskHttp(const std::string& path, const Json& body) {
    const Json answer = Post(cluster_->http_address(), path, body);
    EXPECT_TRUE(answer.is_object() && answer.contains("choices")) << answer;
    return answer.is_object() && answer.contains("choices") ? answer["choices"][0] : Json();
  }

  static LocalCluster* cluster_;
};
LocalCluster* GrpcHttpEqualityTest::cluster_ = nullptr;

TEST_F(GrpcHttpEqualityTest, Text) {
  std::vector<std::string> texts;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    GenerateRequest request = Sampled(seed);
    request.set_text("The capital of");
    const Answer answer = Ask(request);
    Json body = SampledJson(seed);
    body["prompt"] = "The capital of";
    body["logprobs"] = kTop;
    const Json choice = AskHttp("/v1/completions", body);
    EXPECT_EQ(choice["text"], answer.text);
    EXPECT_EQ(choice["logprobs"]["token_logprobs"], ChosenOf(answer));
    texts.push_back(answer.text);
  }
  // With one text for all seeds this would compare little.
  std::sort(texts.begin(), texts.end());
  EXPECT_GT(std::unique(texts.begin(), texts.end()) - texts.begin(), kSeeds / 2);
}

TEST_F(GrpcHttpEqualityTest, Chat) {
  GenerateRequest request = Sampled(11);
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("Which country has the capital Tallinn?");
  const Answer answer = Ask(request);
  Json body = SampledJson(11);
  body["messages"] = Json::array({{{"role", "user"}, {"content", message->content()}}});
  body["logprobs"] = true;
  body["top_logprobs"] = kTop;
  const Json choice = AskHttp("/v1/chat/completions", body);
  EXPECT_EQ(choice["message"]["content"], answer.text);
  const Json& content = choice["logprobs"]["content"];
  ASSERT_EQ(content.size(), answer.logprobs.size());
  for (size_t i = 0; i < content.size(); ++i) {
    EXPECT_EQ(content[i]["logprob"].get<double>(), answer.logprobs[i].chosen().logprob());
    ASSERT_EQ(content[i]["top_logprobs"].size(), size_t{kTop});
    for (int k = 0; k < kTop; ++k) {
      EXPECT_EQ(content[i]["top_logprobs"][k]["logprob"].get<double>(),
                answer.logprobs[i].top(k).logprob());
    }
  }
}

TEST_F(GrpcHttpEqualityTest, TokensWithThePromptsLogprobs) {
  const std::vector<uint32_t> prompt = {0, 42, 849, 81, 223, 91, 350, 2000, 17};
  GenerateRequest request = Sampled(3);
  request.mutable_tokens()->mutable_ids()->Add(prompt.begin(), prompt.end());
  request.set_prompt_logprobs_plus1(kTop + 1);
  const Answer answer = Ask(request);
  Json body = SampledJson(3);
  body["prompt"] = prompt;
  body["echo"] = true;
  body["logprobs"] = kTop;
  const Json choice = AskHttp("/v1/completions", body);
  Json expected = Json::array({nullptr});
  for (const auto& at : answer.prompt_logprobs)
    expected.push_back(static_cast<double>(at.chosen().logprob()));
  for (const Json& one : ChosenOf(answer)) expected.push_back(one);
  EXPECT_EQ(choice["logprobs"]["token_logprobs"], expected);
  EXPECT_TRUE(absl::EndsWith(choice["text"].get<std::string>(), answer.text));
}

TEST_F(GrpcHttpEqualityTest, InACrowdOfBoth) {
  constexpr int kAsked = 12;
  std::vector<std::string> over_grpc(kAsked), over_http(kAsked);
  std::vector<std::thread> threads;
  for (int i = 0; i < kAsked; ++i) {
    threads.emplace_back([&, i] {
      GenerateRequest request = Sampled(static_cast<uint64_t>(i));
      request.set_text("A");
      over_grpc[i] = Ask(request).text;
    });
    threads.emplace_back([&, i] {
      Json body = SampledJson(static_cast<uint64_t>(i));
      body["prompt"] = "A";
      over_http[i] = AskHttp("/v1/completions", body)["text"];
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(over_grpc, over_http);
}

}  // namespace
}  // namespace tandem::cluster_test
