#include "gpu_worker/experts/combine.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/expert_grid.h"

namespace tandem::gpu_worker {
namespace {

absl::Status CheckSums(const rpc::PayloadView& view, tensor::v1::WireDType dtype, size_t rows,
                       int64_t cols, const std::string& address) {
  if (view.dtype == dtype && view.rows == rows && view.cols == cols) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(
      "expert worker ", address, " answered type ", static_cast<int>(view.dtype), " [", view.rows,
      ", ", view.cols, "], expected type ", static_cast<int>(dtype), " [", rows, ", ", cols, "]"));
}

// Adds without the undefined behaviour of signed overflow, which only a faulty worker can cause
// (expert_grid.h).
int32_t AddWrapping(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

// to[c] += from[c] straight from where the answer lies, at any alignment.
void AddRow(const std::byte* from, int64_t cols, int32_t* to) {
  for (int64_t c = 0; c < cols; ++c) {
    int32_t steps;
    std::memcpy(&steps, from + c * sizeof steps, sizeof steps);
    to[c] = AddWrapping(to[c], steps);
  }
}

}  // namespace

Combine::Combine(const RoutedLayer& layer, std::vector<int32_t> buffer)
    : layer_(layer),
      steps_(std::move(buffer)),
      has_steps_(layer.rows(), false),
      flagged_(layer.rows(), false) {
  steps_.resize(layer.rows() * layer.hidden);
}

absl::Status Combine::AddGridSums(const Frame& frame, const rpc::Answer& answer) {
  const std::vector<int64_t> rows = RowsOfFrame(frame);
  TANDEM_RETURN_IF_ERROR(CheckSums(answer.sums, tensor::v1::WIRE_DTYPE_I32, rows.size(),
                                   layer_.hidden, frame.address));
  const std::span<const uint8_t> flags = answer.row_flags;
  if (!flags.empty() && flags.size() != rows.size()) {
    return absl::InternalError(absl::StrCat("expert worker ", frame.address, " answered ",
                                            flags.size(), " row flags, expected ", rows.size()));
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!flags.empty() && flags[i] != 0) {
      flagged_[rows[i]] = true;
      continue;
    }
    const std::byte* from = answer.sums.data + i * layer_.hidden * sizeof(int32_t);
    int32_t* to = steps_.data() + rows[i] * layer_.hidden;
    if (has_steps_[rows[i]]) {
      AddRow(from, layer_.hidden, to);
    } else {
      std::memcpy(to, from, layer_.hidden * sizeof(int32_t));
      has_steps_[rows[i]] = true;
    }
  }
  return absl::OkStatus();
}

absl::Status Combine::AddPerExpert(const Frame& frame, const rpc::Answer& answer) {
  TANDEM_RETURN_IF_ERROR(CheckSums(answer.sums, tensor::v1::WIRE_DTYPE_F32, frame.terms.size(),
                                   layer_.hidden, frame.address));
  const int64_t bytes = layer_.hidden * static_cast<int64_t>(sizeof(float));
  for (size_t i = 0; i < frame.terms.size(); ++i) {
    const Term& term = frame.terms[i];
    std::vector<float>& terms = terms_[term.row];
    terms.resize(layer_.choice->experts_per_row * layer_.hidden);
    std::memcpy(terms.data() + term.rank * layer_.hidden, answer.sums.data + i * bytes, bytes);
  }
  return absl::OkStatus();
}

std::vector<int64_t> Combine::FlaggedRows() const {
  std::vector<int64_t> rows;
  for (size_t r = 0; r < flagged_.size(); ++r) {
    if (flagged_[r]) rows.push_back(static_cast<int64_t>(r));
  }
  return rows;
}

void Combine::Finish(std::span<float> routed) const {
  TANDEM_CHECK_EQ(routed.size(), steps_.size());
  for (int64_t r = 0; r < layer_.rows(); ++r) {
    float* out = routed.data() + r * layer_.hidden;
    const auto it = terms_.find(r);
    if (it == terms_.end() && has_steps_[r]) {
      const int exponent = layer_.grid_exponents[r];
      const int32_t* steps = steps_.data() + r * layer_.hidden;
      for (int64_t c = 0; c < layer_.hidden; ++c) out[c] = kernels::GridDecode(steps[c], exponent);
      continue;
    }
    // A row without sums or terms has failed, and its sum stays zero.
    std::fill_n(out, layer_.hidden, 0.0f);
    if (it == terms_.end()) continue;
    for (int64_t rank = 0; rank < layer_.choice->experts_per_row; ++rank) {
      const float* term = it->second.data() + rank * layer_.hidden;
      for (int64_t c = 0; c < layer_.hidden; ++c) out[c] += term[c];
    }
  }
}

}  // namespace tandem::gpu_worker
