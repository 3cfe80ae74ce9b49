// The program tandem-eval as its users meet it: exit codes, table, journal, resume and
// interruption, against a fake server.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "tests/eval/fake_inference.h"

extern char** environ;

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Request = inference::v1::GenerateRequest;
using Writer = FakeInference::Writer;
using testing::HasSubstr;

constexpr int kQuestions = 12;

std::string ReadFile(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

struct Outcome {
  int exit_code = -1;
  std::string out, err;
};

class EvalProgram : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / absl::StrCat("eval_", test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    std::ofstream quiz(folder_ / "quiz.jsonl");
    // The right answer of question i is i mod 4.
    for (int i = 0; i < kQuestions; ++i) {
      quiz << Json{{"id", absl::StrCat("q", i)},
                   {"subject", i % 2 == 0 ? "even" : "odd"},
                   {"question", absl::StrCat("Number ", i, "?")},
                   {"choices", {"w", "x", "y", "z"}},
                   {"answer", i % 4}}
           << "\n";
    }
  }

  void TearDown() override {
    if (pid_ > 0) kill(pid_, SIGKILL);
  }

  static std::string Letter(const Request& request) {
    const int number = std::stoi(request.request_id().substr(std::string("eval-q").size()));
    return std::string(1, static_cast<char>('A' + number % 4));
  }
  static grpc::Status AnswerRightly(const Request& request, Writer* writer) {
    return FakeInference::Say(Letter(request), writer);
  }

  std::vector<std::string> RunArguments(const FakeInference& server,
                                        std::vector<std::string> more) const {
    std::vector<std::string> arguments = {
        "run",        "--suite",        "quiz",  "--data",   (folder_ / "quiz.jsonl").string(),
        "--endpoint", server.address(), "--out", RunFolder()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  void Start(std::vector<std::string> arguments) {
    const char* build = std::getenv("TANDEM_BINARY_DIR");
    const std::string program = absl::StrCat(build ? build : ".", "/bin/tandem-eval");
    arguments.insert(arguments.begin(), program);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&actions, 1, (folder_ / "out").c_str(), kFlags, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, (folder_ / "err").c_str(), kFlags, 0600);
    ASSERT_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }

  // The program's end, waited for 60 s at most.
  Outcome Wait() {
    const absl::Time end = absl::Now() + absl::Seconds(60);
    int status = 0;
    while (waitpid(pid_, &status, WNOHANG) == 0) {
      if (absl::Now() > end) {
        ADD_FAILURE() << "the program did not end";
        return {};
      }
      absl::SleepFor(absl::Milliseconds(10));
    }
    pid_ = -1;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status),
            ReadFile(folder_ / "out"), ReadFile(folder_ / "err")};
  }

  Outcome Run(const std::vector<std::string>& arguments) {
    Start(arguments);
    return Wait();
  }

  std::string RunFolder() const { return (folder_ / "run").string(); }
  std::vector<Json> Journal() const {
    std::vector<Json> records;
    std::ifstream file(folder_ / "run" / "journal.jsonl");
    for (std::string line; std::getline(file, line);) {
      const Json record = Json::parse(line, nullptr, false);
      if (!record.is_discarded()) records.push_back(record);
    }
    return records;
  }
  Json Manifest() const { return Json::parse(ReadFile(folder_ / "run" / "manifest.json")); }
  bool WaitForJournalLines(size_t lines) const {
    const absl::Time end = absl::Now() + absl::Seconds(30);
    while (Journal().size() < lines && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
    return Journal().size() >= lines;
  }

  fs::path folder_;
  pid_t pid_ = -1;
};

TEST_F(EvalProgram, AsksEverythingAndEndsWithTheTable) {
  FakeInference server([](const Request& request, int, grpc::ServerContext*, Writer* writer) {
    // q0 is answered wrongly, q1 with a sentence, q2 without an end.
    if (request.request_id() == "eval-q0") return FakeInference::Say("B", writer);
    if (request.request_id() == "eval-q1") return FakeInference::Say("It is B.", writer);
    if (request.request_id() == "eval-q2") {
      return FakeInference::Say("Let me", writer, inference::v1::FINISH_REASON_LENGTH);
    }
    return AnswerRightly(request, writer);
  });
  const Outcome run = Run(RunArguments(server, {"--seed", "3"}));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("total                  12        9   75.0    46.8 ..  91.1      1"
                                 "         1          1       0\n"));
  EXPECT_THAT(run.out, HasSubstr("questions/s"));
  const std::vector<Json> journal = Journal();
  ASSERT_EQ(journal.size(), static_cast<size_t>(kQuestions));
  std::map<std::string, uint64_t> seeds;
  for (const Json& record : journal)
    seeds[absl::StrCat("eval-", record["id"].get<std::string>())] = record["seed"];
  for (const Request& request : server.seen()) {
    EXPECT_EQ(request.sampling().seed(), seeds.at(request.request_id()));
  }
  EXPECT_EQ(Manifest()["model"]["digest"], "fake-digest");
  EXPECT_EQ(Manifest()["sampling"]["seed"], 3);
  EXPECT_EQ(Manifest()["sessions"][0]["outcome"], "finished");
  EXPECT_EQ(Manifest()["sessions"][0]["completion_tokens"], 2 * kQuestions);
  const Outcome report = Run({"report", RunFolder()});
  EXPECT_EQ(report.exit_code, 0) << report.err;
  EXPECT_EQ(report.out, run.out);
}

