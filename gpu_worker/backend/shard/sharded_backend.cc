#include "gpu_worker/backend/shard/sharded_backend.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "lib/base/log.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker {
namespace {

// Rows of every rank. Shared with queued work, which may be done after its owner has let go.
class ShardedRows : public DeviceRows {
 public:
  using Parts = std::vector<std::unique_ptr<DeviceRows>>;
  explicit ShardedRows(std::shared_ptr<Parts> parts) : parts_(std::move(parts)) {}
  const std::shared_ptr<Parts>& parts() const { return parts_; }

 private:
  std::shared_ptr<Parts> parts_;
};

// A rank's part of sharded rows, kept alive by whoever holds this.
class Rows {
 public:
  explicit Rows(const DeviceRows& rows) : parts_(static_cast<const ShardedRows&>(rows).parts()) {}
  DeviceRows& of(int rank) const { return *(*parts_)[rank]; }

 private:
  std::shared_ptr<ShardedRows::Parts> parts_;
};

// Exit code of a program that failed while running (lib/base/program.h).
constexpr int kExitFailed = 1;

void EndProcess(const absl::Status& why) {
  base::LogError("ranks_failed", {{"why", why.ToString()}});
  std::_Exit(kExitFailed);
}

}  // namespace

ShardedBackend::ShardedBackend(const ModelConfig& config, const ShardedOptions& options)
    : hidden_(config.hidden_size),
      on_failure_(options.on_failure != nullptr ? options.on_failure : EndProcess),
      ranks_(options.ranks),
      rank_logits_(options.ranks),
      logits_(options.ranks, config.vocab_size,
              [this](const ShardedLogits::Question& question) { return AskLogits(question); }) {}

ShardedBackend::~ShardedBackend() = default;

absl::StatusOr<std::unique_ptr<ShardedBackend>> ShardedBackend::Make(
    const ModelConfig& config, const std::function<absl::StatusOr<RankParts>(int rank)>& make,
    const ShardedOptions& options) {
  std::unique_ptr<ShardedBackend> self(new ShardedBackend(config, options));
  ShardedBackend* const all = self.get();
  all->threads_ = std::make_unique<RankThreads>(
      options.ranks, options.load_max, [all](const absl::Status& why) { all->OnFailure(why); });
  all->threads_->Post([all, make](int rank) -> absl::Status {
    absl::StatusOr<RankParts> parts = make(rank);
    if (parts.ok()) all->ranks_[rank] = *std::move(parts);
    return parts.status();
  });
  TANDEM_RETURN_IF_ERROR(all->threads_->Join());
  all->threads_->SetWorkMax(options.call_max);
  all->info_ = all->ranks_[0].backend->info();
  all->serving_ = true;
  return self;
}

void ShardedBackend::OnFailure(const absl::Status& why) {
  if (!serving_) return;
  for (const RankParts& rank : ranks_) rank.collective->Abort(why);
  on_failure_(why);
}

void ShardedBackend::Post(std::function<void(Backend&, int rank)> call) {
  threads_->Post([this, call = std::move(call)](int rank) {
    call(*ranks_[rank].backend, rank);
    return ranks_[rank].collective->status();
  });
}

std::unique_ptr<DeviceRows> ShardedBackend::NewRows(RowShape shape, int64_t rows) {
  auto parts = std::make_shared<ShardedRows::Parts>(ranks_.size());
  Post([=](Backend& b, int rank) { (*parts)[rank] = b.NewRows(shape, rows); });
  // Rows of other calls are found through `parts`, which every rank has filled by then.
  return std::make_unique<ShardedRows>(parts);
}

void ShardedBackend::BeginStep(int slot, const StepBatch& step) {
  // The page tables of the slot's last step may go now, so nobody may be using them.
  if (!threads_->Join().ok()) return;
  slot_ = slot;
  rows_[slot] = step.rows();
  const auto copy = std::make_shared<const StepBatch>(step);
  Post([=](Backend& b, int) { b.BeginStep(slot, *copy); });
}

void ShardedBackend::SelectSlot(int slot) {
  slot_ = slot;
  Post([=](Backend& b, int) { b.SelectSlot(slot); });
}

std::span<std::byte> ShardedBackend::WireRows(int slot) {
  return ranks_[0].backend->WireRows(slot);
}

std::span<float> ShardedBackend::RoutedRows(int slot) {
  return ranks_[0].backend->RoutedRows(slot);
}

void ShardedBackend::Embed(DeviceRows& x) {
  Post([x = Rows(x)](Backend& b, int rank) { b.Embed(x.of(rank)); });
}

