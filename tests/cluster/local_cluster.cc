#include "tests/cluster/local_cluster.h"

#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"

namespace tandem::cluster_test {
namespace {

std::string BuildDirectory() {
  const char* build = std::getenv("TANDEM_BINARY_DIR");
  return build != nullptr ? build : ".";
}

absl::StatusOr<nlohmann::json> ReadState(const std::string& directory) {
  std::ifstream in(absl::StrCat(directory, "/state.json"));
  if (!in) return absl::NotFoundError("no state file yet");
  auto state = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (state.is_discarded()) return absl::UnavailableError("the state file is not complete");
  return state;
}

// Starts `argv` in its own process group with its output in `log`.
pid_t Launch(const std::vector<std::string>& argv, const std::string& log) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::setpgid(0, 0);
  const int fd = ::open(log.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644);
  ::dup2(fd, STDOUT_FILENO);
  ::dup2(fd, STDERR_FILENO);
  std::vector<char*> pointers;
  for (const std::string& arg : argv) pointers.push_back(const_cast<char*>(arg.c_str()));
  pointers.push_back(nullptr);
  ::execv(pointers[0], pointers.data());
  ::_exit(127);
}

std::string Tail(const std::string& path) {
  std::ifstream in(path);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  return text.size() > 3000 ? text.substr(text.size() - 3000) : text;
}

}  // namespace

std::string ProgramPath(const std::string& program) {
  return absl::StrCat(BuildDirectory(), "/bin/", program);
}

std::vector<std::string> EmulatedCuda() {
  return {"--backend", "cuda", "--gpu-worker-program",
          absl::StrCat(BuildDirectory(), "/tests/cluster/tandem-gpu-worker-emulated")};
}

