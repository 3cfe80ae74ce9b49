// What the suites ask, byte for byte, against a Python script that shares nothing with them, and
// against the lists and prompts that were published.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "eval_client/sandbox/child.h"
#include "eval_client/suites/digest.h"
#include "eval_client/suites/suite.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

std::string SourceFolder() {
  const char* source = std::getenv("TANDEM_SOURCE_DIR");
  return source ? source : ".";
}

// The folder of all suites' data; empty when there is none.
std::string DataFolderOfTests() {
  const char* data = std::getenv("TANDEM_DATA");
  const std::string folder = data ? data : SourceFolder() + "/../shared/data";
  return fs::exists(folder + "/mmlu/test") ? folder : "";
}

#define SKIP_WITHOUT_DATA(folder) \
  if (folder.empty()) GTEST_SKIP() << "no data: set TANDEM_DATA to a folder with mmlu, gsm8k, ..."

std::vector<Json> Oracle(const std::string& suite, const std::string& data, int shots = 0) {
  const auto result =
      RunChild({.arguments = {"python3", SourceFolder() + "/tests/eval/prompts_oracle.py", suite,
                              data, absl::StrCat(shots)},
                .descriptors = {},
                .deadline = absl::Minutes(2),
                .output_bytes_max = size_t{1} << 28});
  EXPECT_TRUE(result.ok()) << result.status();
  std::vector<Json> lines;
  if (!result.ok()) return lines;
  EXPECT_EQ(result->exit_code, 0) << result->output.substr(0, 2000);
  std::istringstream text(result->output);
  for (std::string line; std::getline(text, line);) {
    lines.push_back(Json::parse(line, nullptr, false));
  }
  return lines;
}

std::vector<Question> Questions(const SuiteOptions& options) {
  const auto suite = LoadSuite(options);
  EXPECT_TRUE(suite.ok()) << suite.status();
  return suite.ok() ? (*suite)->questions() : std::vector<Question>();
}

// `before` stands in front of every prompt of the oracle.
void ExpectSame(const std::vector<Question>& questions, const std::vector<Json>& expected,
                const std::string& before = "") {
  ASSERT_FALSE(expected.empty());
  ASSERT_EQ(questions.size(), expected.size());
  for (size_t i = 0; i < questions.size(); ++i) {
    ASSERT_EQ(questions[i].id, expected[i]["id"]) << i;
    ASSERT_EQ(questions[i].prompt, before + expected[i]["prompt"].get<std::string>()) << i;
    ASSERT_EQ(questions[i].gold, expected[i]["gold"]) << i;
  }
}

// The order that was published beside the data.
void ExpectListed(const std::vector<Question>& questions, const std::string& folder,
                  const char* id_key) {
  std::ifstream file(folder + "/ktransformers_seed42_first1000.json");
  const Json items = Json::parse(file)["items"];
  ASSERT_EQ(items.size(), 1000u);
  ASSERT_EQ(questions.size(), items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const Json& id = items[i][id_key];
    const std::string name = id.is_string() ? id.get<std::string>() : id.dump();
    ASSERT_EQ(questions[i].id, name) << i;
    ASSERT_EQ(questions[i].gold, items[i]["answer"]) << i;
  }
}

TEST(Prompts, Mmlu) {
  const std::string data = DataFolderOfTests();
  SKIP_WITHOUT_DATA(data);
  const auto questions = Questions({.name = "mmlu", .data = data});
  ExpectSame(questions, Oracle("mmlu", data + "/mmlu"));
  ExpectListed(questions, data + "/mmlu", "id");
}

TEST(Prompts, MmluWithShots) {
  const std::string data = DataFolderOfTests();
  SKIP_WITHOUT_DATA(data);
  for (const int shots : {1, 5}) {
    const auto questions = Questions({.name = "mmlu", .data = data, .shots = shots});
    ExpectSame(questions, Oracle("mmlu-shots", data + "/mmlu", shots));
    EXPECT_EQ(questions[0].form, PromptForm::kText);
  }
}

TEST(Prompts, MmluPro) {
  const std::string data = DataFolderOfTests();
  SKIP_WITHOUT_DATA(data);
  const auto questions = Questions({.name = "mmlu_pro", .data = data});
  ExpectSame(questions, Oracle("mmlu_pro", data + "/mmlu_pro"));
  ExpectListed(questions, data + "/mmlu_pro", "question_id");
}

