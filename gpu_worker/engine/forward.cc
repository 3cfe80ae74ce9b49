#include "gpu_worker/engine/forward.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/check.h"
#include "lib/base/clock.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker {
namespace {

// Adds the time of its life to a sum.
class Timed {
 public:
  explicit Timed(absl::Duration& sum) : sum_(sum), begin_(base::RealClock().Monotonic()) {}
  ~Timed() { sum_ += base::RealClock().Monotonic() - begin_; }
  Timed(const Timed&) = delete;

 private:
  absl::Duration& sum_;
  const absl::Duration begin_;
};

// Values of `from` [rows, k] into the rows `rows` of `to`.
template <typename T>
void Scatter(const std::vector<T>& from, std::span<const int64_t> rows, int64_t k,
             std::vector<T>& to) {
  for (size_t r = 0; r < rows.size(); ++r) {
    std::copy_n(from.begin() + static_cast<int64_t>(r) * k, k, to.begin() + rows[r] * k);
  }
}

}  // namespace

Forward::Forward(const ModelConfig& config, Backend& backend, ExpertLink* experts,
                 const ForwardOptions& options)
    : config_(config),
      backend_(backend),
      experts_(experts),
      options_(options),
      h_(backend.NewRows(RowShape::kHidden, backend.info().rows_max)),
      q_(backend.NewRows(RowShape::kQueries, backend.info().rows_max)),
      attended_(backend.NewRows(RowShape::kAttended, backend.info().rows_max)) {
  for (int slot = 0; slot < kStepSlots; ++slot) {
    half_[slot].slot = slot;
    const int64_t rows = backend.info().slot_rows_max(slot);
    if (slot > 0 && (options.half_rows_min == 0 || rows == 0)) continue;
    half_[slot].x = backend.NewRows(RowShape::kHidden, rows);
    half_[slot].shared = backend.NewRows(RowShape::kHidden, rows);
  }
}

absl::Status Forward::Run(const StepBatch& step, std::span<const int64_t> owners,
                          absl::Time deadline, std::vector<absl::Status>* row_status,
                          const RouterProbe& probe) {
  times_ = {};
  if (probe.choices != nullptr) probe.choices->assign(config_.num_hidden_layers, {});
  Begin(step, owners);
  absl::Status status;
  for (int64_t layer = 0; layer < config_.num_hidden_layers && status.ok(); ++layer) {
    for (Half& half : InUse()) {
      status = RunLayer(layer, half, deadline, probe);
      if (!status.ok()) break;
    }
  }
  // Also after a failure: rows that are away point into this step's memory.
  for (Half& half : InUse()) FinishExperts(half, probe);
  TANDEM_RETURN_IF_ERROR(status);
  row_status->assign(step.rows(), absl::OkStatus());
  for (const Half& half : InUse()) Scatter(half.row_status, half.batch.rows, 1, *row_status);
  return absl::OkStatus();
}

void Forward::Begin(const StepBatch& step, std::span<const int64_t> owners) {
  std::vector<HalfBatch> batches = SplitStep(config_, step, owners, options_.half_rows_min);
  halves_ = static_cast<int>(batches.size());
  logit_rows_.resize(step.rows());
  for (Half& half : InUse()) {
    half.batch = std::move(batches[half.slot]);
    half.owners.clear();
    for (int64_t r = 0; r < half.rows(); ++r) {
      half.owners.push_back(owners[half.batch.rows[r]]);
      logit_rows_[half.batch.rows[r]] = {half.x.get(), r};
    }
    half.row_status.assign(half.rows(), absl::OkStatus());
    const TraceScope traced(options_.trace, "embed", half.slot);
    backend_.BeginStep(half.slot, half.batch.step);
    backend_.Embed(*half.x);
  }
}

absl::Status Forward::RunLayer(int64_t layer, Half& half, absl::Time deadline,
                               const RouterProbe& probe) {
  FinishExperts(half, probe);
  if (absl::Now() >= deadline) {
    return absl::DeadlineExceededError(absl::StrCat("the step's deadline passed before layer ",
                                                    layer, " of ", config_.num_hidden_layers));
  }
  backend_.SelectSlot(half.slot);
  Attention(layer, half);
  if (config_.IsMoeLayer(layer)) {
    StartExperts(layer, half, deadline, probe);
  } else {
    const TraceScope traced(options_.trace, "dense ffn", half.slot, layer);
    backend_.AddDenseFfn(layer, *h_, *half.x);
  }
  return absl::OkStatus();
}

// Leaves what the layer's FFN reads in h_.
void Forward::Attention(int64_t layer, Half& half) {
  const TraceScope traced(options_.trace, "attention", half.slot, layer);
  backend_.Norm(layer, NormSite::kBeforeAttention, *half.x, *h_);
  backend_.ProjectAndCache(layer, *h_, *q_);
  backend_.Attend(layer, *q_, *attended_);
  backend_.AddAttentionOutput(layer, *attended_, *half.x);
  backend_.Norm(layer, NormSite::kBeforeFfn, *half.x, *h_);
}

