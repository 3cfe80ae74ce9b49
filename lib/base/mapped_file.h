// MappedFile: a file's bytes without a copy. Weights are mapped read-only and paged in by use, so
// that a worker's memory is that of the tensors it reads, not of the files that hold them.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace tandem::base {

class MappedFile {
 public:
  // Maps all of `path` read-only. NOT_FOUND, PERMISSION_DENIED or FAILED_PRECONDITION (not a
  // regular file) name the path. An empty file maps to an empty span.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  // Valid as long as this object lives. If another process truncates the file, reading past its new
  // end raises SIGBUS.
  std::span<const std::byte> bytes() const { return {data_, size_bytes_}; }
  const std::string& path() const { return path_; }

 private:
  MappedFile(std::string path, const std::byte* data, size_t size_bytes)
      : path_(std::move(path)), data_(data), size_bytes_(size_bytes) {}

  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace tandem::base
