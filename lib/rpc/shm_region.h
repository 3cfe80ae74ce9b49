// ShmRegion: memory of a fixed size that two processes share, without a name: it is passed as a
// file descriptor and gone with the last process that has it, however that ends. Sealed, so that
// neither side can take pages away from under the other, which would kill it with SIGBUS.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "lib/rpc/unique_fd.h"

namespace tandem::rpc {

class ShmRegion {
 public:
  // New memory of `bytes` zero bytes; pages are taken from the system when they are first touched.
  // Errors name the system's reason.
  static absl::StatusOr<std::unique_ptr<ShmRegion>> Create(size_t bytes);
  // Memory made by a peer. INVALID_ARGUMENT unless it is `bytes` long and sealed against shrinking.
  static absl::StatusOr<std::unique_ptr<ShmRegion>> Open(UniqueFd fd, size_t bytes);
  ~ShmRegion();

  std::byte* data() const { return data_; }  // page-aligned
  size_t bytes() const { return bytes_; }
  int fd() const { return fd_.get(); }

 private:
  ShmRegion(UniqueFd fd, std::byte* data, size_t bytes)
      : fd_(std::move(fd)), data_(data), bytes_(bytes) {}
  static absl::StatusOr<std::unique_ptr<ShmRegion>> Map(UniqueFd fd, size_t bytes);

  const UniqueFd fd_;
  std::byte* const data_;
  const size_t bytes_;
};

}  // namespace tandem::rpc
