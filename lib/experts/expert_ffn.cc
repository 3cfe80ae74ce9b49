#include "lib/experts/expert_ffn.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "lib/base/check.h"
#include "lib/experts/row_groups.h"
#include "lib/kernels/expert_grid.h"
#include "lib/kernels/weights.h"
#include "lib/tensor/codec.h"

namespace tandem {
namespace {

using kernels::AlignedBuffer;
using kernels::GroupRows;
using kernels::kPanelRows;
using kernels::MultiplyPanels;
using kernels::RowForm;
using kernels::RowFormOf;
using kernels::UsesTiles;

// Panels of one matrix computed at a time: many, since every change of matrix interrupts the stream
// from memory, but few enough to share them out evenly, and always whole blocks of the intermediate
// row. With row tiles four share a pass over the activations.
constexpr int64_t kRunPanelsMax = 8;
constexpr int64_t kRunPanelsMin = 2;
constexpr int64_t kRunsPerThread = 8;

int64_t RunPanels(int64_t panels, int threads, bool tiled) {
  int64_t run = tiled ? kernels::kTilePanelsMax : kRunPanelsMax;
  while (run > kRunPanelsMin && panels / run < kRunsPerThread * threads) run /= 2;
  return run;
}

// Most scratch of one pass: 512 tokens with eight experts each are 4096 pairs of some 17 KB.
constexpr int64_t kPassBytesMax = 96 << 20;

template <typename T>
T* Grown(std::vector<T>* buffer, int64_t values) {
  if (static_cast<int64_t>(buffer->size()) < values) buffer->resize(values);
  return buffer->data();
}

struct ThreadBuffers {
  std::vector<float> row;
  AlignedBuffer gate, up;
};
ThreadBuffers& Buffers() {
  thread_local ThreadBuffers buffers;
  return buffers;
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t WholeTiles(int64_t rows) { return CeilDiv(rows, kernels::kTileRows) * kernels::kTileRows; }

// Outputs of `panels` panels for whole tiles of rows.
float* Outputs(AlignedBuffer* buffer, int64_t rows, int64_t panels) {
  return reinterpret_cast<float*>(buffer->Reserve(WholeTiles(rows) * panels * kPanelRows *
                                                  static_cast<int64_t>(sizeof(float))));
}

// One row of a call as f32.
void WidenRow(const kernels::KernelTable& table, DType dtype, const std::byte* x, int64_t n,
              float* out) {
  if (dtype == DType::kBF16) {
    table.widen_bf16(reinterpret_cast<const uint16_t*>(x), n, out);
  } else {
    DequantizeRow(DType::kF32, x, n, out);
  }
}

// Gives one pair's outputs [begin, begin + n) to its row; `sums` are those of the row from `begin`,
// its own or a node's.
void Deliver(const kernels::KernelTable& table, const FfnBatch& batch, const FfnPair& pair,
             int64_t begin, int64_t n, const float* y, int32_t* sums) {
  if (batch.reply == ReplyForm::kPerExpertF32) {
    for (int64_t k = 0; k < n; ++k) pair.out[begin + k] = y[k] * pair.weight;
    return;
  }
  const FfnRow& row = batch.rows[pair.row];
  const bool inside = table.grid_add({.y = y,
                                      .n = n,
                                      .weight = pair.weight,
                                      .inverse_step = kernels::GridStep(-row.grid_exponent),
                                      .limit = static_cast<float>(batch.grid_limit),
                                      .sums = sums});
  // Parts of one row are computed on several threads.
  if (!inside) std::atomic_ref<uint8_t>(*row.flag).store(1, std::memory_order_relaxed);
}

// Which kinds of row tiles a matrix set of an expert reads.
struct TileNeed {
  bool quant = false, bf16 = false;
  bool any() const { return quant || bf16; }

  void Add(const kernels::KernelTable& table, DType type, ActivationForm activation, int64_t rows) {
    if (!UsesTiles(table, type, activation, rows)) return;
    (kernels::IsIntegerForm(type) ? quant : bf16) = true;
  }
};

int64_t TileBytes(const TileNeed& need, int64_t rows, int64_t cols) {
  return CeilDiv(rows, kernels::kTileRows) * ((need.quant ? kernels::QuantTileBytes(cols) : 0) +
                                              (need.bf16 ? kernels::Bf16TileBytes(cols) : 0));
}

// Gives `rows` its tiles from `at` on; returns where they end.
std::byte* PlaceTiles(const TileNeed& need, std::byte* at, GroupRows* rows) {
  const int64_t tiles = CeilDiv(rows->rows, kernels::kTileRows);
  if (need.quant) {
    rows->quant_tiles = at;
    at += tiles * kernels::QuantTileBytes(rows->cols);
  }
  if (need.bf16) {
    rows->bf16_tiles = at;
    at += tiles * kernels::Bf16TileBytes(rows->cols);
  }
  return at;
}

}  // namespace

// One expert with the pairs that want it; pair i of the pass (counted through all groups) owns row
// i of h.
struct ExpertFfn::Group {
  const PackedExpert* weights = nullptr;
  int64_t first = 0;  // of its pairs in the pass
  std::vector<const FfnPair*> pairs;
  GroupRows x, h;
  TileNeed x_need, h_need;
  int64_t panels = kRunPanelsMin;  // of the intermediate row, computed at a time
  int64_t first_item = 0;          // of the loop over all groups' gate and up panels