TEST_F(EvalProgram, FindsTheClusterOfTandemUp) {
  FakeInference server([](const Request& request, int, grpc::ServerContext*, Writer* writer) {
    return AnswerRightly(request, writer);
  });
  setenv("TANDEM_ADDRESS", server.address().c_str(), 1);
  const Outcome run = Run(
      {"run", "--data", (folder_ / "quiz.jsonl").string(), "--out", RunFolder(), "--limit", "3"});
  unsetenv("TANDEM_ADDRESS");
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(server.requests(), 3);
}

TEST_F(EvalProgram, RecordsWhatTheServerKnowsOnlyAfterItsFirstStep) {
  FakeInference* self = nullptr;
  FakeInference server([&](const Request& request, int, grpc::ServerContext*, Writer* writer) {
    inference::v1::ModelInfo model = self->model();
    model.set_precision("bf16");
    self->SetModel(model);
    return AnswerRightly(request, writer);
  });
  self = &server;
  const Outcome run = Run(RunArguments(server, {}));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(Manifest()["model"]["precision"], "bf16");
  EXPECT_THAT(run.out, HasSubstr("experts bf16, bf16, attention"));
}

TEST_F(EvalProgram, KeepsAsManyQuestionsInFlightAsAsked) {
  FakeInference server([](const Request& request, int, grpc::ServerContext*, Writer* writer) {
    absl::SleepFor(absl::Milliseconds(100));
    return AnswerRightly(request, writer);
  });
  EXPECT_EQ(Run(RunArguments(server, {"--concurrency", "4"})).exit_code, 0);
  EXPECT_EQ(server.most_in_flight(), 4);
}

TEST_F(EvalProgram, FailedQuestionsAreNoScoreAndAskedAgainOnResume) {
  std::atomic<bool> mended{false};
  FakeInference server([&](const Request& request, int, grpc::ServerContext*, Writer* writer) {
    if (request.request_id() == "eval-q5" && !mended) {
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no");
    }
    return AnswerRightly(request, writer);
  });
  const Outcome first = Run(RunArguments(server, {}));
  EXPECT_EQ(first.exit_code, 1);
  EXPECT_THAT(first.out, HasSubstr("total                  11       11  100.0"));
  EXPECT_THAT(first.out, HasSubstr("1 questions failed and are in no score"));
  mended = true;
  const Outcome second = Run(RunArguments(server, {"--resume"}));
  EXPECT_EQ(second.exit_code, 0) << second.err;
  EXPECT_THAT(second.out, HasSubstr("total                  12       12  100.0"));
  EXPECT_EQ(server.requests("eval-q5"), 2);
  EXPECT_EQ(server.requests(), kQuestions + 1);
}

TEST_F(EvalProgram, InterruptionKeepsTheJournalAndResumeAsksNothingTwice) {
  std::atomic<bool> hang{true};
  FakeInference server(
      [&](const Request& request, int, grpc::ServerContext* context, Writer* writer) {
        const bool hangs = request.request_id() == "eval-q6" || request.request_id() == "eval-q7";
        return hang && hangs ? FakeInference::Hang(context) : AnswerRightly(request, writer);
      });
  Start(RunArguments(server, {"--concurrency", "2"}));
  ASSERT_TRUE(WaitForJournalLines(6));
  const absl::Time start = absl::Now();
  kill(pid_, SIGINT);
  const Outcome stopped = Wait();
  EXPECT_EQ(stopped.exit_code, 130) << stopped.err;
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  EXPECT_THAT(stopped.err, HasSubstr("--resume"));
  EXPECT_EQ(stopped.out, "");
  EXPECT_EQ(Journal().size(), 6u);
  EXPECT_EQ(Manifest()["sessions"][0]["outcome"], "interrupted");
  hang = false;
  const Outcome resumed = Run(RunArguments(server, {"--resume"}));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_THAT(resumed.out, HasSubstr("total                  12       12  100.0"));
  EXPECT_EQ(Manifest()["sessions"].size(), 2u);
  // The two cancelled questions were sent twice but answered once; all others once.
  std::set<std::string> answered;
  for (const Json& record : Journal()) EXPECT_TRUE(answered.insert(record["id"]).second) << record;
  EXPECT_EQ(server.requests(), kQuestions + 2);
}

