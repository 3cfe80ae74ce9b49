#include "lib/base/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/time/clock.h"

namespace tandem::base {
namespace {

using testing::HasSubstr;

struct Parsed {
  int exit_code = 0;
  std::string err;
  std::string out;
  std::string listen = "default";
  int pages = 7;
  bool strict = false;
  std::vector<std::string> names;
};

class ProgramTest : public testing::Test {
 protected:
  Parsed Run(std::vector<std::string> args) {
    Parsed parsed;
    CLI::App app("Does things.", "thing");
    AddStandardOptions(app, "  thing --pages 3");
    app.add_option("--listen", parsed.listen);
    app.add_option("--kv-pages", parsed.pages)->check(CLI::Range(1, 100));
    app.add_flag("--strict", parsed.strict);
    app.add_option("--names", parsed.names);
    args.insert(args.begin(), "thing");
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    testing::internal::CaptureStderr();
    testing::internal::CaptureStdout();
    parsed.exit_code = ParseOrExitCode(app, static_cast<int>(argv.size()), argv.data());
    parsed.err = testing::internal::GetCapturedStderr();
    parsed.out = testing::internal::GetCapturedStdout();
    return parsed;
  }

  std::string ConfigFile(const std::string& text) {
    const auto path = std::filesystem::temp_directory_path() /
                      ("tandem_program_test_" + std::to_string(getpid()) + ".yaml");
    std::ofstream(path) << text;
    files_.push_back(path);
    return path;
  }

  void TearDown() override {
    for (const auto& file : files_) std::filesystem::remove(file);
    for (const char* name : {"TANDEM_KV_PAGES", "TANDEM_STRICT"}) unsetenv(name);
  }

  std::vector<std::filesystem::path> files_;
};

TEST_F(ProgramTest, DefaultsStayWithoutFlags) {
  const Parsed parsed = Run({});
  EXPECT_EQ(parsed.exit_code, -1);
  EXPECT_EQ(parsed.pages, 7);
}

TEST_F(ProgramTest, FileThenEnvironmentThenFlag) {
  const std::string file =
      ConfigFile("kv-pages: 20\nlisten: from-file\nstrict: true\nnames: [a, b]\n");
  Parsed parsed = Run({"--config", file});
  EXPECT_EQ(parsed.exit_code, -1) << parsed.err;
  EXPECT_EQ(parsed.pages, 20);
  EXPECT_EQ(parsed.listen, "from-file");
  EXPECT_TRUE(parsed.strict);
  EXPECT_THAT(parsed.names, testing::ElementsAre("a", "b"));

  setenv("TANDEM_KV_PAGES", "30", 1);
  parsed = Run({"--config", file});
  EXPECT_EQ(parsed.pages, 30);
  EXPECT_EQ(parsed.listen, "from-file");
  parsed = Run({"--config", file, "--kv-pages", "40"});
  EXPECT_EQ(parsed.pages, 40);
}

TEST_F(ProgramTest, EnvironmentSetsFlags) {
  setenv("TANDEM_STRICT", "true", 1);
  EXPECT_TRUE(Run({}).strict);
}

TEST_F(ProgramTest, UnknownKeyIsRefusedByName) {
  const Parsed parsed = Run({"--config", ConfigFile("listen: x\nlisten-port: 3\n")});
  EXPECT_EQ(parsed.exit_code, kExitCannotStart);
  EXPECT_THAT(parsed.err, HasSubstr("line 2: unknown key listen-port"));
}

TEST_F(ProgramTest, BrokenAndNestedYamlAreRefused) {
  EXPECT_EQ(Run({"--config", ConfigFile("listen: [x\n")}).exit_code, kExitCannotStart);
  EXPECT_EQ(Run({"--config", ConfigFile("listen: {a: b}\n")}).exit_code, kExitCannotStart);
  EXPECT_EQ(Run({"--config", ConfigFile("- listen\n")}).exit_code, kExitCannotStart);
  EXPECT_EQ(Run({"--config", ConfigFile("listen: a\nlisten: b\n")}).exit_code, kExitCannotStart);
  EXPECT_EQ(Run({"--config", "/nonexistent/file.yaml"}).exit_code, kExitCannotStart);
}

TEST_F(ProgramTest, BadFlagsAreOneSentence) {
  const Parsed unknown = Run({"--no-such-flag"});
  EXPECT_EQ(unknown.exit_code, kExitCannotStart);
  EXPECT_THAT(unknown.err, HasSubstr("thing: "));
  EXPECT_EQ(std::count(unknown.err.begin(), unknown.err.end(), '\n'), 1);
  EXPECT_EQ(Run({"--kv-pages", "101"}).exit_code, kExitCannotStart);
  EXPECT_EQ(Run({"--log-level", "loud"}).exit_code, kExitCannotStart);
}

TEST_F(ProgramTest, HelpAndVersionGoToStdout) {
  const Parsed help = Run({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, HasSubstr("thing --pages 3"));
  const Parsed version = Run({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.out, HasSubstr(VersionString()));
}

TEST(CannotStartTest, PrintsOneLine) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(CannotStart("thing", absl::NotFoundError("no file x\nsecond")), kExitCannotStart);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "thing: no file x; second\n");
}

// In a child process each, because the flag cannot be taken back.
TEST(SignalsTest, FirstSignalIsAFlagAndWakesTheWaiter) {
  EXPECT_EXIT(
      {
        InstallStopSignals();
        if (StopRequested() || WaitForStop(absl::Milliseconds(1))) _exit(9);
        raise(SIGTERM);
        const absl::Time before = absl::Now();
        const bool stopped = WaitForStop(absl::Seconds(20));
        _exit(stopped && absl::Now() - before < absl::Seconds(5) ? 0 : 8);
      },
      testing::ExitedWithCode(0), "");
}

TEST(SignalsTest, TheFirstSignalIsRemembered) {
  EXPECT_EXIT(
      {
        InstallStopSignals();
        if (StopSignal() != 0) _exit(9);
        raise(SIGINT);
        _exit(StopSignal());
      },
      testing::ExitedWithCode(SIGINT), "");
}

TEST(SignalsTest, TheEndOfAChildWakesTheWaiterOnce) {
  EXPECT_EXIT(
      {
        InstallStopSignals();
        WatchChildren();
        const pid_t child = fork();
        if (child == 0) _exit(0);
        const absl::Time before = absl::Now();
        if (WaitForStopOrChild(absl::Seconds(20))) _exit(9);
        if (absl::Now() - before > absl::Seconds(5)) _exit(8);
        if (waitpid(child, nullptr, WNOHANG) != child) _exit(7);
        const absl::Time again = absl::Now();
        WaitForStopOrChild(absl::Milliseconds(100));
        _exit(absl::Now() - again >= absl::Milliseconds(100) ? 0 : 6);
      },
      testing::ExitedWithCode(0), "");
}

TEST(SignalsTest, SecondSignalEndsTheProcess) {
  EXPECT_EXIT(
      {
        InstallStopSignals();
        raise(SIGINT);
        raise(SIGINT);
      },
      testing::ExitedWithCode(130), "");
}

}  // namespace
}  // namespace tandem::base
