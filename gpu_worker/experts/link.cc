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

std::vector<Term> TermsOf(const RoutedLayer& layer, std::span<const int64_t> rows) {
  std::vector<Term> terms;
  for (const int64_t row : rows) {
    for (int64_t rank = 0; rank < layer.choice->experts_per_row; ++rank) {
      terms.push_back({row, rank});
    }
  }
  return terms;
}

// How long the link sleeps without looking at the clock: a newer table is noticed so soon.
constexpr absl::Duration kLookAgain = absl::Milliseconds(100);

}  // namespace

// Rows that may be sent, their grid exponents and, of the others, why not.
std::vector<int64_t> ExpertLink::SendableRows(Pending& pending,
                                              const std::vector<bool>& alive) const {
  RoutedLayer& layer = *pending.layer;
  pending.row_status.assign(layer.rows(), absl::OkStatus());
  layer.grid_exponents.assign(pending.grid() ? layer.rows() : 0, 0);
  std::vector<int64_t> rows;
  for (int64_t r = 0; r < layer.rows(); ++r) {
    if (!alive[r]) continue;
    const float max = RowAbsMax(layer, r);
    if (!std::isfinite(max) || !WeightsAreFinite(layer, r)) {
      pending.row_status[r] = absl::DataLossError(
          absl::StrCat("layer ", layer.layer, ": the hidden state is not finite"));
      continue;
    }
    if (pending.grid()) {
      layer.grid_exponents[r] = kernels::GridExponent(
          max, kLayerConstant, static_cast<int>(layer.choice->experts_per_row));
    }
    rows.push_back(r);
  }
  return rows;
}

void ExpertLink::Start(int slot, RoutedLayer& layer, const std::vector<bool>& alive,
                       absl::Time deadline) {
  Pending& pending = pending_[slot];
  TANDEM_CHECK(!pending.exchange.has_value());
  pending.layer = &layer;
  pending.deadline = deadline;
  const std::vector<int64_t> rows = SendableRows(pending, alive);
  if (counter_ != nullptr) {
    const int64_t per_row = layer.choice->experts_per_row;
    const std::span<const uint32_t> ids = layer.choice->expert_ids;
    for (const int64_t r : rows) counter_->Add(layer.layer, ids.subspan(r * per_row, per_row));
  }
  pending.combine.emplace(layer, std::move(pending.sum_buffer));
  pending.exchange.emplace(
      shared_, RequestOf(slot, pending.grid() ? REPLY_FORM_GRID_SUM : REPLY_FORM_PER_EXPERT_F32));
  pending.exchange->Send(TermsOf(layer, rows));
}

Exchange::Request ExpertLink::RequestOf(int slot, experts::v1::ReplyForm form) {
  Pending& pending = pending_[slot];
  return {
      .layer = pending.layer,
      .slot = slot,
      .form = form,
      .deadline = pending.deadline,
      .on_sums =
          [&pending, form](const Frame& frame, const rpc::Answer& answer) {
            return form == REPLY_FORM_GRID_SUM ? pending.combine->AddGridSums(frame, answer)
                                               : pending.combine->AddPerExpert(frame, answer);
          },
      .on_given_up = [&pending](const Term& term,
                                const absl::Status& why) { pending.row_status[term.row] = why; }};
}

void ExpertLink::Wait(int slot) {
  Pending& pending = pending_[slot];
  TANDEM_CHECK(pending.exchange.has_value());
  Drive(*pending.exchange);
  if (pending.grid() && !pending.again.has_value()) AskFlaggedRows(slot);
  // Whoever says that it polls must, and nobody does before something is sent again.
  const std::vector<Exchange*> live = Live();
  if (std::none_of(live.begin(), live.end(), [](const Exchange* e) { return e->in_flight(); })) {
    shared_.mailbox.StopPolling();
  }
}

void ExpertLink::Finish(int slot, std::span<float> routed, std::vector<absl::Status>* row_status) {
  Wait(slot);
  Pending& pending = pending_[slot];
  pending.combine->Finish(routed);
  const int64_t hidden = pending.layer->hidden;
  for (int64_t r = 0; r < pending.layer->rows(); ++r) {
    if (!pending.row_status[r].ok()) std::fill_n(routed.data() + r * hidden, hidden, 0.0f);
  }
  *row_status = std::move(pending.row_status);
  pending.exchange.reset();
  pending.again.reset();
  pending.sum_buffer = pending.combine->TakeBuffer();
  pending.combine.reset();
}

// A flagged row's whole sum is asked again per expert: which worker flagged it must not matter.
void ExpertLink::AskFlaggedRows(int slot) {
  Pending& pending = pending_[slot];
  std::vector<int64_t> rows;
  for (const int64_t row : pending.combine->FlaggedRows()) {
    if (pending.row_status[row].ok()) rows.push_back(row);
  }
  if (rows.empty()) return;
  pending.again.emplace(shared_, RequestOf(slot, REPLY_FORM_PER_EXPERT_F32));
  pending.again->Send(TermsOf(*pending.layer, rows));
  Drive(*pending.again);
}

std::vector<Exchange*> ExpertLink::Live() {
  std::vector<Exchange*> live;
  for (Pending& pending : pending_) {
    if (pending.exchange.has_value()) live.push_back(&*pending.exchange);
    if (pending.again.has_value()) live.push_back(&*pending.again);
  }
  return live;
}

// Both slots are driven while one is waited for: the other's answers would otherwise hold the
// transports' memory, and its failures would be noticed late.
void ExpertLink::Drive(const Exchange& until) {
  const std::vector<Exchange*> live = Live();
  for (;;) {
    for (Exchange* exchange : live) exchange->Advance();
    if (until.done()) return;
    const absl::Time now = absl::Now();
    absl::Time wake = now + kLookAgain;
    bool in_flight = false;
    for (const Exchange* exchange : live) {
      if (!exchange->done()) wake = std::min(wake, exchange->wake_at());
      in_flight |= exchange->in_flight();
    }
    if (!in_flight) {
      shared_.workers.AskForNewerTable(wake - now);
      continue;
    }
    for (Arrival& arrival : shared_.mailbox.Wait(wake - now)) {
      for (Exchange* exchange : live) {
        // If it is nobody's, the frame was given up before and is answered elsewhere.
        if (exchange->Take(arrival)) break;
      }
    }
  }
}

}  // namespace tandem::gpu_worker
