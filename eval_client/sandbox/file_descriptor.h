// An owned file descriptor, and the three kinds of them the sandbox needs.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace tandem::eval {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() { Close(); }

  int get() const { return fd_; }
  void Close();

 private:
  int fd_ = -1;
};

struct Pipe {
  FileDescriptor read_end;
  FileDescriptor write_end;
};

// Close-on-exec; descriptor numbers from kFirstOwnFd, clear of those a child is given.
inline constexpr int kFirstOwnFd = 64;
absl::StatusOr<Pipe> MakePipe();
// A file without a name that holds `bytes` and is read from its start.
absl::StatusOr<FileDescriptor> MakeMemoryFile(std::string_view bytes);
// All that can be read without waiting, at most `bytes_max`.
std::string ReadAvailable(const FileDescriptor& descriptor, size_t bytes_max);

}  // namespace tandem::eval
