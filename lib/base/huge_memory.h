// HugeMemory: a large, zeroed run of memory that asks for pages of 2 MiB. Weights are read from end
// to end for every token, and with pages of 4 KiB the page walks cost a quarter to a third of the
// memory's bandwidth. It is taken from the system in one piece and can be given back in parts, so
// that many experts share one run (no expert is a multiple of 2 MiB) and each still returns its own
// bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace tandem::base {

class HugeMemory {
 public:
  static constexpr int64_t kHugePageBytes = int64_t{2} << 20;
  static constexpr int kAnyNode = -1;

  // `size_bytes` (> 0, CHECKed) of zeros at a multiple of kHugePageBytes, with an unreadable page
  // before and behind. Pages are taken when first written, so only what is written counts as used
  // memory. `node`: number, as the operating system counts, of the NUMA node they should come from
  // (others are used when it is full). RESOURCE_EXHAUSTED when the system refuses that many bytes;
  // INVALID_ARGUMENT for a node this machine does not have.
  static absl::StatusOr<HugeMemory> Allocate(int64_t size_bytes, int node = kAnyNode);

  HugeMemory() = default;
  HugeMemory(HugeMemory&& other) noexcept;
  HugeMemory& operator=(HugeMemory&& other) noexcept;
  HugeMemory(const HugeMemory&) = delete;
  HugeMemory& operator=(const HugeMemory&) = delete;
  ~HugeMemory();

  std::byte* data() const { return data_; }
  int64_t size() const { return size_bytes_; }
  // False when a node was asked for and the system does not let this process choose (containers
  // often forbid it): pages then lie on the node of the thread that writes them first.
  bool bound_to_node() const { return bound_to_node_; }

  // Gives the whole pages (PageBytes()) inside [offset, offset + bytes) back to the system for
  // good: touching them afterwards is a crash, not a surprise. Thread-safe for disjoint ranges.
  void Release(int64_t offset, int64_t bytes);

  // Asks the system to gather what is written already into huge pages: when memory is short of free
  // runs of 2 MiB, a first write gets small pages. For after filling; takes the time of copying
  // what is not huge yet. Best effort, and nothing before Linux 6.1.
  void Collapse();

  // How many bytes lie on huge pages at this moment, from /proc/self/smaps: for logs and tests, as
  // it walks the process's page tables. 0 where the system does not tell.
  int64_t BytesOnHugePages() const;

  // The system's small page: what Release works in.
  static int64_t PageBytes();

 private:
  void Unmap();

  std::byte* data_ = nullptr;
  int64_t size_bytes_ = 0;
  void* reserved_ = nullptr;  // the address range with its unreadable ends
  size_t reserved_bytes_ = 0;
  bool bound_to_node_ = true;
};

}  // namespace tandem::base
