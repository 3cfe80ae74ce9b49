#include "eval_client/sandbox/file_descriptor.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace tandem::eval {
namespace {

absl::StatusOr<FileDescriptor> Renumbered(int fd) {
  const int high = fcntl(fd, F_DUPFD_CLOEXEC, kFirstOwnFd);
  const int error = errno;
  close(fd);
  if (high < 0) return absl::ErrnoToStatus(error, "cannot renumber a descriptor");
  return FileDescriptor(high);
}

}  // namespace

void FileDescriptor::Close() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot make a pipe");
  auto read_end = Renumbered(ends[0]);
  auto write_end = Renumbered(ends[1]);
  if (!read_end.ok()) return read_end.status();
  if (!write_end.ok()) return write_end.status();
  if (fcntl(read_end->get(), F_SETFL, O_NONBLOCK) != 0) {
    return absl::ErrnoToStatus(errno, "cannot make a pipe non-blocking");
  }
  return Pipe{*std::move(read_end), *std::move(write_end)};
}

absl::StatusOr<FileDescriptor> MakeMemoryFile(std::string_view bytes) {
  const int fd = memfd_create("tandem", MFD_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, "cannot make a file in memory");
  auto file = Renumbered(fd);
  if (!file.ok()) return file.status();
  while (!bytes.empty()) {
    const ssize_t written = write(file->get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::ErrnoToStatus(errno, "cannot fill a file in memory");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  if (lseek(file->get(), 0, SEEK_SET) != 0) {
    return absl::ErrnoToStatus(errno, "cannot rewind a file in memory");
  }
  return file;
}

std::string ReadAvailable(const FileDescriptor& descriptor, size_t bytes_max) {
  std::string text;
  char buffer[4096];
  while (text.size() < bytes_max) {
    const ssize_t got =
        read(descriptor.get(), buffer, std::min(sizeof(buffer), bytes_max - text.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer, static_cast<size_t>(got));
  }
  return text;
}

}  // namespace tandem::eval
