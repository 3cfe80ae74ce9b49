// Where placed experts lie: each owns a run of whole pages in a region that it shares with the
// experts placed with it on the same memory node. An expert is no multiple of 2 MiB (in one-bit
// formats it is smaller), so one mapping each would leave a large part of the weights on small
// pages; in a shared region only the few pages at its ends are not huge.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/base/huge_memory.h"
#include "lib/experts/packed_expert.h"
#include "lib/model/model_weights.h"

namespace tandem {

// The geometry of an expert packed, without memory (data is null). Its types have passed
// kernels::CheckWeightType.
PackedExpert LayoutOfExpert(const FfnWeights& expert);

// What an expert costs packed, which is what a worker holds it as: MatrixBytes and PlacedBytes
// (lib/model) say what it costs as stored in a file.
int64_t PackedBytes(const FfnWeights& expert);

// One expert's memory. Destroying it gives its pages back to the system.
class StoredExpert {
 public:
  // `expert`'s data points into `region`, its bytes beginning at `offset`.
  StoredExpert(std::shared_ptr<base::HugeMemory> region, int64_t offset,
               const PackedExpert& expert);
  ~StoredExpert();
  StoredExpert(const StoredExpert&) = delete;
  StoredExpert& operator=(const StoredExpert&) = delete;

  const PackedExpert& packed() const { return expert_; }
  const base::HugeMemory& region() const { return *region_; }
  // The bytes of one of packed()'s matrices, for who fills them in before others see the expert.
  std::byte* Writable(const kernels::PackedMatrix& matrix) const;

 private:
  const std::shared_ptr<base::HugeMemory> region_;
  const int64_t offset_;
  const PackedExpert expert_;
};

struct ExpertMemory {
  std::vector<std::shared_ptr<StoredExpert>> experts;      // in the order asked for
  std::vector<std::shared_ptr<base::HugeMemory>> regions;  // one a node that holds some
};

// Zeroed memory for experts of the given layouts, on the memory nodes their `node` says.
// `system_nodes[node]`: that node's number as the system counts; empty when there is nothing to
// choose. RESOURCE_EXHAUSTED when the system refuses.
absl::StatusOr<ExpertMemory> AllocateExperts(std::span<const PackedExpert> layouts,
                                             std::span<const int> system_nodes);

}  // namespace tandem
