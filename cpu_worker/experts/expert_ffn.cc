#include "cpu_worker/experts/expert_ffn.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>

#include "cpu_worker/experts/row_groups.h"
#include "lib/base/check.h"
#include "lib/kernels/expert_grid.h"
#include "lib/tensor/codec.h"

namespace tandem::cpu_worker {
namespace {

// Outputs computed at a time. A multiple of 64, so that a tile of the intermediate row is whole
// chunks of codes.
constexpr int64_t kTileOuts = 64;

// Most scratch of one pass: with 7168 + 2048 values in int8 form some 1300 pairs, 5 for each of
// V3's 256 experts.
constexpr int64_t kPassBytesMax = 16 << 20;

constexpr std::array<RowForm, 3> kRowForms = {RowForm::kInt8, RowForm::kBf16, RowForm::kF32};

template <typename T>
T* Grown(std::vector<T>* buffer, int64_t values) {
  if (static_cast<int64_t>(buffer->size()) < values) buffer->resize(values);
  return buffer->data();
}

struct TileScratch {
  std::vector<float> gate, up;
};
TileScratch& ThreadTileScratch() {
  thread_local TileScratch scratch;
  return scratch;
}

int64_t Tiles(int64_t outs) { return (outs + kTileOuts - 1) / kTileOuts; }

}  // namespace

// The rows of a pass in every form some matrix of it wants.
struct ExpertFfn::RowSet {
  std::array<RowBuffer, kRowForms.size()> buffers;
  std::array<bool, kRowForms.size()> wanted = {};

  void Want(RowForm form) { wanted[static_cast<int>(form)] = true; }
  const RowBuffer& Of(RowForm form) const { return buffers[static_cast<int>(form)]; }

  void Reset(bool round_to_bf16, int64_t rows, int64_t cols) {
    for (RowForm form : kRowForms) {
      if (wanted[static_cast<int>(form)]) {
        buffers[static_cast<int>(form)].Reset(form, round_to_bf16, rows, cols);
      }
    }
  }
  void Store(const kernels::KernelTable& table, int64_t row, int64_t col_begin, int64_t n,
             const float* values) {
    for (RowForm form : kRowForms) {
      if (wanted[static_cast<int>(form)]) {
        buffers[static_cast<int>(form)].Store(table, row, col_begin, n, values);
      }
    }
  }
  int64_t RowBytes(int64_t cols) const {
    int64_t bytes = 0;
    for (RowForm form : kRowForms) {
      if (wanted[static_cast<int>(form)]) bytes += RowBuffer::RowBytesOf(form, cols);
    }
    return bytes;
  }
};

// Groups of a pass with their weights; pair i of the pass (counted through all groups) owns row i
// of `x` and `h`.
struct ExpertFfn::Pass {
  struct Group {
    const FfnWeights* weights = nullptr;
    int64_t first = 0;  // of its pairs in the pass
    std::vector<const FfnPair*> pairs;
  };
  std::vector<Group> groups;
  int64_t pairs = 0;
  int64_t hidden = 0, inter = 0;
  RowSet x, h;
};

void ExpertFfn::Run(const FfnBatch& batch, const WeightsOf& weights_of) {
  if (batch.pairs.empty()) return;
  std::vector<uint32_t> expert_of_pair;
  expert_of_pair.reserve(batch.pairs.size());
  for (const FfnPair& pair : batch.pairs) expert_of_pair.push_back(pair.expert);
  const std::vector<ExpertGroup> groups = GroupByExpert(expert_of_pair);

  Pass pass;
  pass.hidden = weights_of(groups.front().expert)->gate.cols();
  pass.inter = weights_of(groups.front().expert)->gate.rows();
  for (const ExpertGroup& group : groups) {
    const FfnWeights& weights = *weights_of(group.expert);
    TANDEM_CHECK_EQ(weights.gate.cols(), pass.hidden);
    TANDEM_CHECK_EQ(weights.down.cols(), pass.inter);
    pass.x.Want(RowFormOf(weights.gate.view.dtype, batch.activation));
    pass.x.Want(RowFormOf(weights.up.view.dtype, batch.activation));
    pass.h.Want(RowFormOf(weights.down.view.dtype, batch.activation));
  }
  const int64_t pair_bytes = pass.x.RowBytes(pass.hidden) + pass.h.RowBytes(pass.inter);
  const int64_t pairs_max = std::max<int64_t>(1, kPassBytesMax / pair_bytes);
  for (const std::vector<ExpertGroup>& part : CutIntoPasses(groups, pairs_max)) {
    pass.groups.clear();
    pass.pairs = 0;
    for (const ExpertGroup& group : part) {
      Pass::Group& added = pass.groups.emplace_back();
      added.weights = weights_of(group.expert);
      added.first = pass.pairs;
      for (int64_t pair : group.pairs) added.pairs.push_back(&batch.pairs[pair]);
      pass.pairs += static_cast<int64_t>(group.pairs.size());
    }
    RunPass(batch, &pass);
  }
}

namespace {

// One row of a call as f32.
void WidenRow(const kernels::KernelTable& table, DType dtype, const std::byte* x, int64_t n,
              float* out) {
  if (dtype == DType::kBF16) {
    table.widen_bf16(reinterpret_cast<const uint16_t*>(x), n, out);
  } else {
    DequantizeRow(DType::kF32, x, n, out);
  }
}

// Gives one pair's outputs [begin, begin + n) to its row.
void Deliver(const kernels::KernelTable& table, const FfnBatch& batch, const FfnPair& pair,
             int64_t begin, int64_t n, const float* y) {
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
                                      .sums = row.sums + begin});
  // Tiles of one row are computed on several threads.
  if (!inside) std::atomic_ref<uint8_t>(*row.flag).store(1, std::memory_order_relaxed);
}

}  // namespace