void ShardedBackend::Norm(int64_t layer, NormSite site, const DeviceRows& x, DeviceRows& out) {
  Post([=, x = Rows(x), out = Rows(out)](Backend& b, int rank) {
    b.Norm(layer, site, x.of(rank), out.of(rank));
  });
}

void ShardedBackend::ProjectAndCache(int64_t layer, const DeviceRows& h, DeviceRows& q) {
  Post([=, h = Rows(h), q = Rows(q)](Backend& b, int rank) {
    b.ProjectAndCache(layer, h.of(rank), q.of(rank));
  });
}

void ShardedBackend::Attend(int64_t layer, const DeviceRows& q, DeviceRows& attended) {
  Post([=, q = Rows(q), attended = Rows(attended)](Backend& b, int rank) {
    b.Attend(layer, q.of(rank), attended.of(rank));
  });
}

void ShardedBackend::AddAttentionOutput(int64_t layer, const DeviceRows& attended, DeviceRows& x) {
  Post([=, attended = Rows(attended), x = Rows(x)](Backend& b, int rank) {
    b.AddAttentionOutput(layer, attended.of(rank), x.of(rank));
  });
}

void ShardedBackend::AddDenseFfn(int64_t layer, const DeviceRows& h, DeviceRows& x) {
  Post([=, h = Rows(h), x = Rows(x)](Backend& b, int rank) {
    b.AddDenseFfn(layer, h.of(rank), x.of(rank));
  });
}

void ShardedBackend::StartRoute(int64_t layer, const DeviceRows& h,
                                const std::vector<uint32_t>* forced_ids) {
  Post([=, h = Rows(h)](Backend& b, int rank) { b.StartRoute(layer, h.of(rank), forced_ids); });
}

void ShardedBackend::StartReadRows(const DeviceRows& h) {
  Post([h = Rows(h)](Backend& b, int rank) { b.StartReadRows(h.of(rank)); });
}

void ShardedBackend::FinishRoute(RouterChoice* choice) {
  Post([this](Backend& b, int rank) {
    RouterChoice none;
    b.FinishRoute(rank == 0 ? &choice_ : &none);
  });
  if (threads_->Join().ok()) *choice = std::move(choice_);
}

void ShardedBackend::SharedFfn(int64_t layer, const DeviceRows& h, DeviceRows& out) {
  Post([=, h = Rows(h), out = Rows(out)](Backend& b, int rank) {
    b.SharedFfn(layer, h.of(rank), out.of(rank));
  });
}

void ShardedBackend::AddMoe(const DeviceRows& shared, DeviceRows& x) {
  // What the experts answered lies in rank 0's memory. It is not written again before the next
  // FinishRoute has waited for all ranks.
  const std::span<const float> routed = RoutedRows(slot_).first(rows_[slot_] * hidden_);
  Post([=, slot = slot_, shared = Rows(shared), x = Rows(x)](Backend& b, int rank) {
    if (rank > 0) std::copy(routed.begin(), routed.end(), b.RoutedRows(slot).begin());
    b.AddMoe(shared.of(rank), x.of(rank));
  });
}

RowLogits& ShardedBackend::ComputeLogits(std::span<const LogitRow> rows) {
  struct RankRow {
    Rows x;
    int64_t row;
  };
  std::vector<RankRow> wanted;
  for (const LogitRow& row : rows) wanted.push_back({Rows(*row.x), row.row});
  Post([this, wanted = std::move(wanted)](Backend& b, int rank) {
    std::vector<LogitRow> own;
    for (const RankRow& row : wanted) own.push_back({&row.x.of(rank), row.row});
    rank_logits_[rank] = &b.ComputeLogits(own);
  });
  return logits_;
}

bool ShardedBackend::AskLogits(const ShardedLogits::Question& question) {
  Post([this, question](Backend&, int rank) { question(*rank_logits_[rank], rank); });
  return threads_->Join().ok();
}

void ShardedBackend::NoteDeviceSpans(bool on) {
  Post([=](Backend& b, int) { b.NoteDeviceSpans(on); });
}

std::vector<DeviceSpan> ShardedBackend::TakeDeviceSpans() {
  Post([this](Backend& b, int rank) {
    std::vector<DeviceSpan> spans = b.TakeDeviceSpans();
    if (rank == 0) spans_ = std::move(spans);
  });
  if (!threads_->Join().ok()) return {};
  return std::exchange(spans_, {});
}

}  // namespace tandem::gpu_worker
