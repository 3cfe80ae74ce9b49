// One call of the expert layer as a worker makes it: rows of hidden state, each going to the same
// group of experts, added on the grid.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/expert_set.h"
#include "lib/base/thread_pool.h"
#include "lib/experts/expert_ffn.h"
#include "lib/kernels/kernel_table.h"

namespace tandem::bench {

class LayerRun {
 public:
  // `x`: [rows, hidden] f32, rounded to bf16 as on the wire. Every row goes to all `experts`
  // experts with weight 1 / experts. `table` and `pool` outlive it.
  LayerRun(const kernels::KernelTable& table, base::ThreadPool* pool, const std::vector<float>& x,
           int64_t hidden, int experts);

  // Experts [first, first + experts) of `set`. Seconds of wall time.
  double Run(const ExpertSet& set, int first);

  // [rows, hidden] of the last run.
  std::vector<float> Output() const;

 private:
  int64_t hidden_;
  std::vector<uint16_t> x_;
  std::vector<int32_t> sums_;
  std::vector<uint8_t> flags_;
  FfnBatch batch_;
  ExpertFfn ffn_;
};

// Normal values, the same for every engine that is asked with the same seed: [count] f32.
std::vector<float> RandomInputs(int64_t count, uint64_t seed);

}  // namespace tandem::bench