void ExpertFfn::RunPass(const FfnBatch& batch, Pass* pass) {
  const bool round_to_bf16 = batch.activation == ActivationForm::kNative;
  pass->x.Reset(round_to_bf16, pass->pairs, pass->hidden);
  pass->h.Reset(round_to_bf16, pass->pairs, pass->inter);

  std::vector<const FfnPair*> pairs;
  for (const Pass::Group& group : pass->groups) {
    pairs.insert(pairs.end(), group.pairs.begin(), group.pairs.end());
  }
  pool_->ParallelFor(pass->pairs, 1, [&](int64_t begin, int64_t end) {
    float* row = Grown(&ThreadTileScratch().gate, pass->hidden);
    for (int64_t i = begin; i < end; ++i) {
      WidenRow(table_, batch.x_dtype, batch.rows[pairs[i]->row].x, pass->hidden, row);
      pass->x.Store(table_, i, 0, pass->hidden, row);
    }
  });

  // h = silu(gate x) * (up x), tile by tile of the intermediate row, stored as the down projection
  // wants it.
  const int64_t inter_tiles = Tiles(pass->inter);
  const int64_t groups = static_cast<int64_t>(pass->groups.size());
  pool_->ParallelFor(groups * inter_tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const Pass::Group& group = pass->groups[item / inter_tiles];
      const int64_t out = item % inter_tiles * kTileOuts;
      const int64_t outs = std::min(kTileOuts, pass->inter - out);
      const int64_t rows = static_cast<int64_t>(group.pairs.size());
      float* gate = Grown(&ThreadTileScratch().gate, rows * outs);
      float* up = Grown(&ThreadTileScratch().up, rows * outs);
      const Matrix& gate_matrix = group.weights->gate;
      const Matrix& up_matrix = group.weights->up;
      MultiplyRows(table_, gate_matrix, out, outs,
                   pass->x.Of(RowFormOf(gate_matrix.view.dtype, batch.activation)), group.first,
                   rows, gate);
      MultiplyRows(table_, up_matrix, out, outs,
                   pass->x.Of(RowFormOf(up_matrix.view.dtype, batch.activation)), group.first, rows,
                   up);
      table_.swiglu(gate, up, gate, rows * outs);
      for (int64_t r = 0; r < rows; ++r) {
        pass->h.Store(table_, group.first + r, out, outs, gate + r * outs);
      }
    }
  });

  // One tile of the hidden row at a time, all experts in it: no two threads touch the same sums.
  pool_->ParallelFor(Tiles(pass->hidden), 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t out = tile * kTileOuts;
      const int64_t outs = std::min(kTileOuts, pass->hidden - out);
      for (const Pass::Group& group : pass->groups) {
        const int64_t rows = static_cast<int64_t>(group.pairs.size());
        float* y = Grown(&ThreadTileScratch().gate, rows * outs);
        const Matrix& down = group.weights->down;
        MultiplyRows(table_, down, out, outs,
                     pass->h.Of(RowFormOf(down.view.dtype, batch.activation)), group.first, rows,
                     y);
        for (int64_t r = 0; r < rows; ++r) {
          Deliver(table_, batch, *group.pairs[r], out, outs, y + r * outs);
        }
      }
    }
  });
}

}  // namespace tandem::cpu_worker