  int64_t rows() const { return static_cast<int64_t>(pairs.size()); }
  int node() const { return weights->node; }
};

struct ExpertFfn::Pass {
  std::vector<Group> groups;          // in order of memory node
  std::vector<size_t> group_bounds;   // [nodes + 1]: groups of node n begin at group_bounds[n]
  std::vector<int64_t> item_bounds;   // [nodes + 1]: likewise the items of gate and up
  std::vector<int64_t> range_bounds;  // [nodes + 1]: likewise the items of down
  // Sums of the nodes but the first that has groups, [nodes][rows][hidden]: threads of two nodes
  // would otherwise add to the same numbers. Integers, so adding them up later changes nothing.
  std::vector<int32_t> node_sums;
  int64_t pairs = 0, items = 0;
  int64_t hidden = 0, inter = 0;
  ActivationRows::Wanted x_wanted, h_wanted;
  ActivationRows h;
  AlignedBuffer tiles;  // of all groups

  Group& GroupOfItem(int64_t item) {
    const auto after = std::upper_bound(
        groups.begin(), groups.end(), item,
        [](int64_t value, const Group& group) { return value < group.first_item; });
    return *(after - 1);
  }
  int nodes() const { return static_cast<int>(group_bounds.size()) - 1; }
  bool HasGroups(int node) const { return group_bounds[node] < group_bounds[node + 1]; }
  int FirstNode() const {
    int node = 0;
    while (!HasGroups(node)) ++node;
    return node;
  }
};

ExpertFfn::ExpertFfn(const kernels::KernelTable& table, base::ThreadPool* pool)
    : table_(table), pool_(pool), pass_(std::make_unique<Pass>()) {}
ExpertFfn::~ExpertFfn() = default;

namespace {

void Want(RowForm form, ActivationRows::Wanted* wanted) {
  (form == RowForm::kInt8 ? wanted->int8 : wanted->floats) = true;
}

}  // namespace

void ExpertFfn::Run(const FfnBatch& batch, const WeightsOf& weights_of) {
  if (batch.pairs.empty()) return;
  std::vector<uint32_t> expert_of_pair;
  expert_of_pair.reserve(batch.pairs.size());
  for (const FfnPair& pair : batch.pairs) expert_of_pair.push_back(pair.expert);
  const std::vector<ExpertGroup> groups = GroupByExpert(expert_of_pair);

  Pass& pass = *pass_;
  const PackedExpert& any = *weights_of(groups.front().expert);
  pass.hidden = any.gate.layout.cols;
  pass.inter = any.gate.layout.rows;
  pass.x_wanted = pass.h_wanted = {};
  pass.x_wanted.round_to_bf16 = pass.h_wanted.round_to_bf16 =
      batch.activation == ActivationForm::kNative;
  for (const ExpertGroup& group : groups) {
    const PackedExpert& weights = *weights_of(group.expert);
    TANDEM_CHECK_EQ(weights.gate.layout.cols, pass.hidden);
    TANDEM_CHECK_EQ(weights.down.layout.cols, pass.inter);
    Want(RowFormOf(weights.gate.layout.type, batch.activation), &pass.x_wanted);
    Want(RowFormOf(weights.up.layout.type, batch.activation), &pass.x_wanted);
    Want(RowFormOf(weights.down.layout.type, batch.activation), &pass.h_wanted);
  }
  StoreRows(batch);
  // Tiles and rows of one form take about the same.
  const int64_t pair_bytes = 2 * (ActivationRows::RowBytes(pass.x_wanted, pass.hidden) +
                                  ActivationRows::RowBytes(pass.h_wanted, pass.inter));
  const int64_t pairs_max = std::max<int64_t>(1, kPassBytesMax / pair_bytes);
  for (const std::vector<ExpertGroup>& part : CutIntoPasses(groups, pairs_max)) {
    pass.groups.clear();
    pass.pairs = 0;
    for (const ExpertGroup& group : part) {
      Group& added = pass.groups.emplace_back();
      added.weights = weights_of(group.expert);
      for (int64_t pair : group.pairs) added.pairs.push_back(&batch.pairs[pair]);
    }
    OrderByNode(&pass);
    PreparePass(batch, &pass);
    GateAndUp(batch, &pass);
    Down(batch, &pass);
  }
}

void ExpertFfn::OrderByNode(Pass* pass) const {
  std::stable_sort(pass->groups.begin(), pass->groups.end(),
                   [](const Group& a, const Group& b) { return a.node() < b.node(); });
  TANDEM_CHECK_GE(pass->groups.front().node(), 0);
  TANDEM_CHECK_LT(pass->groups.back().node(), pool_->nodes());
  pass->group_bounds.assign(1, 0);
  for (int node = 0; node < pool_->nodes(); ++node) {
    size_t end = pass->group_bounds.back();
    while (end < pass->groups.size() && pass->groups[end].node() == node) ++end;
    pass->group_bounds.push_back(end);
  }
  for (Group& group : pass->groups) {
    group.first = pass->pairs;
    pass->pairs += group.rows();
  }
}

// Every row once, whatever number of experts it goes to.
void ExpertFfn::StoreRows(const FfnBatch& batch) {
  const int64_t rows = static_cast<int64_t>(batch.rows.size());
  const int64_t hidden = pass_->hidden;
  x_.Reset(pass_->x_wanted, rows, hidden);
  pool_->ParallelFor(rows, 1, [&](int64_t begin, int64_t end) {
    float* row = Grown(&Buffers().row, hidden);
    for (int64_t r = begin; r < end; ++r) {
      WidenRow(table_, batch.x_dtype, batch.rows[r].x, hidden, row);
      x_.Store(table_, r, 0, hidden, row);
    }
  });
}

// Decides who uses tiles, makes room, and lays the rows of x into their tiles.
void ExpertFfn::PreparePass(const FfnBatch& batch, Pass* pass) {
  pass->h.Reset(pass->h_wanted, pass->pairs, pass->inter);
  pass->items = 0;
  int64_t all_panels = 0, x_tile_bytes = 0, h_tile_bytes = 0;
  for (const Group& group : pass->groups) all_panels += group.weights->gate.layout.panels();
  for (Group& group : pass->groups) {
    const PackedExpert& w = *group.weights;
    const int64_t rows = group.rows();
    group.x_need.Add(table_, w.gate.layout.type, batch.activation, rows);
    group.x_need.Add(table_, w.up.layout.type, batch.activation, rows);
    group.h_need.Add(table_, w.down.layout.type, batch.activation, rows);
    x_tile_bytes += TileBytes(group.x_need, rows, pass->hidden);
    h_tile_bytes += TileBytes(group.h_need, rows, pass->inter);
    group.panels = RunPanels(all_panels, pool_->threads(), group.x_need.any());
    group.first_item = pass->items;
    pass->items += CeilDiv(w.gate.layout.panels(), group.panels);
  }
  pass->item_bounds.clear();
  for (size_t first : pass->group_bounds) {
    pass->item_bounds.push_back(first < pass->groups.size() ? pass->groups[first].first_item
                                                            : pass->items);
  }
  std::byte* tiles = pass->tiles.Reserve(x_tile_bytes + h_tile_bytes);
  for (Group& group : pass->groups) {
    group.x.rows = group.h.rows = group.rows();
    group.x.cols = pass->hidden;
    group.h.cols = pass->inter;
    tiles = PlaceTiles(group.x_need, tiles, &group.x);
    tiles = PlaceTiles(group.h_need, tiles, &group.h);
    for (int64_t i = 0; i < group.rows(); ++i) {
      if (pass->x_wanted.int8) group.x.quant.push_back(x_.quant(group.pairs[i]->row));
      if (pass->x_wanted.floats) group.x.floats.push_back(x_.floats(group.pairs[i]->row));
      if (pass->h_wanted.int8) group.h.quant.push_back(pass->h.quant(group.first + i));
      if (pass->h_wanted.floats) group.h.floats.push_back(pass->h.floats(group.first + i));
    }
  }
  if (x_tile_bytes == 0) return;
  pool_->ParallelFor(pass->pairs, 1, [&](int64_t begin, int64_t end) {
    for (const Group& group : pass->groups) {
      const int64_t last = std::min(end - group.first, group.rows());
      for (int64_t i = std::max<int64_t>(begin - group.first, 0); i < last; ++i) {
        group.x.FillTiles(i, 0, pass->hidden);
      }
    }
  });
}

// h = silu(gate x) * (up x), a few panels at a time, stored as the down projection wants it.
void ExpertFfn::GateAndUp(const FfnBatch& batch, Pass* pass) {
  pool_->ParallelForNodes(pass->item_bounds, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const Group& group = pass->GroupOfItem(item);
      const PackedExpert& w = *group.weights;
      const int64_t first = (item - group.first_item) * group.panels;
      const int64_t panels = std::min(group.panels, w.gate.layout.panels() - first);
      const int64_t stride = panels * kPanelRows;
      float* gate = Outputs(&Buffers().gate, group.rows(), panels);
      float* up = Outputs(&Buffers().up, group.rows(), panels);
      kernels::PrefetchPanel(w.up, first);
      MultiplyPanels(table_, w.gate, first, panels, group.x, batch.activation, gate, stride);
      if (first + panels < w.gate.layout.panels()) kernels::PrefetchPanel(w.gate, first + panels);
      MultiplyPanels(table_, w.up, first, panels, group.x, batch.activation, up, stride);
      table_.swiglu(gate, up, gate, group.rows() * stride);
      const int64_t col = first * kPanelRows;
      const int64_t outs = std::min(stride, pass->inter - col);
      for (int64_t r = 0; r < group.rows(); ++r) {
        pass->h.Store(table_, group.first + r, col, outs, gate + r * stride);
        group.h.FillTiles(r, col, outs);
      }
    }
  });
}

