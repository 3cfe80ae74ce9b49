// tandem-eval with a suite whose answers are programs: asked, run in the sandbox, judged, reported.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"
#include "eval_client/sandbox/child.h"
#include "eval_client/sandbox/sandbox.h"
#include "nlohmann/json.hpp"
#include "tests/eval/fake_inference.h"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Request = inference::v1::GenerateRequest;
using Writer = FakeInference::Writer;
using testing::HasSubstr;

// What the fake model answers to the task of each number.
constexpr const char* kAnswers[] = {
    "```python\ndef f0(x):\n    return x + 1\n```",  // right
    "    return x",                                  // wrong
    "    import os; os._exit(0)",                    // hostile
};

class HumanEvalProgram : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(testing::TempDir()) /
        absl::StrCat("humaneval_", testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "humaneval");
    std::ofstream file(folder_ / "humaneval" / "HumanEval.jsonl");
    for (size_t i = 0; i < std::size(kAnswers); ++i) {
      file << Json{{"task_id", absl::StrCat("Made/", i)},
                   {"prompt", absl::StrCat("def f", i, "(x):\n    \"\"\"One more.\"\"\"\n")},
                   {"entry_point", absl::StrCat("f", i)},
                   {"test", "def check(f):\n    assert f(1) == 2\n"}}
           << "\n";
    }
  }

  ChildResult Run(const FakeInference& server, std::vector<std::string> more) {
    const char* build = std::getenv("TANDEM_BINARY_DIR");
    ChildOrders orders = {
        .arguments = {absl::StrCat(build ? build : ".", "/bin/tandem-eval"), "run", "--suite",
                      "humaneval", "--data", folder_.string(), "--endpoint", server.address(),
                      "--out", (folder_ / "run").string()},
        .descriptors = {},
        .deadline = absl::Seconds(60),
        .output_bytes_max = size_t{1} << 20};
    orders.arguments.insert(orders.arguments.end(), more.begin(), more.end());
    const auto result = RunChild(orders);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : ChildResult();
  }

  // Verdicts by id.
  std::map<std::string, std::string> Verdicts() const {
    std::map<std::string, std::string> verdicts;
    std::ifstream file(folder_ / "run" / "journal.jsonl");
    for (std::string line; std::getline(file, line);) {
      const Json record = Json::parse(line);
      verdicts[record["id"]] = record.value("verdict", "none");
    }
    return verdicts;
  }

  static grpc::Status Answer(const Request& request, int, grpc::ServerContext*, Writer* writer) {
    const std::string id = request.request_id();  // eval-Made/1 or eval-Made/1#0
    return FakeInference::Say(kAnswers[id[std::string("eval-Made/").size()] - '0'], writer);
  }

  fs::path folder_;
};

TEST_F(HumanEvalProgram, RunsWhatTheModelWrote) {
  const auto sandbox = Sandbox::Create();
  if (!sandbox.ok()) GTEST_SKIP() << sandbox.status().message();
  FakeInference server(Answer);
  const ChildResult run = Run(server, {"--samples", "2"});
  EXPECT_EQ(run.exit_code, 0) << run.output;
  EXPECT_EQ(Verdicts(), (std::map<std::string, std::string>{
                            {"Made/0#0", "passed"},
                            {"Made/0#1", "passed"},
                            {"Made/1#0", "failed: AssertionError"},
                            {"Made/1#1", "failed: AssertionError"},
                            {"Made/2#0", "failed: ended before its tests were done"},
                            {"Made/2#1", "failed: ended before its tests were done"}}));
  EXPECT_THAT(run.output, HasSubstr("33.3"));
  EXPECT_EQ(run.output.find("pass@5"), std::string::npos);
  // As the published script asks.
  const Request asked = server.seen().at(0);
  EXPECT_FLOAT_EQ(asked.sampling().temperature(), 0.6f);
  EXPECT_EQ(asked.max_tokens(), 3000u);
  EXPECT_THAT(asked.chat().messages(0).content(), HasSubstr("### Instruction:\nComplete the"));
}

TEST_F(HumanEvalProgram, RefusesToStartWithoutASandbox) {
  FakeInference server(Answer);
  const std::string path = std::getenv("PATH");
  setenv("PATH", "/nowhere", 1);
  const ChildResult run = Run(server, {});
  setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_THAT(run.output, HasSubstr("running generated code needs a sandbox: expected bubblewrap"));
  EXPECT_EQ(std::count(run.output.begin(), run.output.end(), '\n'), 1) << run.output;
  EXPECT_EQ(server.requests(), 0);
}

}  // namespace
}  // namespace tandem::eval
