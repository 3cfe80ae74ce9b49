#include "lib/base/huge_memory.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"

namespace tandem::base {
namespace {

constexpr int kNodesMax = 1024;       // MAX_NUMNODES of every Linux configuration
constexpr int kMadviseCollapse = 25;  // MADV_COLLAPSE, which Debian 12's headers do not have yet
constexpr int kBitsPerWord = 8 * sizeof(unsigned long);

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Prefers `node` for the pages of the range. False when this process may not choose. The C library
// has no mbind, and libnuma would be a dependency for one system call.
absl::StatusOr<bool> PreferNode(void* data, size_t size_bytes, int node) {
  if (node < 0 || node >= kNodesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a NUMA node of 0 to ", kNodesMax - 1, ", found ", node));
  }
  std::array<unsigned long, kNodesMax / kBitsPerWord> nodes = {};
  nodes[node / kBitsPerWord] |= 1ul << (node % kBitsPerWord);
  // Preferred and not bound: a full node must make the worker slower, not kill it.
  if (syscall(SYS_mbind, data, size_bytes, MPOL_PREFERRED, nodes.data(), kNodesMax + 1, 0) == 0) {
    return true;
  }
  if (errno == EPERM || errno == ENOSYS) return false;
  return absl::InvalidArgumentError(
      absl::StrCat("cannot take memory from NUMA node ", node, ": ", std::strerror(errno)));
}

absl::Status Refused(int64_t size_bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("the system refuses ", HumanBytes(size_bytes),
                                                   " of memory: ", std::strerror(errno)));
}

}  // namespace

int64_t HugeMemory::PageBytes() {
  static const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  return page_bytes;
}

absl::StatusOr<HugeMemory> HugeMemory::Allocate(int64_t size_bytes, int node) {
  TANDEM_CHECK_GT(size_bytes, 0);
  const int64_t page = PageBytes();
  HugeMemory memory;
  // Room to align, and an unreadable page at either end: it stops a kernel that reads too far, and
  // keeps the system from merging neighbours into one entry of smaps.
  int64_t reserved_bytes = 0;
  if (__builtin_add_overflow(size_bytes, kHugePageBytes + 3 * page, &reserved_bytes)) {
    errno = ENOMEM;
    return Refused(size_bytes);
  }
  void* reserved =
      mmap(nullptr, reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, /*fd=*/-1, 0);
  if (reserved == MAP_FAILED) return Refused(size_bytes);
  memory.reserved_ = reserved;
  memory.reserved_bytes_ = reserved_bytes;
  memory.size_bytes_ = size_bytes;
  memory.data_ = reinterpret_cast<std::byte*>(
      RoundUp(reinterpret_cast<intptr_t>(reserved) + page, kHugePageBytes));

  const int64_t used_bytes = RoundUp(size_bytes, page);
  if (mprotect(memory.data_, used_bytes, PROT_READ | PROT_WRITE) != 0) return Refused(size_bytes);
  // Advice: a kernel without huge pages says no, and the memory is slower but right.
  madvise(memory.data_, used_bytes, MADV_HUGEPAGE);
  if (node != kAnyNode) {
    TANDEM_ASSIGN_OR_RETURN(memory.bound_to_node_, PreferNode(memory.data_, used_bytes, node));
  }
  return memory;
}

HugeMemory::HugeMemory(HugeMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      reserved_(std::exchange(other.reserved_, nullptr)),
      reserved_bytes_(std::exchange(other.reserved_bytes_, 0)),
      bound_to_node_(other.bound_to_node_) {}

HugeMemory& HugeMemory::operator=(HugeMemory&& other) noexcept {
  if (this == &other) return *this;
  Unmap();
  data_ = std::exchange(other.data_, nullptr);
  size_bytes_ = std::exchange(other.size_bytes_, 0);
  reserved_ = std::exchange(other.reserved_, nullptr);
  reserved_bytes_ = std::exchange(other.reserved_bytes_, 0);
  bound_to_node_ = other.bound_to_node_;
  return *this;
}

HugeMemory::~HugeMemory() { Unmap(); }

void HugeMemory::Unmap() {
  if (reserved_ != nullptr) munmap(reserved_, reserved_bytes_);
}

void HugeMemory::Release(int64_t offset, int64_t bytes) {
  TANDEM_CHECK_GE(offset, 0);
  TANDEM_CHECK_GE(bytes, 0);
  TANDEM_CHECK_LE(bytes, size_bytes_ - offset);
  const int64_t page = PageBytes();
  const int64_t begin = RoundUp(offset, page);
  // The last page of the memory belongs to nobody else.
  const int64_t end =
      offset + bytes == size_bytes_ ? RoundUp(size_bytes_, page) : (offset + bytes) / page * page;
  if (begin >= end) return;
  // Fresh unreadable addresses in their place, so that the range stays ours and nothing comes back:
  // MADV_DONTNEED alone leaves a hole that the kernel may fill again when it collapses its
  // surroundings to a huge page. It is what remains when there are too many mappings already.
  void* const hole = data_ + begin;
  const void* replaced =
      mmap(hole, end - begin, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, /*fd=*/-1, 0);
  if (replaced == MAP_FAILED) TANDEM_CHECK_EQ(madvise(hole, end - begin, MADV_DONTNEED), 0);
}

void HugeMemory::Collapse() {
  // One huge page at a time: the call gives up a range at the first page it cannot gather. Whole
  // ones only, since the end is no huge page.
  for (int64_t at = 0; at + kHugePageBytes <= size_bytes_; at += kHugePageBytes) {
    madvise(data_ + at, kHugePageBytes, kMadviseCollapse);
  }
}

int64_t HugeMemory::BytesOnHugePages() const {
  std::ifstream smaps("/proc/self/smaps");
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data_);
  const uintptr_t end = begin + static_cast<uintptr_t>(RoundUp(size_bytes_, PageBytes()));
  int64_t total_kib = 0;
  bool ours = false;
  std::string line;
  while (std::getline(smaps, line)) {
    unsigned long first = 0, last = 0;
    long kib = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &first, &last) == 2) {
      ours = first >= begin && last <= end;
    } else if (ours && std::sscanf(line.c_str(), "AnonHugePages: %ld kB", &kib) == 1) {
      total_kib += kib;
    }
  }
  return total_kib * 1024;
}

}  // namespace tandem::base
