#include "eval_client/sandbox/sandbox.h"

#include <sys/random.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/sandbox/child.h"
#include "eval_client/sandbox/guard_image.h"
#include "eval_client/sandbox/guard_orders.h"
#include "eval_client/sandbox/sandbox_probe.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;

constexpr char kPython[] = "/usr/bin/python3";
// Descriptors of bwrap, behind those of the guard.
constexpr int kGuardFd = kReportFd + 1;
constexpr int kProgramFd = kGuardFd + 1;
constexpr int kSignalled = 128;
constexpr int kCpuSignal = 24;  // SIGXCPU

// Bytes over the limit show that there was more; the guard's own messages and bwrap's fit easily.
constexpr size_t kLastLineMax = 200;

// Runs the program as the published check does: in a namespace of its own, not as __main__.
constexpr char kLauncher[] =
    "exec(compile(open('/program.py', encoding='utf-8').read(), 'program.py', 'exec'), {})";

// python3.11 of /usr/bin/python3 -> python3.11.
std::string VersionedName() { return fs::canonical(kPython).filename().string(); }

void Bind(const std::string& option, const std::string& source, const std::string& target,
          std::vector<std::string>* command) {
  command->insert(command->end(), {option, source, target});
}

// The interpreter, its library and the system's shared libraries, read-only and at their own
// places. ctypes is covered up: it would let a program read the guard's memory.
void BindInterpreter(std::vector<std::string>* command) {
  const std::string library = absl::StrCat("/usr/lib/", VersionedName());
  Bind("--ro-bind", fs::canonical(kPython).string(), kPython, command);
  Bind("--ro-bind", library, library, command);
  for (const char* folder : {"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu",
                             "/usr/lib64", "/usr/lib/ld-linux-aarch64.so.1"}) {
    Bind("--ro-bind-try", folder, folder, command);
  }
  Bind("--symlink", "usr/lib", "/lib", command);
  Bind("--symlink", "usr/lib64", "/lib64", command);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(fs::path(library) / "lib-dynload", error)) {
    const std::string name = entry.path().filename().string();
    // The interpreter's own test modules, where they are installed, can do as much.
    if (!name.starts_with("_ctypes") && !name.starts_with("_test")) continue;
    Bind("--ro-bind", "/dev/null", entry.path().string(), command);
  }
}

std::vector<std::string> MakeCommand(const SandboxLimits& limits) {
  std::vector<std::string> command = {
      "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--uid",      "65534",
      "--gid", "65534",         "--hostname",        "sandbox",       "--clearenv", "--cap-drop",
      "ALL"};
  BindInterpreter(&command);
  for (const char* device : {"/dev/null", "/dev/urandom"}) {
    Bind("--dev-bind", device, device, &command);
  }
  command.insert(command.end(),
                 {"--size", absl::StrCat(limits.temporary_bytes), "--tmpfs", "/tmp"});
  Bind("--ro-bind-data", absl::StrCat(kGuardFd), "/guard.so", &command);
  Bind("--ro-bind-data", absl::StrCat(kProgramFd), "/program.py", &command);
  Bind("--setenv", "LD_PRELOAD", "/guard.so", &command);
  Bind("--setenv", "LANG", "C.UTF-8", &command);
  // The root itself is a file system in memory until here.
  command.insert(command.end(), {"--remount-ro", "/", "--chdir", "/tmp", "--"});
  return command;
}

std::vector<std::string> InterpreterArguments() {
  // Isolated from environment and user folder, no bytecode files, UTF-8 whatever the locale.
  return {kPython, "-I", "-B", "-X", "utf8", "-c", kLauncher};
}

// The last line with something on it, cut to what fits a table.
std::string LastLine(const std::string& text) {
  const size_t end = text.find_last_not_of(" \t\r\n");
  if (end == std::string::npos) return "";
  const size_t before = text.find_last_of('\n', end);
  const size_t begin = before == std::string::npos ? 0 : before + 1;
  return text.substr(begin, std::min(end + 1 - begin, kLastLineMax));
}

SandboxEnd EndOf(const ChildResult& child, bool has_token) {
  if (child.too_much_output) return SandboxEnd::kOutputTooLong;
  if (child.timed_out || child.exit_code == kSignalled + kCpuSignal) return SandboxEnd::kTimedOut;
  if (has_token && child.exit_code == 0) return SandboxEnd::kFinished;
  if (child.exit_code > kSignalled) return SandboxEnd::kKilled;
  const std::string last = LastLine(child.output);
  if (child.exit_code == 1 && last.starts_with("MemoryError")) return SandboxEnd::kOutOfMemory;
  if (child.exit_code == 1 && child.output.find("Traceback ") != std::string::npos) {
    return SandboxEnd::kRaised;
  }
  // Syntax errors come without a traceback.
  if (child.exit_code == 1 && last.find("Error") != std::string::npos) return SandboxEnd::kRaised;
  return SandboxEnd::kLeftEarly;
}

struct Courier {
  Pipe orders;
  Pipe report;
  GuardOrders sent;
};

