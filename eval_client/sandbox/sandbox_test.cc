// Programs that want out. Each must be a failure, soon, and leave no trace on the machine.
#include "eval_client/sandbox/sandbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "lib/base/clock.h"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

SandboxLimits QuickLimits() {
  SandboxLimits limits;
  limits.wall = absl::Seconds(10);
  limits.cpu_s = 2;
  return limits;
}

class SandboxTest : public testing::Test {
 protected:
  void SetUp() override {
    auto sandbox = Sandbox::Create(QuickLimits());
    // A machine without namespaces has no sandbox; one whose walls have holes is a failure.
    EXPECT_THAT(std::string(sandbox.status().message()), testing::Not(testing::HasSubstr("leaks")));
    if (!sandbox.ok()) GTEST_SKIP() << sandbox.status().message();
    sandbox_ = *std::move(sandbox);
  }
  SandboxResult Run(const std::string& program) {
    auto result = sandbox_->Run(program);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : SandboxResult();
  }
  std::unique_ptr<Sandbox> sandbox_;
};

TEST_F(SandboxTest, AHarmlessProgramPasses) {
  const SandboxResult result = Run("import math, collections, hashlib, re\nprint(math.pi)\n");
  EXPECT_EQ(result.Verdict(), "passed") << result.output;
  EXPECT_EQ(result.output, "3.141592653589793\n");
}

TEST_F(SandboxTest, ThreadsAndTemporaryFilesWork) {
  EXPECT_EQ(Run("import threading\n"
                "done = []\n"
                "t = threading.Thread(target=lambda: done.append(1))\n"
                "t.start(); t.join()\n"
                "open('/tmp/x', 'w').write('y')\n"
                "assert done == [1] and open('/tmp/x').read() == 'y'\n")
                .Verdict(),
            "passed");
}

struct Case {
  const char* name;
  const char* program;
  const char* verdict;  // its beginning
};

TEST_F(SandboxTest, FailuresAreToldApart) {
  const Case cases[] = {
      {"assertion", "assert 1 == 2", "failed: AssertionError"},
      {"exception", "raise ValueError('no')", "failed: ValueError: no"},
      {"syntax", "def f(:\n", "failed: SyntaxError"},
      {"recursion", "def f(): return f()\nf()", "failed: RecursionError"},
      {"left with 0", "import os\nos._exit(0)", "failed: ended before its tests were done"},
      {"exit", "import sys\nsys.exit(0)", "failed: ended before its tests were done"},
      {"system exit", "raise SystemExit", "failed: ended before its tests were done"},
      {"left at exit", "import atexit, os\natexit.register(os._exit, 0)",
       "failed: ended before its tests were done"},
      {"says it passed", "import os\nprint('passed')\nos.write(4, b'passed')\nos._exit(0)",
       "failed: ended before its tests were done"},
      {"reports a guess", "import os\nos.write(4, b'x' * 32)", "failed: ended before"},
      {"closed stdout", "import os\nos.close(1)\nos.close(2)\nos._exit(0)",
       "failed: ended before its tests were done"},
      {"aborts", "import os\nos.abort()", "failed: killed by a signal"},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(Run(c.program).Verdict(), HasSubstr(c.verdict)) << c.name;
  }
}

