#include "bench/limits/memory_pages.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tandem::bench {
namespace {
constexpr int64_t kHugePage = int64_t{2} << 20;
}  // namespace

absl::StatusOr<PagedMemory> PagedMemory::Create(int64_t bytes, Pages pages) {
  PagedMemory memory;
  memory.mapped_ = bytes + kHugePage;
  void* mapping =
      mmap(nullptr, memory.mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    memory.mapped_ = 0;
    return absl::ResourceExhaustedError(
        absl::StrCat("expected ", bytes >> 20, " MiB of memory, the system has none to give"));
  }
  memory.mapping_ = static_cast<std::byte*>(mapping);
  madvise(mapping, memory.mapped_, pages == Pages::kHuge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  const auto address = reinterpret_cast<uintptr_t>(mapping);
  memory.data_ = memory.mapping_ + ((kHugePage - address % kHugePage) % kHugePage);
  memory.size_ = bytes;
  std::memset(memory.data_, 1, bytes);  // not zero: nobody may back it with one shared page
  return memory;
}

PagedMemory& PagedMemory::operator=(PagedMemory&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_, other.mapped_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

PagedMemory::~PagedMemory() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

int64_t HugePageBytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  std::string word;
  while (file >> word) {
    int64_t kib = 0;
    if (word == "AnonHugePages:" && file >> kib) return kib << 10;
  }
  return -1;
}

}  // namespace tandem::bench
