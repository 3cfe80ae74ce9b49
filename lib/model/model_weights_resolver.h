// TensorResolver: finds tensors by role, checks their shapes, and remembers which ones were asked
// for, so that a file holding something the architecture does not compute is refused instead of
// half used.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lib/model/config.h"
#include "lib/model/model_weights.h"
#include "lib/model/model_weights_names.h"

namespace tandem {

class TensorResolver {
 public:
  // Both must outlive this.
  TensorResolver(const TensorSource& source, const ModelConfig& config)
      : source_(source), config_(config) {}

  bool Has(TensorRole role, int64_t layer = 0, int64_t expert = 0) const;

  // A matrix of exactly [rows, cols], with its fp8 scales when it is fp8.
  absl::StatusOr<Matrix> GetMatrix(TensorRole role, int64_t rows, int64_t cols, int64_t layer = 0,
                                   int64_t expert = 0);
  // `count` matrices of [rows, cols] from one tensor [count, rows, cols].
  absl::StatusOr<std::vector<Matrix>> GetStacked(TensorRole role, int64_t count, int64_t rows,
                                                 int64_t cols, int64_t layer);
  // A tensor of exactly `shape`; vectors (norms, biases) must be f32, f16 or bf16.
  absl::StatusOr<TensorView> GetTensor(TensorRole role, const std::vector<int64_t>& shape,
                                       int64_t layer = 0);

  // Counts a tensor as used without looking at it.
  void Ignore(TensorRole role, int64_t layer = 0);
  // Fails on the first tensor that nobody asked for. MTP layers and cached rotary frequencies are
  // expected leftovers, and routed experts when they are read elsewhere; `mtp_layers_found` is the
  // number of such layers.
  absl::Status CheckAllUsed(bool experts_elsewhere, int64_t* mtp_layers_found) const;

 private:
  absl::StatusOr<const TensorView*> Find(TensorRole role, int64_t layer, int64_t expert,
                                         const std::vector<int64_t>& shape);
  absl::Status AddScales(const std::vector<int64_t>& shape, Matrix& matrix);

  const TensorSource& source_;
  const ModelConfig& config_;
  absl::flat_hash_set<std::string> used_;
};

// Rows [begin, begin + count) of a 2-D matrix. fp8 blocks must not straddle the cut: nothing is
// returned then.
std::optional<Matrix> RowRange(const Matrix& matrix, int64_t begin, int64_t count);

}  // namespace tandem
