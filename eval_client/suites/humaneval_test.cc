// HumanEval from answer to verdict. Tests that run programs need bubblewrap and skip without it.
#include "eval_client/suites/humaneval.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "eval_client/suites/code_judge.h"
#include "eval_client/suites/rows.h"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(HumanEvalCode, IsWhatThePublishedScriptMakesOfAnAnswer) {
  EXPECT_EQ(HumanEvalCode("    return 1\n"), "    return 1\n");
  EXPECT_EQ(HumanEvalCode("\n\n\treturn 1"), "    return 1");
  EXPECT_EQ(HumanEvalCode("```python\ndef f():\n\treturn 1\n```"), "def f():\n    return 1\n");
  EXPECT_EQ(HumanEvalCode("Here:\n```python\nx = 1\n```\nDone."), "Here:\nx = 1\n\nDone.");
  EXPECT_EQ(HumanEvalCode("a\nif __name__ == \"__main__\":\n  b"), "a\n");
  EXPECT_EQ(HumanEvalCode("a\n# Example usage:\nb"), "a\n");
  EXPECT_EQ(HumanEvalCode("a\n# Example usage\nif __name__ == \"__main__\":"), "a\n");
  EXPECT_EQ(HumanEvalCode("\n"), "");
}

Question AddTask() {
  Question question;
  question.kind = AnswerKind::kCode;
  question.code = {.code_before = "def add(a, b):\n    \"\"\"Adds.\"\"\"\n",
                   .test =
                       "def check(candidate):\n    assert candidate(1, 2) == 3\n"
                       "    assert candidate(-1, 1) == 0\n",
                   .entry_point = "add"};
  return question;
}

class HumanEvalRun : public testing::Test {
 protected:
  void SetUp() override {
    auto judge = CodeJudge::Create();
    if (!judge.ok()) GTEST_SKIP() << judge.status().message();
    judge_ = *std::move(judge);
  }
  std::string Verdict(const Question& question, const std::string& answer) {
    const auto verdict = judge_->Verdict(question, answer);
    EXPECT_TRUE(verdict.ok()) << verdict.status();
    return verdict.value_or("");
  }
  std::unique_ptr<CodeJudge> judge_;
};

TEST_F(HumanEvalRun, RightAnswersPassInEveryForm) {
  for (const char* answer : {
           "    return a + b",
           "\treturn a + b\n",
           "```python\ndef add(a, b):\n    return a + b\n```",
           "def add(a, b):\n    return a + b\n\nif __name__ == \"__main__\":\n    add()\n",
           "    return a + b\n\n# Example usage\nraise SystemExit\n",
           "    print('debug')\n    return a + b",
       }) {
    EXPECT_EQ(Verdict(AddTask(), answer), "passed") << answer;
  }
}

TEST_F(HumanEvalRun, WrongAnswersFail) {
  EXPECT_EQ(Verdict(AddTask(), "    return a - b"), "failed: AssertionError");
  EXPECT_THAT(Verdict(AddTask(), "Sure! Here is the function:"), HasSubstr("failed: SyntaxError"));
  EXPECT_THAT(Verdict(AddTask(), ""), HasSubstr("failed: AssertionError"));
  EXPECT_THAT(Verdict(AddTask(), "    return c"), HasSubstr("failed: NameError"));
  EXPECT_EQ(Verdict(AddTask(), "    while True: pass"), "timeout");
}

// Ways to look finished without having been tested.
TEST_F(HumanEvalRun, AnswersThatCheatFail) {
  for (const char* answer : {
           "    import os; os._exit(0)",
           "    import sys; sys.exit(0)",
           "    raise SystemExit(0)",
           "    import os, sys; sys.stdout.write('passed'); sys.stdout.flush(); os._exit(0)",
           "    exit()",
           "    import os\n    os.write(4, b'0' * 32)\n    os._exit(0)",
           "    import atexit, os\n    atexit.register(lambda: os._exit(0))\n    return 0",
           "    import os\n    os.close(1)\n    os.close(2)\n    os._exit(0)",
           "    import os\n    os.execv('/usr/bin/python3', ['python3', '-c', ''])",
           "    import signal\n    signal.raise_signal(signal.SIGKILL)",
           "    import threading, os\n    threading.Thread(target=os._exit, args=(0,)).start()\n"
           "    import time\n    time.sleep(5)",
       }) {
    EXPECT_THAT(Verdict(AddTask(), answer), testing::StartsWith("failed: ")) << answer;
  }
}

std::string HumanEvalFile() {
  const char* data = std::getenv("TANDEM_DATA");
  const char* source = std::getenv("TANDEM_SOURCE_DIR");
  const fs::path folder = data     ? fs::path(data)
                          : source ? fs::path(source) / ".." / "shared" / "data"
                                   : fs::path("../shared/data");
  const fs::path file = folder / "humaneval" / "HumanEval.jsonl.gz";
  return fs::exists(file) ? file.string() : "";
}

TEST_F(HumanEvalRun, AllReferenceSolutionsPass) {
  const std::string path = HumanEvalFile();
  if (path.empty()) GTEST_SKIP() << "no HumanEval: set TANDEM_DATA to a folder with humaneval";
  const auto suite = LoadHumanEval({.name = "humaneval", .data = path});
  ASSERT_TRUE(suite.ok()) << suite.status();
  EXPECT_TRUE(NeedsCodeJudge(**suite));
  const auto rows = ReadFiles({path});
  ASSERT_TRUE(rows.ok()) << rows.status();
  const auto& questions = (*suite)->questions();
  ASSERT_EQ(questions.size(), 164u);
  std::vector<std::string> verdicts(questions.size());
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::max(1u, std::thread::hardware_concurrency()); ++t) {
    threads.emplace_back([&] {
      for (size_t i = next++; i < questions.size(); i = next++) {
        verdicts[i] = Verdict(questions[i], rows->rows[i]["canonical_solution"]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < verdicts.size(); ++i) {
    EXPECT_EQ(verdicts[i], "passed") << questions[i].id;
  }
}

}  // namespace
}  // namespace tandem::eval