TEST_F(SandboxTest, HostileProgramsAreContained) {
  const Case cases[] = {
      {"fork bomb", "import os\nwhile True: os.fork()", "failed: PermissionError"},
      {"fork bomb by subprocess",
       "import subprocess\nwhile True: subprocess.Popen(['/usr/bin/python3'])",
       "failed: PermissionError"},
      {"thread bomb",
       "import threading, time\nwhile True: threading.Thread(target=time.sleep, "
       "args=(2,)).start()",
       "failed: RuntimeError: can't start new thread"},
      {"becomes another program", "import os\nos.execv('/usr/bin/python3', ['python3', '-c', '1'])",
       "failed: PermissionError"},
      {"endless loop", "while True: pass", "timeout"},
      {"endless loop that ignores the warning",
       "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
       "failed: killed by a signal"},
      {"10 GB", "x = bytearray(10 << 30)", "out of memory"},
      {"10 GB in small pieces", "x = []\nwhile True: x.append(bytearray(1 << 20))",
       "out of memory"},
      {"a huge file", "f = open('/tmp/x', 'wb')\nwhile True: f.write(b'x' * (1 << 20))",
       "failed: "},
      {"many files",
       "i = 0\nwhile True:\n  i += 1\n  open(f'/tmp/{i}', 'wb').write(b'x' * (1 << 19))",
       "failed: OSError: [Errno 28]"},
      {"many open files", "x = [open('/dev/null') for _ in range(100)]", "failed: "},
      {"network", "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)", "failed: "},
      {"names on the network", "import socket\nsocket.getaddrinfo('example.org', 80)", "failed: "},
      {"writes outside", "open('/work_escape', 'w').write('x')",
       "failed: OSError: [Errno 30] Read-only file system"},
      {"writes the library", "import os\nopen(os.__file__, 'a').write('x')", "failed: "},
      {"reads the home folder", "import os\nos.listdir('/root')", "failed: FileNotFoundError"},
      {"reads passwords", "open('/etc/passwd').read()", "failed: FileNotFoundError"},
      {"kills its parent", "import os\nos.kill(os.getppid(), 9)", "failed: PermissionError"},
      {"kills process 1", "import os\nos.kill(1, 9)", "failed: PermissionError"},
      {"kills everybody", "import os\nos.kill(-1, 9)", "failed: PermissionError"},
      {"kills its group", "import os\nos.killpg(0, 9)", "failed: PermissionError"},
      {"looks at others", "import os\nos.listdir('/proc')", "failed: FileNotFoundError"},
      {"reads the guard's memory", "import ctypes", "failed: ModuleNotFoundError"},
      {"reads its own memory", "open('/proc/self/mem', 'rb')", "failed: FileNotFoundError"},
      {"overruns the stack",
       "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n  def __repr__(s): return "
       "repr(s)\nrepr(A())",
       "failed: "},
      {"prints for ever", "while True: print('x' * 1000)", "failed: printed too much"},
      {"lifts its limits",
       "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))", "failed: "},
  };
  for (const Case& c : cases) {
    const absl::Duration start = base::RealClock().Monotonic();
    EXPECT_THAT(Run(c.program).Verdict(), HasSubstr(c.verdict)) << c.name;
    EXPECT_LT(base::RealClock().Monotonic() - start, absl::Seconds(15)) << c.name;
  }
  EXPECT_FALSE(fs::exists("/work_escape"));
}

TEST_F(SandboxTest, SleepingForEverEndsAtTheDeadline) {
  SandboxLimits limits = QuickLimits();
  limits.wall = absl::Seconds(3);
  auto sandbox = Sandbox::Create(limits);
  ASSERT_TRUE(sandbox.ok()) << sandbox.status();
  const auto result = (*sandbox)->Run("import time\ntime.sleep(1e6)");
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->Verdict(), "timeout");
}

// Arguments of all processes of this machine.
std::string AllCommandLines() {
  std::string all;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    if (file) all.append(std::istreambuf_iterator<char>(file), {});
  }
  return all;
}

