#include "gpu_worker/engine/half_batches.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker {
namespace {

// Rows each expert should have in each half, on average: with fewer its time is that of reading its
// weights, which two halves do twice. Expert kernels work on blocks of 16 rows; with two blocks the
// second finds the weights in the cache.
constexpr int64_t kRowsOfExpertMin = 32;

// All segments of one sequence.
struct Group {
  std::vector<size_t> segments;  // indices into the step's, ascending
  int64_t cost = 0;
};

std::vector<Group> GroupsOf(const ModelConfig& config, const StepBatch& step,
                            std::span<const int64_t> owners) {
  std::vector<Group> groups;
  absl::flat_hash_map<int64_t, size_t> group_of;
  for (size_t i = 0; i < step.segments.size(); ++i) {
    const Segment& segment = step.segments[i];
    const auto [it, added] = group_of.try_emplace(owners[segment.row_begin], groups.size());
    if (added) groups.emplace_back();
    groups[it->second].segments.push_back(i);
    groups[it->second].cost += SegmentCost(config, segment);
  }
  return groups;
}

HalfBatch PartOf(const StepBatch& step, std::vector<size_t> segments) {
  std::sort(segments.begin(), segments.end());
  HalfBatch part;
  for (const size_t i : segments) {
    Segment segment = step.segments[i];
    const int64_t from = std::exchange(segment.row_begin, part.step.rows());
    for (int64_t r = from; r < from + segment.rows; ++r) {
      part.rows.push_back(r);
      part.step.token_ids.push_back(step.token_ids[r]);
      part.step.positions.push_back(step.positions[r]);
    }
    part.step.segments.push_back(segment);
  }
  return part;
}

std::vector<HalfBatch> Whole(const StepBatch& step) {
  std::vector<HalfBatch> whole(1);
  whole[0].step = step;
  for (int64_t r = 0; r < step.rows(); ++r) whole[0].rows.push_back(r);
  return whole;
}

}  // namespace

int64_t SegmentCost(const ModelConfig& c, const Segment& segment) {
  const int64_t heads = c.num_attention_heads;
  const int64_t queries = c.q_lora_rank > 0
                              ? c.q_lora_rank * (c.hidden_size + heads * c.qk_head_dim())
                              : c.hidden_size * heads * c.qk_head_dim();
  // Into the latent space before the keys and out of it after them.
  const int64_t absorb = heads * c.kv_lora_rank * (c.qk_nope_head_dim + c.v_head_dim);
  const int64_t row = queries + c.hidden_size * c.kv_row_dim() + absorb +
                      heads * c.v_head_dim * c.hidden_size +
                      3 * c.hidden_size * c.moe_intermediate_size * c.n_shared_experts;
  // Scores over latent and rope key, then the sum over latents.
  const int64_t key = heads * (c.kv_row_dim() + c.kv_lora_rank);
  // Row i of the segment has start_position + i + 1 keys.
  const int64_t keys =
      segment.rows * segment.start_position + segment.rows * (segment.rows + 1) / 2;
  return segment.rows * row + keys * key;
}

std::vector<HalfBatch> SplitStep(const ModelConfig& config, const StepBatch& step,
                                 std::span<const int64_t> owners, int64_t rows_min) {
  TANDEM_CHECK_EQ(static_cast<int64_t>(owners.size()), step.rows());
  if (rows_min <= 0 || step.rows() < rows_min) return Whole(step);
  std::vector<Group> groups = GroupsOf(config, step, owners);
  if (groups.size() < 2) return Whole(step);
  std::stable_sort(groups.begin(), groups.end(),
                   [](const Group& a, const Group& b) { return a.cost > b.cost; });
  std::vector<size_t> segments[2];
  int64_t cost[2] = {};
  for (const Group& group : groups) {
    const int to = cost[1] < cost[0] ? 1 : 0;
    segments[to].insert(segments[to].end(), group.segments.begin(), group.segments.end());
    cost[to] += group.cost;
  }
  std::vector<HalfBatch> halves = {PartOf(step, std::move(segments[0])),
                                   PartOf(step, std::move(segments[1]))};
  if (halves[0].step.rows() < halves[1].step.rows()) std::swap(halves[0], halves[1]);
  return halves;
}

int64_t DefaultHalfRowsMin(const ModelConfig& config, const BackendInfo& backend) {
  if (!backend.asynchronous || config.num_experts_per_tok == 0) return 0;
  const int64_t rows = 2 * kRowsOfExpertMin * config.n_routed_experts / config.num_experts_per_tok;
  return rows <= backend.rows_max ? rows : 0;
}

}  // namespace tandem::gpu_worker
