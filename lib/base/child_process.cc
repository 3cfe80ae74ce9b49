#include "lib/base/child_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/status_macros.h"

extern char** environ;

namespace tandem::base {
namespace {

std::vector<char*> Pointers(std::vector<std::string>* texts) {
  std::vector<char*> out;
  for (std::string& text : *texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

std::vector<std::string> Environment(const ChildSpec& spec) {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    bool replaced = false;
    for (const auto& [name, value] : spec.environment) replaced |= text.rfind(name + "=", 0) == 0;
    if (!replaced) out.push_back(text);
  }
  for (const auto& [name, value] : spec.environment) out.push_back(absl::StrCat(name, "=", value));
  return out;
}

// A file open for writing, or none; closed in the end.
class FileToWrite {
 public:
  // `path` empty: none. `how`: O_APPEND or O_TRUNC.
  static absl::StatusOr<FileToWrite> Open(const std::string& path, int how) {
    if (path.empty()) return FileToWrite(-1);
    const int fd = open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC | how, 0644);
    if (fd >= 0) return FileToWrite(fd);
    return absl::FailedPreconditionError(
        absl::StrCat("cannot write ", path, ": ", strerror(errno)));
  }
  FileToWrite(FileToWrite&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileToWrite& operator=(FileToWrite&&) = delete;
  ~FileToWrite() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }

 private:
  explicit FileToWrite(int fd) : fd_(fd) {}
  int fd_;
};

// After fork, before exec: only calls that are safe while other threads held locks at the fork.
// Never returns.
[[noreturn]] void BecomeProgram(char* const* argv, char* const* envp, int log_fd, int output_fd,
                                bool own_group, pid_t parent, int failure_fd) {
  // SIGKILL, because a starter that died cannot insist.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // it died in between
  if (own_group) setpgid(0, 0);
  signal(SIGPIPE, SIG_DFL);
  if (log_fd >= 0) {
    const int null_fd = open("/dev/null", O_RDONLY);
    dup2(null_fd, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
  }
  if (output_fd >= 0) dup2(output_fd, STDOUT_FILENO);
  execvpe(argv[0], argv, envp);
  const int why = errno;
  [[maybe_unused]] const ssize_t told = write(failure_fd, &why, sizeof why);
  _exit(127);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const ChildSpec& spec) {
  std::vector<std::string> argv_texts = spec.argv;
  std::vector<std::string> env_texts = Environment(spec);
  const std::vector<char*> argv = Pointers(&argv_texts);
  const std::vector<char*> envp = Pointers(&env_texts);
  TANDEM_ASSIGN_OR_RETURN(const FileToWrite log, FileToWrite::Open(spec.log_path, O_APPEND));
  TANDEM_ASSIGN_OR_RETURN(const FileToWrite output, FileToWrite::Open(spec.output_path, O_TRUNC));
  int failure[2];
  if (pipe2(failure, O_CLOEXEC) != 0)
    return absl::ResourceExhaustedError("no file descriptors left");
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    BecomeProgram(argv.data(), envp.data(), log.fd(), output.fd(), spec.own_group, parent,
                  failure[1]);
  }
  close(failure[1]);
  int why = pid < 0 ? errno : 0;
  // Ends without a byte when exec closes the pipe.
  if (pid > 0 && read(failure[0], &why, sizeof why) != sizeof why) why = 0;
  close(failure[0]);
  if (why == 0) return ChildProcess(pid);
  if (pid > 0) waitpid(pid, nullptr, 0);
  return absl::Status(
      why == ENOENT ? absl::StatusCode::kNotFound : absl::StatusCode::kFailedPrecondition,
      absl::StrCat("cannot start ", spec.argv[0], ": ", strerror(why)));
}

std::optional<int> ChildProcess::Poll() {
  int status = 0;
  if (!exit_code_ && waitpid(pid_, &status, WNOHANG) == pid_) {
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return exit_code_;
}

void ChildProcess::Signal(int signal_number) {
  // Not after its end: the number may belong to somebody else by then.
  if (running()) kill(pid_, signal_number);
}

void StopAll(const std::vector<ChildProcess*>& children, double grace_seconds) {
  const auto any_running = [&] {
    bool any = false;
    for (ChildProcess* child : children) any |= child->running();
    return any;
  };
  for (ChildProcess* child : children) child->Signal(SIGTERM);
  const absl::Time end = absl::Now() + absl::Seconds(grace_seconds);
  while (any_running() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
  for (ChildProcess* child : children) child->Signal(SIGKILL);
  while (any_running()) absl::SleepFor(absl::Milliseconds(10));
}

std::string OwnFolder() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0) return ".";
  const std::string text(path, static_cast<size_t>(length));
  return text.substr(0, text.rfind('/'));
}

absl::StatusOr<std::vector<int>> FreePorts(int count) {
  std::vector<int> sockets, ports;
  for (int i = 0; i < count; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (fd < 0 || bind(fd, generic, length) != 0 || getsockname(fd, generic, &length) != 0) break;
    sockets.push_back(fd);
    ports.push_back(ntohs(address.sin_port));
  }
  for (const int fd : sockets) close(fd);
  if (static_cast<int>(ports.size()) < count)
    return absl::ResourceExhaustedError("no free TCP port on 127.0.0.1");
  return ports;
}

}  // namespace tandem::base
