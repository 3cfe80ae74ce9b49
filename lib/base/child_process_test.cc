#include "lib/base/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace tandem::base {
namespace {

int WaitForEnd(ChildProcess& child) {
  for (int i = 0; i < 1000 && child.running(); ++i) absl::SleepFor(absl::Milliseconds(10));
  return child.Poll().value_or(-1);
}

ChildSpec Shell(const std::string& script) {
  ChildSpec spec;
  spec.name = "shell";
  spec.argv = {"/bin/sh", "-c", script};
  return spec;
}

TEST(ChildProcessTest, ExitCodesComeBack) {
  auto seven = ChildProcess::Start(Shell("exit 7"));
  ASSERT_TRUE(seven.ok());
  EXPECT_EQ(WaitForEnd(*seven), 7);
  EXPECT_EQ(WaitForEnd(*seven), 7);
  auto killed = ChildProcess::Start(Shell("kill -9 $$"));
  EXPECT_EQ(WaitForEnd(*killed), 128 + SIGKILL);
}

TEST(ChildProcessTest, AProgramThatIsNotThereIsSaid) {
  ChildSpec spec;
  spec.argv = {"/no/such/program"};
  const auto child = ChildProcess::Start(spec);
  EXPECT_EQ(child.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(child.status().message()), testing::HasSubstr("/no/such/program"));
}

TEST(ChildProcessTest, OutputGoesToTheLogAndVariablesToTheChild) {
  const std::string log =
      std::filesystem::temp_directory_path() / absl::StrCat("tandem_child_", getpid());
  ChildSpec spec = Shell("echo out $TANDEM_X; echo err >&2");
  spec.log_path = log;
  spec.environment = {{"TANDEM_X", "value"}};
  auto child = ChildProcess::Start(spec);
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(WaitForEnd(*child), 0);
  std::ifstream file(log);
  std::string first, second;
  std::getline(file, first);
  std::getline(file, second);
  EXPECT_EQ(first, "out value");
  EXPECT_EQ(second, "err");
  std::filesystem::remove(log);
}

TEST(ChildProcessTest, StopAllKillsThoseThatDoNotListen) {
  auto polite = ChildProcess::Start(Shell("trap 'exit 3' TERM; while :; do sleep 0.05; done"));
  auto deaf = ChildProcess::Start(Shell("trap '' TERM; while :; do sleep 0.05; done"));
  ASSERT_TRUE(polite.ok() && deaf.ok());
  absl::SleepFor(absl::Milliseconds(300));
  StopAll({&*polite, &*deaf}, 2.0);
  EXPECT_EQ(polite->Poll(), 3);
  EXPECT_EQ(deaf->Poll(), 128 + SIGKILL);
}

TEST(ChildProcessTest, AChildDiesWithItsParent) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    auto child = ChildProcess::Start(Shell("while :; do sleep 0.05; done"));
    const pid_t pid = child.ok() ? child->pid() : -1;
    [[maybe_unused]] const ssize_t told = write(pipe_fds[1], &pid, sizeof pid);
    absl::SleepFor(absl::Milliseconds(100));
    _exit(0);
  }
  pid_t grandchild = 0;
  ASSERT_EQ(read(pipe_fds[0], &grandchild, sizeof grandchild), ssize_t(sizeof grandchild));
  ASSERT_GT(grandchild, 0);
  waitpid(parent, nullptr, 0);
  // Whoever adopts it may leave it a zombie for a while, which kill() still finds; its state says
  // that it ended.
  char state = 'R';
  for (int i = 0; i < 300 && state != 'Z' && state != '-'; ++i) {
    std::ifstream file(absl::StrCat("/proc/", grandchild, "/stat"));
    std::string pid, name;
    state = '-';
    file >> pid >> name >> state;
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_TRUE(state == 'Z' || state == '-') << state;
}

TEST(ChildProcessTest, OutputMayGoElsewhereThanTheLog) {
  const std::string log = testing::TempDir() + "/child_log",
                    output = testing::TempDir() + "/child_output";
  for (const std::string& path : {log, output}) std::ofstream(path) << "earlier\n";
  ChildSpec spec = Shell("echo result; echo trouble >&2");
  spec.log_path = log;
  spec.output_path = output;
  auto child = ChildProcess::Start(spec);
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(WaitForEnd(*child), 0);
  const auto content = [](const std::string& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  EXPECT_EQ(content(log), "earlier\ntrouble\n");
  EXPECT_EQ(content(output), "result\n");
}

TEST(FreePortsTest, PortsDiffer) {
  const auto ports = FreePorts(20);
  ASSERT_TRUE(ports.ok());
  EXPECT_EQ(std::set<int>(ports->begin(), ports->end()).size(), 20u);
}

}  // namespace
}  // namespace tandem::base
