#include "gpu_worker/experts/link.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/kernels/expert_grid.h"

namespace tandem::gpu_worker {
namespace {

using experts::v1::REPLY_FORM_GRID_SUM;
using experts::v1::REPLY_FORM_PER_EXPERT_F32;

// The grid covers 64 times the row's largest value (expert_grid.h); no layer is known to need
// another constant.
constexpr float kLayerConstant = 1.0f;

// The largest of the values' bits without their sign: among numbers of one sign bits are ordered as
// values are, and infinities and NaNs come last. The loop is one vector instruction a step.
template <typename Bits>
Bits LargestBits(const std::byte* data, int64_t values, Bits magnitude_mask) {
  Bits largest = 0;
  for (int64_t i = 0; i < values; ++i) {
    Bits bits;
    std::memcpy(&bits, data + i * sizeof bits, sizeof bits);
    largest = std::max(largest, static_cast<Bits>(bits & magnitude_mask));
  }
  return largest;
}

// Largest |x| of a row as sent; infinity when a value is not finite.
float RowAbsMax(const RoutedLayer& layer, int64_t row) {
  const std::byte* data = layer.x.data() + row * layer.row_bytes();
  const bool bf16 = layer.dtype == tensor::v1::WIRE_DTYPE_BF16;
  const uint32_t bits = bf16 ? uint32_t{LargestBits<uint16_t>(data, layer.hidden, 0x7fff)} << 16
                             : LargestBits<uint32_t>(data, layer.hidden, 0x7fff'ffff);
  const float largest = std::bit_cast<float>(bits);
  return std::isfinite(largest) ? largest : HUGE_VALF;
}

bool WeightsAreFinite(const RoutedLayer& layer, int64_t row) {
  for (int64_t rank = 0; rank < layer.choice->experts_per_row; ++rank) {
    if (!std::isfinite(layer.Weight({row, rank}))) return false;
  }
  return true;
}

}  // namespace

std::vector<Term> ExpertLink::TermsOf(std::span<const int64_t> rows) const {
  std::vector<Term> terms;
  for (const int64_t row : rows) {
    for (int64_t rank = 0; rank < layer_->choice->experts_per_row; ++rank) {
      terms.push_back({row, rank});
    }
  }
  return terms;
}

void ExpertLink::Start(RoutedLayer& layer, const std::vector<bool>& alive, absl::Time deadline) {
  layer_ = &layer;
  deadline_ = deadline;
  row_status_.assign(layer.rows(), absl::OkStatus());
  const bool grid = layer.dtype == tensor::v1::WIRE_DTYPE_BF16;
  layer.grid_exponents.assign(grid ? layer.rows() : 0, 0);
  std::vector<int64_t> rows;
  for (int64_t r = 0; r < layer.rows(); ++r) {
    if (!alive[r]) continue;
    const float max = RowAbsMax(layer, r);
    if (!std::isfinite(max) || !WeightsAreFinite(layer, r)) {
      row_status_[r] = absl::DataLossError(
          absl::StrCat("layer ", layer.layer, ": the hidden state is not finite"));
      continue;
    }
    if (grid) {
      layer.grid_exponents[r] = kernels::GridExponent(
          max, kLayerConstant, static_cast<int>(layer.choice->experts_per_row));
    }
    rows.push_back(r);
  }
  combine_.emplace(layer, std::move(sum_buffer_));
  exchange_.emplace(layer, workers_, options_,
                    grid ? REPLY_FORM_GRID_SUM : REPLY_FORM_PER_EXPERT_F32, deadline, counters_);
  exchange_->Send(TermsOf(rows));
}

void ExpertLink::Finish(std::span<float> routed, std::vector<absl::Status>* row_status) {
  TANDEM_CHECK(exchange_.has_value());
  const bool grid = layer_->dtype == tensor::v1::WIRE_DTYPE_BF16;
  exchange_->Finish(
      [&](const Frame& frame, const rpc::Answer& answer) {
        return grid ? combine_->AddGridSums(frame, answer) : combine_->AddPerExpert(frame, answer);
      },
      [&](const Term& term, const absl::Status& why) { row_status_[term.row] = why; });
  if (grid) AskFlaggedRows(&row_status_);
  combine_->Finish(routed);
  for (int64_t r = 0; r < layer_->rows(); ++r) {
    if (!row_status_[r].ok()) std::fill_n(routed.data() + r * layer_->hidden, layer_->hidden, 0.0f);
  }
  *row_status = std::move(row_status_);
  exchange_.reset();
  sum_buffer_ = combine_->TakeBuffer();
  combine_.reset();
}

// A flagged row's whole sum is asked again per expert: which worker flagged it must not matter.
void ExpertLink::AskFlaggedRows(std::vector<absl::Status>* row_status) {
  std::vector<int64_t> rows;
  for (const int64_t row : combine_->FlaggedRows()) {
    if ((*row_status)[row].ok()) rows.push_back(row);
  }
  if (rows.empty()) return;
  Exchange again(*layer_, workers_, options_, REPLY_FORM_PER_EXPERT_F32, deadline_, counters_);
  again.Send(TermsOf(rows));
  again.Finish([&](const Frame& frame,
                   const rpc::Answer& answer) { return combine_->AddPerExpert(frame, answer); },
               [&](const Term& term, const absl::Status& why) { (*row_status)[term.row] = why; });
}

}  // namespace tandem::gpu_worker