absl::StatusOr<Courier> MakeCourier(const SandboxLimits& limits) {
  Courier courier;
  TANDEM_ASSIGN_OR_RETURN(courier.orders, MakePipe());
  TANDEM_ASSIGN_OR_RETURN(courier.report, MakePipe());
  courier.sent = {.cpu_s = limits.cpu_s,
                  .address_bytes = limits.address_bytes,
                  .file_bytes = limits.file_bytes,
                  .open_files = limits.open_files};
  if (getrandom(courier.sent.token, kTokenBytes, 0) != kTokenBytes) {
    return absl::ErrnoToStatus(errno, "cannot draw a token");
  }
  // Fits the pipe, so nobody has to read yet.
  if (write(courier.orders.write_end.get(), &courier.sent, sizeof(courier.sent)) !=
      static_cast<ssize_t>(sizeof(courier.sent))) {
    return absl::ErrnoToStatus(errno, "cannot write to a pipe");
  }
  courier.orders.write_end.Close();
  return courier;
}

bool BringsToken(Courier& courier) {
  courier.report.write_end.Close();
  const std::string report = ReadAvailable(courier.report.read_end, kTokenBytes + 1);
  return report.size() == kTokenBytes &&
         std::memcmp(report.data(), courier.sent.token, kTokenBytes) == 0;
}

}  // namespace

std::string SandboxResult::Verdict() const {
  switch (end) {
    case SandboxEnd::kFinished:
      return "passed";
    case SandboxEnd::kRaised:
      return absl::StrCat("failed: ", LastLine(output));
    case SandboxEnd::kLeftEarly:
      return "failed: ended before its tests were done";
    case SandboxEnd::kTimedOut:
      return "timeout";
    case SandboxEnd::kOutOfMemory:
      return "out of memory";
    case SandboxEnd::kOutputTooLong:
      return "failed: printed too much";
    case SandboxEnd::kKilled:
      return "failed: killed by a signal";
  }
  return "failed";
}

Sandbox::Sandbox(const SandboxLimits& limits)
    : limits_(limits),
      command_(MakeCommand(limits)),
      free_slots_(static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) {}

absl::StatusOr<std::unique_ptr<Sandbox>> Sandbox::Create(const SandboxLimits& limits) {
  std::error_code error;
  if (!fs::exists(kPython, error)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "running generated code needs a sandbox: expected Python at ", kPython, ", found none"));
  }
  std::unique_ptr<Sandbox> sandbox(new Sandbox(limits));
  const absl::Status status = sandbox->Probe();
  if (!status.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("running generated code needs a sandbox: ", status.message()));
  }
  return sandbox;
}

// Two programs: one that looks for ways out and raises if it finds one, and one whose end must not
// be taken for success.
absl::Status Sandbox::Probe() {
  auto result = Run(kContainmentProbe);
  if (absl::IsNotFound(result.status())) {
    return absl::FailedPreconditionError(
        "expected bubblewrap (the program bwrap) in PATH, found none");
  }
  if (!result.ok()) return result.status();
  if (result->end != SandboxEnd::kFinished) {
    return absl::FailedPreconditionError(
        absl::StrCat("expected bwrap to run a harmless program in namespaces of its own, found '",
                     result->output.empty() ? result->Verdict() : LastLine(result->output), "'"));
  }
  TANDEM_ASSIGN_OR_RETURN(const SandboxResult early, Run("import os; os._exit(0)"));
  if (early.end != SandboxEnd::kLeftEarly) {
    return absl::FailedPreconditionError(absl::StrCat(
        "expected it to notice a program that ends itself, found '", early.Verdict(), "'"));
  }
  return absl::OkStatus();
}

absl::StatusOr<SandboxResult> Sandbox::Run(const std::string& program) {
  {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](int* slots) { return *slots > 0; }, &free_slots_));
    --free_slots_;
  }
  auto result = RunNow(program);
  absl::MutexLock lock(&mutex_);
  ++free_slots_;
  return result;
}

absl::StatusOr<SandboxResult> Sandbox::RunNow(const std::string& program) {
  TANDEM_ASSIGN_OR_RETURN(Courier courier, MakeCourier(limits_));
  TANDEM_ASSIGN_OR_RETURN(const FileDescriptor guard, MakeMemoryFile(GuardImage()));
  TANDEM_ASSIGN_OR_RETURN(const FileDescriptor source, MakeMemoryFile(program));
  ChildOrders orders = {.arguments = command_,
                        .descriptors = {courier.orders.read_end.get(),
                                        courier.report.write_end.get(), guard.get(), source.get()},
                        .deadline = limits_.wall,
                        .output_bytes_max = limits_.output_bytes};
  for (const std::string& argument : InterpreterArguments()) orders.arguments.push_back(argument);
  TANDEM_ASSIGN_OR_RETURN(ChildResult child, RunChild(orders));
  SandboxResult result;
  result.end = EndOf(child, BringsToken(courier));
  result.output = std::move(child.output);
  return result;
}

}  // namespace tandem::eval
