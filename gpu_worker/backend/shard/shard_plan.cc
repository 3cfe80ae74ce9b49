#include "gpu_worker/backend/shard/shard_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker {
namespace {

using R = TensorRole;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

Split Repeated(const ShardRange& first, const ShardRange& others, int ranks) {
  std::vector<ShardRange> ranges(ranks, others);
  ranges[0] = first;
  return Split(std::move(ranges));
}

}  // namespace

int64_t Split::part_max() const {
  int64_t max = 0;
  for (const ShardRange& range : ranges_) max = std::max(max, range.size());
  return max;
}

Split Split::Scaled(int64_t scale) const {
  std::vector<ShardRange> scaled;
  for (const ShardRange& range : ranges_)
    scaled.push_back({range.begin * scale, range.end * scale});
  return Split(std::move(scaled));
}

Split SplitOutputs(int64_t outputs, int64_t multiple, int ranks, int64_t finest) {
  TANDEM_CHECK(outputs > 0 && multiple > 0 && ranks > 0);
  TANDEM_CHECK_EQ(multiple & (multiple - 1), 0);
  while (multiple > finest && CeilDiv(outputs, multiple) < ranks) multiple /= 2;
  const int64_t units = CeilDiv(outputs, multiple);
  std::vector<ShardRange> ranges;
  for (int64_t r = 0; r < ranks; ++r) {
    ranges.push_back({std::min(units * r / ranks * multiple, outputs),
                      std::min(units * (r + 1) / ranks * multiple, outputs)});
  }
  return Split(std::move(ranges));
}

// multiple: 64 outputs are the tile that Marlin's packing pads to (kMarlinNMultiple), 128 those
// that share an fp8 scale; the host's stored weights lie in panels of 16 rows. Plain weights are
// cut at 16 outputs, so that a row's part is a multiple of 32 bytes in bf16. block: fp8 scales are
// made from 128 outputs; oneDNN chooses its blocking by the shape of a slice of 256, so a slice
// must be the one that the whole layer would have. Marlin's scales are of single outputs.
ShardNeeds ShardNeedsOf(const LinearFormat& format) {
  switch (format.kernel) {
    case LinearKernel::kNative:
    case LinearKernel::kStored:
      return {.multiple = 16, .block = 1};
    case LinearKernel::kOneDnn:
      return {.multiple = 256, .block = 256};
    case LinearKernel::kFp8:
      return {.multiple = 128, .block = 128};
    case LinearKernel::kMarlin8:
    case LinearKernel::kMarlin4:
      return {.multiple = 64, .block = 1};
  }
  base::CheckFailed(__FILE__, __LINE__, "a kernel that is none of the above");
}

ShardNeeds Both(const ShardNeeds& a, const ShardNeeds& b) {
  return {std::max(a.multiple, b.multiple), std::max(a.block, b.block)};
}

ShardRange HeldRange(const ShardRange& own, int64_t block, int64_t outputs) {
  if (own.empty()) return own;
  return {own.begin / block * block, std::min(CeilDiv(own.end, block) * block, outputs)};
}

ShardKind ShardKindOf(TensorRole role) {
  switch (role) {
    case R::kEmbedding:
      return ShardKind::kColumns;
    case R::kQA:
    case R::kKvA:
      return ShardKind::kWhole;
    case R::kRouter:
      return ShardKind::kFirstRank;
    case R::kQ:
    case R::kQB:
    case R::kKvB:
      return ShardKind::kHeads;
    case R::kLmHead:
    case R::kO:
    case R::kDenseGate:
    case R::kDenseUp:
    case R::kDenseDown:
    case R::kSharedGate:
    case R::kSharedUp:
    case R::kSharedDown:
      return ShardKind::kOutputs;
    default:
      base::CheckFailed(__FILE__, __LINE__,
                        absl::StrCat("no matrix of the GPU worker's: ", LabelOf(role)));
  }
}

absl::StatusOr<ShardPlan> ShardPlan::Make(const ModelConfig& config, int ranks) {
  if (ranks < 1 || ranks > kRanksMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected 1 to ", kRanksMax, " ranks, found ", ranks));
  }
  if (config.num_attention_heads % ranks != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "attention is shared out by whole heads: expected a number of ranks that divides ",
        config.num_attention_heads, " heads, found ", ranks, " ranks"));
  }
  return ShardPlan(config, ranks);
}

ShardPlan::ShardPlan(const ModelConfig& config, int ranks)
    : heads_(SplitOutputs(config.num_attention_heads, 1, ranks)),
      heads_total_(config.num_attention_heads),
      qk_head_(config.qk_head_dim()),
      v_head_(config.v_head_dim),
      hidden_(config.hidden_size) {}

Split ShardPlan::SplitOf(TensorRole role, int64_t outputs, const ShardNeeds& needs) const {
  const ShardRange whole{0, outputs}, none{0, 0};
  switch (ShardKindOf(role)) {
    case ShardKind::kWhole:
      return Repeated(whole, whole, ranks());
    case ShardKind::kFirstRank:
      return Repeated(whole, none, ranks());
    case ShardKind::kHeads:
      TANDEM_CHECK_EQ(outputs % heads_total_, 0);
      return heads_.Scaled(outputs / heads_total_);
    case ShardKind::kOutputs:
      return SplitOutputs(outputs, needs.multiple, ranks(), needs.block);
    case ShardKind::kColumns:
      return SplitOutputs(hidden_, needs.multiple, ranks(), needs.block);
  }
  base::CheckFailed(__FILE__, __LINE__, "a kind that is none of the above");
}

}  // namespace tandem::gpu_worker
