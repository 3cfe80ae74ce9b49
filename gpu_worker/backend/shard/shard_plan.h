// ShardPlan: what each rank of a GPU worker holds when several devices compute one forward pass.
// Outputs are shared out, sums never: every number is computed by one rank over all its inputs, in
// the order one rank alone would use, and parts are put side by side afterwards. So the bits cannot
// depend on the number of ranks (docs/decisions/0009). Pure arithmetic on shapes; both backends
// load and gather by it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/host/linear_format.h"
#include "lib/model/config.h"
#include "lib/model/model_weights_names.h"

namespace tandem::gpu_worker {

// Ranks of one worker: a host has 8 or 16 devices, never more than this.
inline constexpr int kRanksMax = 64;

// Consecutive outputs, heads or columns.
struct ShardRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  bool empty() const { return begin == end; }
  bool operator==(const ShardRange&) const = default;
};

// One range per rank.
class Split {
 public:
  Split() = default;
  explicit Split(std::vector<ShardRange> ranges) : ranges_(std::move(ranges)) {}

  int ranks() const { return static_cast<int>(ranges_.size()); }
  const ShardRange& of(int rank) const { return ranges_[rank]; }
  int64_t total() const { return ranges_.back().end; }
  int64_t part_max() const;  // size of the largest range: what every rank gathers
  // The same ranges in units of `scale`: heads to the outputs or columns that belong to them.
  Split Scaled(int64_t scale) const;
  bool operator==(const Split&) const = default;

 private:
  std::vector<ShardRange> ranges_;
};

// [0, outputs) over `ranks`, in order, each range but the last ending at a multiple of `multiple`
// (a power of two), as even as whole multiples allow. Where there are fewer multiples than
// ranks a smaller power of two is used, so that no rank is idle while there are outputs enough;
// but none below `finest`, whatever that leaves idle.
Split SplitOutputs(int64_t outputs, int64_t multiple, int ranks, int64_t finest = 1);

// What a number format asks of the places where outputs are cut.
struct ShardNeeds {
  int64_t multiple = 1;  // best cut at multiples of this: a cut elsewhere costs padding
  // Outputs that are quantized or computed together and only as a whole. Only cuts between heads
  // may go through a block: HeldRange.
  int64_t block = 1;
};
ShardNeeds ShardNeedsOf(const LinearFormat& format);
// For two layers that must be cut alike (gate and up).
ShardNeeds Both(const ShardNeeds& a, const ShardNeeds& b);

// The outputs a rank has to hold so that `own` comes out as in the whole layer: `own` widened to
// whole blocks of the layer's `outputs`.
ShardRange HeldRange(const ShardRange& own, int64_t block, int64_t outputs);

enum class ShardKind {
  kWhole,      // every rank has all of it and computes the same: q_a, kv_a, norms
  kFirstRank,  // rank 0 alone, which speaks with the expert workers: router
  kHeads,      // the outputs of the rank's heads: q, q_b, kv_b
  kOutputs,    // an equal share of the outputs: o, gate, up, down, lm_head
  kColumns,    // an equal share of each row: embedding
};
// CHECKs that `role` is one of the GPU worker's matrices.
ShardKind ShardKindOf(TensorRole role);

class ShardPlan {
 public:
  // INVALID_ARGUMENT when the model's heads cannot be shared out over `ranks`, or ranks is not in
  // [1, kRanksMax].
  static absl::StatusOr<ShardPlan> Make(const ModelConfig& config, int ranks);

  int ranks() const { return heads_.ranks(); }
  const Split& heads() const { return heads_; }
  Split queries() const { return heads_.Scaled(qk_head_); }  // of a row [heads * qk_head]
  Split attended() const { return heads_.Scaled(v_head_); }  // of a row [heads * v]
  Split SplitOf(TensorRole role, int64_t outputs, const ShardNeeds& needs) const;

 private:
  ShardPlan(const ModelConfig& config, int ranks);

  Split heads_;
  int64_t heads_total_ = 0, qk_head_ = 0, v_head_ = 0, hidden_ = 0;
};

}  // namespace tandem::gpu_worker