TEST_F(SandboxTest, NobodySurvivesItsRun) {
  SandboxLimits limits = QuickLimits();
  limits.wall = absl::Seconds(3);
  auto sandbox = Sandbox::Create(limits);
  ASSERT_TRUE(sandbox.ok()) << sandbox.status();
  // Visible from outside while it runs, gone afterwards: the name is in the command line only by
  // way of the size of its /tmp.
  limits.temporary_bytes = 8192 * 977;
  auto marked = Sandbox::Create(limits);
  ASSERT_TRUE(marked.ok()) << marked.status();
  const std::string mark = absl::StrCat(limits.temporary_bytes);
  std::thread runner([&] {
    const auto result = (*marked)->Run("import time\nwhile True: time.sleep(1)");
    EXPECT_EQ(result->Verdict(), "timeout");
  });
  const absl::Duration end = base::RealClock().Monotonic() + absl::Seconds(2);
  bool seen = false;
  while (!seen && base::RealClock().Monotonic() < end) {
    seen = AllCommandLines().find(mark) != std::string::npos;
  }
  runner.join();
  EXPECT_TRUE(seen);
  // The kernel ends what is left of the namespace on its own time, which is short.
  const absl::Duration gone_by = base::RealClock().Monotonic() + absl::Seconds(2);
  bool gone = false;
  while (!gone && base::RealClock().Monotonic() < gone_by) {
    gone = AllCommandLines().find(mark) == std::string::npos;
  }
  EXPECT_TRUE(gone);
}

TEST_F(SandboxTest, ManyAtATimeKeepApart) {
  std::vector<std::thread> threads;
  std::atomic<int> passed{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      const auto result = sandbox_->Run(
          absl::StrCat("import os\nassert os.listdir('/tmp') == []\nopen('/tmp/x', 'w').write('", i,
                       "')\nassert open('/tmp/x').read() == '", i, "'\n"));
      if (result.ok() && result->end == SandboxEnd::kFinished) ++passed;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(passed, 8);
}

TEST(SandboxWithoutBubblewrap, RefusesInOneSentence) {
  const std::string path = std::getenv("PATH");
  setenv("PATH", "/nowhere", 1);
  const auto sandbox = Sandbox::Create();
  setenv("PATH", path.c_str(), 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(sandbox.status())) << sandbox.status();
  EXPECT_EQ(sandbox.status().message(),
            "running generated code needs a sandbox: expected bubblewrap (the program bwrap) in "
            "PATH, found none");
}

// A bwrap that cannot make namespaces, as where the administrator forbids them.
TEST(SandboxWithoutNamespaces, RefusesInOneSentence) {
  const fs::path folder = fs::path(testing::TempDir()) / "forbidden_bwrap";
  fs::create_directories(folder);
  std::ofstream(folder / "bwrap") << "#!/bin/sh\n"
                                     "echo 'bwrap: No permissions to create new namespace' >&2\n"
                                     "exit 1\n";
  fs::permissions(folder / "bwrap", fs::perms::owner_all);
  const std::string path = std::getenv("PATH");
  setenv("PATH", absl::StrCat(folder.string(), ":", path).c_str(), 1);
  const auto sandbox = Sandbox::Create();
  setenv("PATH", path.c_str(), 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(sandbox.status())) << sandbox.status();
  EXPECT_THAT(std::string(sandbox.status().message()),
              HasSubstr("found 'bwrap: No permissions to create new namespace'"));
}

// A bwrap that only pretends: it runs the program without any namespace.
TEST(SandboxWithoutContainment, IsFoundOut) {
  const fs::path folder = fs::path(testing::TempDir()) / "pretending_bwrap";
  fs::create_directories(folder);
  std::ofstream(folder / "bwrap") << "#!/bin/sh\n"
                                     "cat <&5 >\"$0.so\"\n"
                                     "cat <&6 >\"$0.py\"\n"
                                     "LD_PRELOAD=\"$0.so\" exec /usr/bin/python3 -I \"$0.py\"\n";
  fs::permissions(folder / "bwrap", fs::perms::owner_all);
  const std::string path = std::getenv("PATH");
  setenv("PATH", absl::StrCat(folder.string(), ":", path).c_str(), 1);
  const auto sandbox = Sandbox::Create();
  setenv("PATH", path.c_str(), 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(sandbox.status())) << sandbox.status();
  EXPECT_THAT(std::string(sandbox.status().message()), HasSubstr("the sandbox leaks"));
}

}  // namespace
}  // namespace tandem::eval