void Forward::StartExperts(int64_t layer, Half& half, absl::Time deadline,
                           const RouterProbe& probe) {
  TANDEM_CHECK(experts_ != nullptr);
  Route(layer, half, probe);
  // A device that works by itself gets its work before anybody waits for it; one that needs this
  // thread gets it when the rows are on their way.
  const bool asynchronous = backend_.info().asynchronous;
  if (asynchronous) SharedExpert(layer, half);
  {
    const TraceScope traced(options_.trace, "read rows", half.slot, layer);
    backend_.FinishRoute(&half.choice);
  }
  Send(layer, half, deadline);
  if (!asynchronous) SharedExpert(layer, half);
}

void Forward::Route(int64_t layer, Half& half, const RouterProbe& probe) {
  half.forced_ids.clear();
  if (probe.forced_ids != nullptr && !(*probe.forced_ids)[layer].empty()) {
    const int64_t k = config_.num_experts_per_tok;
    for (const int64_t r : half.batch.rows) {
      const auto row = (*probe.forced_ids)[layer].begin() + r * k;
      half.forced_ids.insert(half.forced_ids.end(), row, row + k);
    }
  }
  const TraceScope traced(options_.trace, "route", half.slot, layer);
  backend_.StartRoute(layer, *h_, half.forced_ids.empty() ? nullptr : &half.forced_ids);
  const Timed timed(times_.dispatch);
  backend_.StartReadRows(*h_);
}

void Forward::SharedExpert(int64_t layer, Half& half) {
  const TraceScope traced(options_.trace, "shared expert", half.slot, layer);
  const Timed timed(times_.shared);
  backend_.SharedFfn(layer, *h_, *half.shared);
}

void Forward::Send(int64_t layer, Half& half, absl::Time deadline) {
  const TraceScope traced(options_.trace, "dispatch", half.slot, layer);
  const Timed timed(times_.dispatch);
  const bool bf16 = backend_.info().precision == Precision::kBf16;
  half.layer = {.layer = static_cast<uint32_t>(layer),
                .hidden = config_.hidden_size,
                .choice = &half.choice,
                .dtype = bf16 ? tensor::v1::WIRE_DTYPE_BF16 : tensor::v1::WIRE_DTYPE_F32,
                .x = {},
                .grid_exponents = {},
                .activation_form =
                    bf16 ? experts::v1::ACTIVATION_FORM_NATIVE : experts::v1::ACTIVATION_FORM_F32};
  half.layer.x = backend_.WireRows(half.slot).first(half.rows() * half.layer.row_bytes());
  std::vector<bool> alive(half.rows());
  for (int64_t r = 0; r < half.rows(); ++r) alive[r] = half.row_status[r].ok();
  experts_->Start(half.slot, half.layer, alive, deadline);
  half.away = true;
}

// Adds what the experts say to the rows, if they are away.
void Forward::FinishExperts(Half& half, const RouterProbe& probe) {
  if (!half.away) return;
  const int64_t layer = half.layer.layer;
  std::vector<absl::Status> failures;
  {
    const Timed timed(times_.expert_wait);
    {
      const TraceScope traced(options_.trace, "expert wait", half.slot, layer);
      experts_->Wait(half.slot);
    }
    const TraceScope traced(options_.trace, "combine", half.slot, layer);
    experts_->Finish(half.slot,
                     backend_.RoutedRows(half.slot).first(half.rows() * config_.hidden_size),
                     &failures);
  }
  half.away = false;
  backend_.SelectSlot(half.slot);
  {
    const TraceScope traced(options_.trace, "add experts", half.slot, layer);
    backend_.AddMoe(*half.shared, *half.x);
  }
  for (int64_t r = 0; r < half.rows(); ++r) {
    if (half.row_status[r].ok()) half.row_status[r] = failures[r];
  }
  Spread(half);
  if (probe.choices == nullptr) return;
  RouterChoice& choice = (*probe.choices)[layer];
  const int64_t k = half.choice.experts_per_row;
  choice.experts_per_row = k;
  choice.expert_ids.resize(logit_rows_.size() * k);
  choice.weights.resize(logit_rows_.size() * k);
  Scatter(half.choice.expert_ids, half.batch.rows, k, choice.expert_ids);
  Scatter(half.choice.weights, half.batch.rows, k, choice.weights);
}

RowLogits& Forward::ComputeLogits(std::span<const int64_t> row_ids) {
  const TraceScope traced(options_.trace, "logits");
  std::vector<LogitRow> rows;
  for (const int64_t row : row_ids) rows.push_back(logit_rows_[row]);
  return backend_.ComputeLogits(rows);
}

// A sequence with a failed row has incomplete keys from here on: its other rows are lost as well.
void Forward::Spread(Half& half) {
  absl::flat_hash_map<int64_t, absl::Status> failed;
  for (size_t r = 0; r < half.owners.size(); ++r) {
    if (!half.row_status[r].ok()) failed.try_emplace(half.owners[r], half.row_status[r]);
  }
  if (failed.empty()) return;
  for (size_t r = 0; r < half.owners.size(); ++r) {
    const auto it = failed.find(half.owners[r]);
    if (it != failed.end()) half.row_status[r] = it->second;
  }
}

}  // namespace tandem::gpu_worker
