#include "lib/rpc/shm_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"

namespace tandem::rpc {
namespace {

absl::Status SystemError(const std::string& what) {
  return absl::ErrnoToStatus(errno, absl::StrCat("shared memory: ", what));
}

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;

}  // namespace

absl::StatusOr<std::unique_ptr<ShmRegion>> ShmRegion::Create(size_t bytes) {
  UniqueFd fd(::memfd_create("tandem-experts", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.ok()) return SystemError("memfd_create");
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return SystemError(absl::StrCat("setting a size of ", bytes, " bytes"));
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals | F_SEAL_SEAL) != 0) return SystemError("sealing");
  return Map(std::move(fd), bytes);
}

absl::StatusOr<std::unique_ptr<ShmRegion>> ShmRegion::Open(UniqueFd fd, size_t bytes) {
  // Seals first: only then does the size stay what it is seen to be.
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) {
    return absl::InvalidArgumentError("shared memory: expected it sealed in size, it is not");
  }
  struct stat facts = {};
  if (::fstat(fd.get(), &facts) != 0) return SystemError("fstat");
  if (facts.st_size < 0 || static_cast<size_t>(facts.st_size) != bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory: expected ", bytes, " bytes, found ", facts.st_size));
  }
  return Map(std::move(fd), bytes);
}

absl::StatusOr<std::unique_ptr<ShmRegion>> ShmRegion::Map(UniqueFd fd, size_t bytes) {
  void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return SystemError(absl::StrCat("mapping ", bytes, " bytes"));
  // A core dump of a crashed process need not hold a prefill chunk of activations.
  ::madvise(data, bytes, MADV_DONTDUMP);
  return std::unique_ptr<ShmRegion>(
      new ShmRegion(std::move(fd), static_cast<std::byte*>(data), bytes));
}

ShmRegion::~ShmRegion() { ::munmap(data_, bytes_); }

}  // namespace tandem::rpc