absl::StatusOr<LocalCluster> LocalCluster::Start(const ClusterOptions& options) {
  char pattern[] = "/tmp/tandem_cluster_XXXXXX";
  if (::mkdtemp(pattern) == nullptr) return absl::InternalError("cannot make a directory in /tmp");
  LocalCluster cluster;
  cluster.directory_ = pattern;
  std::vector<std::string> argv = {ProgramPath("tandem"),
                                   "up",
                                   "--model",
                                   options.model,
                                   "--cpu-workers",
                                   absl::StrCat(options.cpu_workers),
                                   "--listen",
                                   "127.0.0.1:0",
                                   "--state-file",
                                   absl::StrCat(cluster.directory_, "/state.json"),
                                   "--log-dir",
                                   cluster.directory_};
  argv.insert(argv.end(), options.flags.begin(), options.flags.end());
  const std::string log = absl::StrCat(cluster.directory_, "/tandem-up.log");
  cluster.launcher_pid_ = Launch(argv, log);
  const absl::Time end = absl::Now() + options.ready_wait;
  while (absl::Now() < end) {
    auto state = ReadState(cluster.directory_);
    if (state.ok() && state->value("ready", false)) {
      cluster.address_ = state->value("address", "");
      cluster.http_address_ = state->value("http_address", "");
      return cluster;
    }
    if (!ProcessAlive(cluster.launcher_pid_)) break;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return absl::UnavailableError(absl::StrCat("`tandem up` did not become ready: ", Tail(log)));
}

LocalCluster::LocalCluster(LocalCluster&& other) noexcept
    : launcher_pid_(std::exchange(other.launcher_pid_, 0)),
      directory_(std::exchange(other.directory_, "")),
      address_(std::move(other.address_)),
      http_address_(std::move(other.http_address_)) {}

LocalCluster::~LocalCluster() {
  if (launcher_pid_ > 0) {
    ::kill(-launcher_pid_, SIGKILL);
    ::waitpid(launcher_pid_, nullptr, 0);
  }
  if (!directory_.empty()) std::filesystem::remove_all(directory_);
}

absl::StatusOr<std::vector<ProcessInfo>> LocalCluster::Processes() const {
  auto state = ReadState(directory_);
  if (!state.ok()) return state.status();
  std::vector<ProcessInfo> processes;
  for (const auto& entry : (*state)["processes"]) {
    processes.push_back({entry.value("role", ""), entry.value("name", ""),
                         entry.value("pid", static_cast<pid_t>(0)), entry.value("admin", "")});
  }
  return processes;
}

absl::StatusOr<int> LocalCluster::Stop() {
  ::kill(launcher_pid_, SIGTERM);
  const absl::Time end = absl::Now() + absl::Seconds(30);
  while (absl::Now() < end) {
    int status = 0;
    if (::waitpid(launcher_pid_, &status, WNOHANG) == launcher_pid_) {
      launcher_pid_ = 0;
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  return absl::DeadlineExceededError("`tandem up` did not stop within 30 s");
}

bool ProcessAlive(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  if (!std::getline(in, line)) return false;
  const size_t end_of_name = line.rfind(')');
  return end_of_name != std::string::npos && line.size() > end_of_name + 2 &&
         line[end_of_name + 2] != 'Z';
}

bool WaitUntilGone(pid_t pid, absl::Duration wait_max) {
  const absl::Time end = absl::Now() + wait_max;
  while (absl::Now() < end) {
    if (!ProcessAlive(pid)) return true;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return false;
}

namespace {

struct UnixSocket {
  std::string inode;
  std::string name;
};

// Lines of /proc/net/unix: seven fields, the inode last, then the name if there is one.
std::vector<UnixSocket> UnixSockets() {
  std::vector<UnixSocket> sockets;
  std::ifstream in("/proc/net/unix");
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream fields(line);
    std::string skipped;
    UnixSocket socket;
    for (int i = 0; i < 6; ++i) fields >> skipped;
    fields >> socket.inode >> socket.name;
    sockets.push_back(std::move(socket));
  }
  return sockets;
}

constexpr char kShmSocketPrefix[] = "@tandem-experts/";

}  // namespace

std::vector<std::string> ShmSocketsOf(pid_t pid) {
  std::set<std::string> inodes;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), error)) {
    inodes.insert(std::filesystem::read_symlink(entry, error).string());
  }
  std::vector<std::string> names;
  for (const UnixSocket& socket : UnixSockets()) {
    if (socket.name.rfind(kShmSocketPrefix, 0) == 0 &&
        inodes.count(absl::StrCat("socket:[", socket.inode, "]")) != 0) {
      names.push_back(socket.name);
    }
  }
  return names;
}

bool SocketExists(const std::string& name) {
  const std::vector<UnixSocket> sockets = UnixSockets();
  return std::any_of(sockets.begin(), sockets.end(),
                     [&](const UnixSocket& socket) { return socket.name == name; });
}

namespace {

std::string HttpGet(const std::string& address, const std::string& path) {
  const size_t colon = address.rfind(':');
  addrinfo* found = nullptr;
  if (::getaddrinfo(address.substr(0, colon).c_str(), address.substr(colon + 1).c_str(), nullptr,
                    &found) != 0) {
    return "";
  }
  const int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string answer;
  if (::connect(fd, found->ai_addr, found->ai_addrlen) == 0) {
    const std::string request =
        absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: ", address, "\r\nConnection: close\r\n\r\n");
    (void)!::send(fd, request.data(), request.size(), MSG_NOSIGNAL);
    char buffer[4096];
    ssize_t bytes = 0;
    while ((bytes = ::recv(fd, buffer, sizeof buffer, 0)) > 0) answer.append(buffer, bytes);
  }
  ::close(fd);
  ::freeaddrinfo(found);
  return answer;
}

}  // namespace

absl::StatusOr<double> MetricOf(const std::string& admin_address, const std::string& sample) {
  std::istringstream lines(HttpGet(admin_address, "/metrics"));
  std::string line;
  while (std::getline(lines, line)) {
    if (line.rfind(sample + " ", 0) == 0) return std::strtod(line.c_str() + sample.size(), nullptr);
  }
  return absl::NotFoundError(absl::StrCat("no ", sample, " at ", admin_address));
}

}  // namespace tandem::cluster_test
