// MappedFile: a file's bytes without a copy, and the same file read with copies. Weights that are
// computed with as they are stay mapped and are paged in by use, so that a program's memory is that
// of the tensors it reads, not of the files that hold them. Weights that are repacked are read once
// with ReadAt: a file that another process cuts short meanwhile is then an error with a sentence,
// where a mapping would kill the program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
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

  // Reads out.size() bytes from `offset` of the file that was opened, whatever has become of its
  // name. DATA_LOSS when it ends before (it has shrunk since), UNAVAILABLE when the system cannot
  // read it. Thread-safe.
  absl::Status ReadAt(int64_t offset, std::span<std::byte> out) const;
  // Advice on the system's cache of the file, never an error: start to read these bytes, because
  // ReadAt will want them soon; or forget them, because nobody will.
  void ReadAhead(int64_t offset, int64_t bytes) const;
  void DropCached(int64_t offset, int64_t bytes) const;

 private:
  MappedFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace tandem::base