TEST(Prompts, MmluProWithoutTheLeak) {
  const std::string data = DataFolderOfTests();
  SKIP_WITHOUT_DATA(data);
  const auto with = Questions({.name = "mmlu_pro", .data = data});
  const auto without = Questions({.name = "mmlu_pro", .data = data, .variant = "stripped"});
  ASSERT_EQ(with.size(), without.size());
  int right_given_away = 0;
  for (size_t i = 0; i < with.size(); ++i) {
    EXPECT_EQ(with[i].id, without[i].id);
    const std::string right = absl::StrCat("\n", with[i].gold, ".  ");
    if (with[i].prompt.find(right) != std::string::npos) ++right_given_away;
    EXPECT_EQ(without[i].prompt.find(right), std::string::npos) << with[i].id;
  }
  EXPECT_GT(right_given_away, 0);
}

// The digest covers the 1319 prompts of the artifact's file, each followed by a zero byte:
// kvcache-ai/ktransformers e021c4ee, sosp25-ae/ktransformers-utils/data/gsm8k/input.jsonl, key
// "instructions".
TEST(Prompts, Gsm8kAsTheArtifactAsks) {
  const std::string data = DataFolderOfTests();
  SKIP_WITHOUT_DATA(data);
  const auto questions = Questions({.name = "gsm8k", .data = data});
  ASSERT_EQ(questions.size(), 1319u);
  std::string all;
  for (const Question& question : questions) all += question.prompt + '\0';
  EXPECT_EQ(Sha256Hex(all), "b47e540a3e3fe00647deee84852268ad4532651d4a4b561cd46476bdde0b291e");
  const auto bare = Questions({.name = "gsm8k", .data = data, .shots = 0});
  ExpectSame(bare, Oracle("gsm8k", data + "/gsm8k"));
  const std::string shots =
      questions[0].prompt.substr(0, questions[0].prompt.size() - bare[0].prompt.size());
  ExpectSame(questions, Oracle("gsm8k", data + "/gsm8k"), shots);
  EXPECT_EQ(questions[0].stop, std::vector<std::string>{"\nQuestion"});
  EXPECT_EQ(questions[0].max_tokens, 1024u);
  EXPECT_EQ(questions[0].temperature, 0.0f);
}

TEST(Prompts, Gsm8kAsLmEvalAsks) {
  const fs::path folder = fs::path(testing::TempDir()) / "gsm8k_lm_eval";
  fs::create_directories(folder);
  for (const auto& [part, rows] : {std::pair("train", 300), std::pair("test", 60)}) {
    std::ofstream file(folder / absl::StrCat(part, ".jsonl"));
    for (int i = 0; i < rows; ++i) {
      file << Json{{"question", absl::StrCat("What is ", i, " + 1000?")},
                   {"answer", absl::StrCat("Add.\n#### ", i < 900 ? "1," : "2,", 100 + i)}}
           << "\n";
    }
  }
  for (const int shots : {5, 8}) {
    const auto questions =
        Questions({.name = "gsm8k", .data = folder.string(), .shots = shots, .variant = "lm-eval"});
    ExpectSame(questions, Oracle("gsm8k-lm-eval", folder.string(), shots));
    EXPECT_EQ(questions[0].gold, "1100");
    EXPECT_EQ(questions[0].max_tokens, 256u);
  }
}

TEST(Prompts, HumanEval) {
  const std::string data = DataFolderOfTests();
  SKIP_WITHOUT_DATA(data);
  const auto questions = Questions({.name = "humaneval", .data = data});
  EXPECT_EQ(questions.size(), 164u);
  ExpectSame(questions, Oracle("humaneval", data + "/humaneval"));
  const auto samples = Questions({.name = "humaneval", .data = data, .limit = 2, .samples = 3});
  ASSERT_EQ(samples.size(), 6u);
  EXPECT_EQ(samples[5].id, "HumanEval/1#2");
  EXPECT_EQ(samples[5].prompt, questions[1].prompt);
}

}  // namespace
}  // namespace tandem::eval
