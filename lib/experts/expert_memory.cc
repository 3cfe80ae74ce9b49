#include "lib/experts/expert_memory.h"

#include <map>
#include <utility>

#include "lib/base/check.h"
#include "lib/base/status_macros.h"

namespace tandem {
namespace {

kernels::PackedMatrix LayoutOfMatrix(const Matrix& matrix) {
  return {.layout = kernels::LayoutOf(matrix.view.dtype, matrix.rows(), matrix.cols(),
                                      matrix.fp8_block_cols),
          .data = nullptr};
}

int64_t PagesOf(const PackedExpert& expert) {
  const int64_t page = base::HugeMemory::PageBytes();
  return (expert.bytes() + page - 1) / page * page;
}

}  // namespace

PackedExpert LayoutOfExpert(const FfnWeights& expert) {
  PackedExpert packed;
  packed.gate = LayoutOfMatrix(expert.gate);
  packed.up = LayoutOfMatrix(expert.up);
  packed.down = LayoutOfMatrix(expert.down);
  return packed;
}

int64_t PackedBytes(const FfnWeights& expert) { return LayoutOfExpert(expert).bytes(); }

StoredExpert::StoredExpert(std::shared_ptr<base::HugeMemory> region, int64_t offset,
                           const PackedExpert& expert)
    : region_(std::move(region)), offset_(offset), expert_(expert) {}

StoredExpert::~StoredExpert() { region_->Release(offset_, PagesOf(expert_)); }

std::byte* StoredExpert::Writable(const kernels::PackedMatrix& matrix) const {
  return region_->data() + (matrix.data - region_->data());
}

absl::StatusOr<ExpertMemory> AllocateExperts(std::span<const PackedExpert> layouts,
                                             std::span<const int> system_nodes) {
  std::map<int, int64_t> bytes_of_node;
  for (const PackedExpert& layout : layouts) bytes_of_node[layout.node] += PagesOf(layout);
  ExpertMemory memory;
  std::map<int, std::pair<std::shared_ptr<base::HugeMemory>, int64_t>> regions;  // with bytes used
  for (const auto& [node, bytes] : bytes_of_node) {
    int system_node = base::HugeMemory::kAnyNode;
    if (!system_nodes.empty()) {
      TANDEM_CHECK_LT(static_cast<size_t>(node), system_nodes.size());
      system_node = system_nodes[node];
    }
    TANDEM_ASSIGN_OR_RETURN(base::HugeMemory region,
                            base::HugeMemory::Allocate(bytes, system_node));
    memory.regions.push_back(std::make_shared<base::HugeMemory>(std::move(region)));
    regions[node] = {memory.regions.back(), 0};
  }
  for (PackedExpert expert : layouts) {
    auto& [region, used] = regions[expert.node];
    const std::byte* data = region->data() + used;
    for (kernels::PackedMatrix* matrix : {&expert.gate, &expert.up, &expert.down}) {
      matrix->data = data;
      data += matrix->layout.bytes();
    }
    memory.experts.push_back(std::make_shared<StoredExpert>(region, used, expert));
    used += PagesOf(expert);
  }
  return memory;
}

}  // namespace tandem
