// The plan of a synthetic model: every tensor of the file with where its rows' random numbers come
// from. Which container and layout a number ends up in does not change it, so the same model can be
// compared across containers.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/model_weights_writer.h"
#include "lib/model/synth.h"

namespace tandem {

enum class SynthFill {
  kRows,             // random rows
  kRouter,           // random rows of bf16 numbers, whatever they are stored as
  kTransposedHeads,  // k_b: per head the transpose of kv_b's rows
  kNorm,             // near 1
  kRouterBias,       // near 0
  kFp8Scales,        // block scales
};

// Rows [first_row, first_row + rows) of the random matrix `seed`.
struct SynthPiece {
  uint64_t seed = 0;
  int64_t first_row = 0;
  int64_t rows = 0;
};

struct SynthTensor {
  TensorPlan plan;
  SynthFill fill = SynthFill::kRows;
  std::vector<SynthPiece> pieces;  // one after the other
  double std_dev = 0.0;            // of the dequantized values
  int64_t source_cols = 0;         // kTransposedHeads: columns of the untransposed rows
};

// The tensors of `options.config` in file order. The config must have fp8 blocks exactly when the
// format is f8_e4m3.
std::vector<SynthTensor> PlanSynthTensors(const SynthOptions& options);

}  // namespace tandem
