// The routed experts' arithmetic: for every (row, expert) pair w * down(silu(gate x) * (up x)),
// added on the row's grid or given back apart. What one pair contributes depends on its row, its
// expert and nothing else, so any grouping of rows into calls and of experts over workers, and any
// number of threads, gives the same integers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "lib/base/thread_pool.h"
#include "lib/experts/packed_expert.h"
#include "lib/kernels/kernel_table.h"
#include "lib/kernels/row_forms.h"

namespace tandem {

using kernels::ActivationForm;
using kernels::ActivationRows;

enum class ReplyForm { kGridSum, kPerExpertF32 };

// One row of hidden state. Rows of several calls may be mixed in one batch.
struct FfnRow {
  const std::byte* x = nullptr;  // [hidden] bf16 or f32, any alignment
  int grid_exponent = 0;         // kGridSum
  int32_t* sums = nullptr;       // kGridSum: [hidden], added to; the caller sets it to zero
  uint8_t* flag =
      nullptr;  // kGridSum: set to 1 when a value fell outside the grid; the caller sets it to zero
};

struct FfnPair {
  int64_t row = 0;
  uint32_t expert = 0;
  float weight = 0.0f;
  float* out = nullptr;  // kPerExpertF32: [hidden]
};

struct FfnBatch {
  DType x_dtype = DType::kBF16;  // or kF32
  ActivationForm activation = ActivationForm::kNative;
  ReplyForm reply = ReplyForm::kGridSum;
  int32_t grid_limit = 0;  // GridLimit of the model's experts per token
  std::vector<FfnRow> rows;
  std::vector<FfnPair> pairs;
};

// Computes `batch` with the weights `weights_of(expert)` (never null for an expert in the batch) of
// one layer; all experts have the same hidden and intermediate sizes. Weights are read by threads
// of the memory node they lie on, so PackedExpert::node is below the pool's number of nodes
// (CHECKed). `pool` may be shared; calls on one ExpertFfn may not overlap, since it keeps its
// buffers.
class ExpertFfn {
 public:
  ExpertFfn(const kernels::KernelTable& table, base::ThreadPool* pool);
  ~ExpertFfn();

  using WeightsOf = std::function<const PackedExpert*(uint32_t expert)>;
  void Run(const FfnBatch& batch, const WeightsOf& weights_of);

 private:
  struct Group;
  struct Pass;

  void StoreRows(const FfnBatch& batch);
  void OrderByNode(Pass* pass) const;
  void PreparePass(const FfnBatch& batch, Pass* pass);
  void GateAndUp(const FfnBatch& batch, Pass* pass);
  void Down(const FfnBatch& batch, Pass* pass);
  void AddNodeSums(const FfnBatch& batch, Pass* pass);

  const kernels::KernelTable& table_;
  base::ThreadPool* pool_;
  ActivationRows x_;  // rows of the batch
  std::unique_ptr<Pass> pass_;
};

}  // namespace tandem