TEST_F(EvalProgram, AKilledRunLosesNothingItHadRecorded) {
  std::atomic<bool> hang{true};
  FakeInference server(
      [&](const Request& request, int, grpc::ServerContext* context, Writer* writer) {
        const bool hangs = request.request_id() == "eval-q4";
        return hang && hangs ? FakeInference::Hang(context) : AnswerRightly(request, writer);
      });
  Start(RunArguments(server, {"--concurrency", "1"}));
  ASSERT_TRUE(WaitForJournalLines(4));
  kill(pid_, SIGKILL);
  EXPECT_EQ(Wait().exit_code, 256 + SIGKILL);
  std::ofstream(folder_ / "run" / "journal.jsonl", std::ios::app) << R"({"id":"q4","subj)";
  hang = false;
  const Outcome resumed = Run(RunArguments(server, {"--resume"}));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_THAT(resumed.err, HasSubstr("journal_torn_line_dropped"));
  EXPECT_THAT(resumed.out, HasSubstr("total                  12       12  100.0"));
  EXPECT_EQ(server.requests(), kQuestions + 1);  // q4 twice
}

TEST_F(EvalProgram, AServerThatStaysAwayEndsTheRun) {
  FakeInference server([](const Request&, int, grpc::ServerContext*, Writer*) {
    return grpc::Status(grpc::StatusCode::INTERNAL, "broken");
  });
  const Outcome run = Run(RunArguments(server, {"--concurrency", "2"}));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, HasSubstr("6 questions in a row failed"));
  EXPECT_LT(server.requests(), kQuestions);
}

TEST_F(EvalProgram, FailUnderHasItsOwnExitCode) {
  FakeInference server([](const Request&, int, grpc::ServerContext*, Writer* writer) {
    return FakeInference::Say("A", writer);
  });
  const Outcome run = Run(RunArguments(server, {"--fail-under", "26", "--json"}));
  EXPECT_EQ(run.exit_code, 5) << run.err;
  EXPECT_THAT(run.err, HasSubstr("expected at least 26.00 % correct, found 25.00 %"));
  EXPECT_EQ(Json::parse(run.out)["total"]["correct"], 3);
}

TEST_F(EvalProgram, StartsOnlyWithAModelThatIsReady) {
  FakeInference server(
      [](const Request&, int, grpc::ServerContext*, Writer*) { return grpc::Status::OK; });
  inference::v1::ModelInfo model = server.model();
  model.set_ready(false);
  model.set_not_ready_reason("waiting for 2 workers");
  server.SetModel(model);
  const Outcome run = Run(RunArguments(server, {"--ready-wait-seconds", "0.5"}));
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_THAT(run.err, HasSubstr("waiting for 2 workers"));
  EXPECT_EQ(server.requests(), 0);
}

TEST_F(EvalProgram, RefusesToMixRuns) {
  FakeInference server([](const Request& request, int, grpc::ServerContext*, Writer* writer) {
    return AnswerRightly(request, writer);
  });
  EXPECT_EQ(Run(RunArguments(server, {})).exit_code, 0);
  const Outcome again = Run(RunArguments(server, {}));
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_THAT(again.err, HasSubstr("expected no earlier run in"));
  const Outcome other_seed = Run(RunArguments(server, {"--resume", "--seed", "9"}));
  EXPECT_EQ(other_seed.exit_code, 2);
  EXPECT_THAT(other_seed.err, HasSubstr("expected the seed of the earlier run, 0, found 9"));
  EXPECT_EQ(server.requests(), kQuestions);
}

TEST_F(EvalProgram, SaysInOneSentenceWhyItCannotStart) {
  FakeInference server(
      [](const Request&, int, grpc::ServerContext*, Writer*) { return grpc::Status::OK; });
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "expected the command run, report or table"},
      {{"walk"}, "found 'walk'"},
      {{"run", "--suite", "trivia"}, "trivia"},
      {{"run", "--suite", "mmlu"}, "the suite mmlu needs --data"},
      {{"run", "--suite", "quiz", "--data", "/nowhere.jsonl"}, "/nowhere.jsonl"},
      {{"run", "--temprature", "1"}, "temprature"},
      {{"run", "--concurrency", "0"}, "concurrency"},
      {{"run", "--suite", "quiz", "--data", (folder_ / "quiz.jsonl").string(), "--resume"},
       "--resume needs --out"},
      {RunArguments(server, {"--resume"}), "manifest.json"},
      {{"report", "/nowhere"}, "/nowhere/manifest.json"},
  };
  for (const auto& [arguments, expected] : cases) {
    SCOPED_TRACE(expected);
    const Outcome run = Run(arguments);
    EXPECT_EQ(run.exit_code, 2);
    EXPECT_THAT(run.err, HasSubstr(expected));
    EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  }
}

}  // namespace
}  // namespace tandem::eval
