#include "gpu_worker/engine/forward.h"

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/check.h"
#include "lib/base/clock.h"

namespace tandem::gpu_worker {
namespace {

absl::Duration Elapsed(absl::Duration& since) {
  const absl::Duration now = base::RealClock().Monotonic();
  const absl::Duration elapsed = now - since;
  since = now;
  return elapsed;
}

}  // namespace

Forward::Forward(const ModelConfig& config, Backend& backend, ExpertLink* experts)
    : config_(config),
      backend_(backend),
      experts_(experts),
      x_(backend.NewRows(RowShape::kHidden, backend.info().rows_max)),
      h_(backend.NewRows(RowShape::kHidden, backend.info().rows_max)),
      q_(backend.NewRows(RowShape::kQueries, backend.info().rows_max)),
      attended_(backend.NewRows(RowShape::kAttended, backend.info().rows_max)),
      shared_(backend.NewRows(RowShape::kHidden, backend.info().rows_max)) {}

absl::Status Forward::Run(const StepBatch& step, std::span<const int64_t> owners,
                          absl::Time deadline, std::vector<absl::Status>* row_status,
                          const RouterProbe& probe) {
  TANDEM_CHECK_EQ(static_cast<int64_t>(owners.size()), step.rows());
  times_ = {};
  row_status_.assign(step.rows(), absl::OkStatus());
  if (probe.choices != nullptr) probe.choices->assign(config_.num_hidden_layers, {});
  backend_.BeginStep(0, step);
  backend_.Embed(*x_);
  for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat("the step's deadline passed before layer ",
                                                      layer, " of ", config_.num_hidden_layers));
    }
    Attention(layer);
    backend_.Norm(layer, NormSite::kBeforeFfn, *x_, *h_);
    if (config_.IsMoeLayer(layer)) {
      Moe(layer, step, deadline, probe);
      Spread(owners);
    } else {
      backend_.AddDenseFfn(layer, *h_, *x_);
    }
  }
  *row_status = row_status_;
  return absl::OkStatus();
}

void Forward::Attention(int64_t layer) {
  backend_.Norm(layer, NormSite::kBeforeAttention, *x_, *h_);
  backend_.ProjectAndCache(layer, *h_, *q_);
  backend_.Attend(layer, *q_, *attended_);
  backend_.AddAttentionOutput(layer, *attended_, *x_);
}

void Forward::Moe(int64_t layer, const StepBatch& step, absl::Time deadline,
                  const RouterProbe& probe) {
  TANDEM_CHECK(experts_ != nullptr);
  absl::Duration since = base::RealClock().Monotonic();
  const bool forced = probe.forced_ids != nullptr && !(*probe.forced_ids)[layer].empty();
  backend_.StartRoute(layer, *h_, forced ? &(*probe.forced_ids)[layer] : nullptr);
  Elapsed(since);

  backend_.StartReadRows(*h_);
  RouterChoice choice;
  backend_.FinishRoute(&choice);
  const bool bf16 = backend_.info().precision == Precision::kBf16;
  const int64_t wire_bytes = step.rows() * config_.hidden_size * (bf16 ? 2 : 4);
  RoutedLayer routed_layer{.layer = static_cast<uint32_t>(layer),
                           .hidden = config_.hidden_size,
                           .choice = &choice,
                           .dtype = bf16 ? tensor::v1::WIRE_DTYPE_BF16 : tensor::v1::WIRE_DTYPE_F32,
                           .x = backend_.WireRows(0).first(wire_bytes),
                           .grid_exponents = {},
                           .activation_form = bf16 ? experts::v1::ACTIVATION_FORM_NATIVE
                                                   : experts::v1::ACTIVATION_FORM_F32};
  std::vector<bool> alive(step.rows());
  for (int64_t r = 0; r < step.rows(); ++r) alive[r] = row_status_[r].ok();
  experts_->Start(routed_layer, alive, deadline);
  times_.dispatch += Elapsed(since);

  backend_.SharedFfn(layer, *h_, *shared_);
  times_.shared += Elapsed(since);

  std::vector<absl::Status> failures;
  experts_->Finish(backend_.RoutedRows(0).first(step.rows() * config_.hidden_size), &failures);
  times_.expert_wait += Elapsed(since);

  backend_.AddMoe(*shared_, *x_);
  for (int64_t r = 0; r < step.rows(); ++r) {
    if (row_status_[r].ok()) row_status_[r] = failures[r];
  }
  if (probe.choices != nullptr) (*probe.choices)[layer] = std::move(choice);
}

void Forward::Logits(std::span<const int64_t> row_ids, std::vector<float>* logits) {
  std::vector<LogitRow> rows;
  for (const int64_t row : row_ids) rows.push_back({x_.get(), row});
  backend_.Logits(rows, logits);
}

// A sequence with a failed row has incomplete keys from here on: its other rows are lost as well.
void Forward::Spread(std::span<const int64_t> owners) {
  absl::flat_hash_map<int64_t, absl::Status> failed;
  for (size_t r = 0; r < owners.size(); ++r) {
    if (!row_status_[r].ok()) failed.try_emplace(owners[r], row_status_[r]);
  }
  if (failed.empty()) return;
  for (size_t r = 0; r < owners.size(); ++r) {
    const auto it = failed.find(owners[r]);
    if (it != failed.end()) row_status_[r] = it->second;
  }
}

}  // namespace tandem::gpu_worker