// One range of the hidden row at a time, all experts of a node in it: no two threads touch the same
// sums.
void ExpertFfn::Down(const FfnBatch& batch, Pass* pass) {
  bool tiled = false;
  for (const Group& group : pass->groups) {
    tiled = tiled || group.h_need.any();
  }
  const int64_t all_panels = pass->groups.front().weights->down.layout.panels();
  const int64_t panels_each = RunPanels(all_panels, pool_->threads(), tiled);
  const int64_t ranges = CeilDiv(all_panels, panels_each);
  pass->range_bounds.assign(1, 0);
  for (int node = 0; node < pass->nodes(); ++node) {
    pass->range_bounds.push_back(pass->range_bounds.back() + (pass->HasGroups(node) ? ranges : 0));
  }
  const int first_node = pass->FirstNode();
  const int64_t rows = static_cast<int64_t>(batch.rows.size());
  const bool sums_apart = batch.reply == ReplyForm::kGridSum && pass->range_bounds.back() > ranges;
  if (sums_apart) Grown(&pass->node_sums, pass->nodes() * rows * pass->hidden);
  const auto sums_of = [&](int node, int64_t row, int64_t col) {
    if (batch.reply != ReplyForm::kGridSum) return static_cast<int32_t*>(nullptr);
    if (node == first_node) return batch.rows[row].sums + col;
    return pass->node_sums.data() + (node * rows + row) * pass->hidden + col;
  };
  pool_->ParallelForNodes(pass->range_bounds, 1, [&](int64_t begin, int64_t end) {
    int node = 0;
    while (pass->range_bounds[node + 1] <= begin) ++node;  // a call never spans two nodes' items
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = (item - pass->range_bounds[node]) * panels_each;
      const int64_t panels = std::min(panels_each, all_panels - first);
      const int64_t stride = panels * kPanelRows;
      const int64_t col = first * kPanelRows;
      const int64_t outs = std::min(stride, pass->hidden - col);
      for (int64_t r = 0; sums_apart && node != first_node && r < rows; ++r) {
        std::fill_n(sums_of(node, r, col), outs, 0);
      }
      for (size_t g = pass->group_bounds[node]; g < pass->group_bounds[node + 1]; ++g) {
        const Group& group = pass->groups[g];
        if (g + 1 < pass->group_bounds[node + 1]) {
          kernels::PrefetchPanel(pass->groups[g + 1].weights->down, first);
        }
        float* y = Outputs(&Buffers().gate, group.rows(), panels);
        MultiplyPanels(table_, group.weights->down, first, panels, group.h, batch.activation, y,
                       stride);
        for (int64_t r = 0; r < group.rows(); ++r) {
          const FfnPair& pair = *group.pairs[r];
          Deliver(table_, batch, pair, col, outs, y + r * stride, sums_of(node, pair.row, col));
        }
      }
    }
  });
  if (sums_apart) AddNodeSums(batch, pass);
}

void ExpertFfn::AddNodeSums(const FfnBatch& batch, Pass* pass) {
  const int64_t rows = static_cast<int64_t>(batch.rows.size());
  pool_->ParallelFor(rows, 1, [&](int64_t begin, int64_t end) {
    for (int node = pass->FirstNode() + 1; node < pass->nodes(); ++node) {
      if (!pass->HasGroups(node)) continue;
      for (int64_t r = begin; r < end; ++r) {
        const int32_t* from = pass->node_sums.data() + (node * rows + r) * pass->hidden;
        for (int64_t k = 0; k < pass->hidden; ++k) batch.rows[r].sums[k] += from[k];
      }
    }
  });
}

}  // namespace tandem
