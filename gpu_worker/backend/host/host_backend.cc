#include "gpu_worker/backend/host/host_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/host/attention.h"
#include "gpu_worker/backend/host/bf16.h"
#include "gpu_worker/backend/host/host_logits.h"
#include "gpu_worker/backend/host/host_rows.h"
#include "gpu_worker/backend/host/host_weights.h"
#include "gpu_worker/backend/host/rope.h"
#include "gpu_worker/backend/host/router.h"
#include "gpu_worker/backend/shard/in_process_group.h"
#include "gpu_worker/backend/shard/part_rows.h"
#include "gpu_worker/backend/shard/sharded_backend.h"
#include "lib/base/check.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/activation.h"
#include "lib/kernels/linear.h"

namespace tandem::gpu_worker {
namespace {

// Rows of one ComputeLogits call: their f32 logits over the largest vocabulary (163,840) take 84
// MB. The weights of the head are read once a call.
constexpr int64_t kLogitRowsMax = 128;

// Rows per unit of pointwise work.
constexpr int64_t kRowGrain = 4;

// out = x / sqrt(mean(x^2) + eps) * weight, in f32, rounded once.
void RmsNorm(Precision precision, const float* x, std::span<const float> weight, double eps,
             float* out) {
  const int64_t n = static_cast<int64_t>(weight.size());
  const float mean = kernels::DotF32(x, x, n) / static_cast<float>(n);
  const float scale = 1.0f / std::sqrt(mean + static_cast<float>(eps));
  for (int64_t i = 0; i < n; ++i) {
    const float value = x[i] * scale * weight[i];
    out[i] = precision == Precision::kBf16 ? RoundBf16(value) : value;
  }
}

class HostBackend : public Backend {
 public:
  // collective: how this rank of the plan meets the others; null when it is the only one.
  HostBackend(const ModelWeights& weights, const HostBackendOptions& options, const ShardPlan& plan,
              int rank, Collective* collective)
      : config_(weights.config),
        options_(options),
        plan_(plan),
        rank_(rank),
        collective_(collective),
        attention_shape_(weights.config, plan.heads().of(rank).size()),
        rope_(weights.config),
        pool_(options.threads),
        cache_(options.precision, config_.num_hidden_layers, options.kv_pages,
               config_.kv_row_dim()) {
    info_ = {"host",           options.precision, options.attention,
             options.kv_pages, options.rows_max,  std::min(kLogitRowsMax, options.rows_max)};
    for (int slot = 0; slot < kStepSlots; ++slot) {
      const int64_t values = info_.slot_rows_max(slot) * config_.hidden_size;
      slots_[slot].wire.resize(values * ValueBytes());
      slots_[slot].routed.resize(values);
    }
  }

  absl::Status Load(const ModelWeights& weights) {
    TANDEM_ASSIGN_OR_RETURN(weights_, LoadHostWeights(weights, options_, pool_, {&plan_, rank_}));
    logits_.emplace(config_.vocab_size, weights_.vocab_split.of(rank_), pool_);
    const ShardRange& heads = plan_.heads().of(rank_);
    const int64_t token_bytes =
        KvCache::BytesPerToken(options_.precision, config_.num_hidden_layers, config_.kv_row_dim());
    base::LogInfo("rank_loaded", {{"rank", rank_},
                                  {"of", plan_.ranks()},
                                  {"first_head", heads.begin},
                                  {"heads", heads.size()},
                                  {"weight_bytes", weights_.size_bytes()},
                                  {"kv_bytes", options_.kv_pages * kPageTokens * token_bytes}});
    return absl::OkStatus();
  }

  const BackendInfo& info() const override { return info_; }

  std::unique_ptr<DeviceRows> NewRows(RowShape shape, int64_t rows) override {
    const int64_t heads = attention_shape_.heads;
    const int64_t cols = shape == RowShape::kHidden    ? config_.hidden_size
                         : shape == RowShape::kQueries ? heads * config_.qk_head_dim()
                                                       : heads * config_.v_head_dim;
    return std::make_unique<HostRows>(rows, cols);
  }

  void BeginStep(int slot, const StepBatch& step) override {
    TANDEM_CHECK_LE(step.rows(), info_.slot_rows_max(slot));
    TANDEM_CHECK_EQ(step.token_ids.size(), step.positions.size());
    SelectSlot(slot);
    slot_->step = step;
    slot_->rope_rows = rope_.ForPositions(step.positions);
  }

  void SelectSlot(int slot) override {
    TANDEM_CHECK(slot >= 0 && slot < kStepSlots);
    slot_ = &slots_[slot];
  }

  std::span<std::byte> WireRows(int slot) override { return slots_[slot].wire; }
  std::span<float> RoutedRows(int slot) override { return slots_[slot].routed; }

  void Embed(DeviceRows& x) override {
    const auto noted = Note("embed", -1);
    const int64_t rows = slot_->step.rows();
    const bool whole = collective_ == nullptr;
    const int64_t stride = whole ? config_.hidden_size : weights_.embedding_split.part_max();
    float* to = whole ? AsHost(x).row(0) : Part(rows * stride);
    for (int64_t r = 0; r < rows; ++r) {
      weights_.embedding.ReadRow(slot_->step.token_ids[r], to + r * stride);
    }
    if (!whole) Gather(weights_.embedding_split, to, AsHost(x).row(0));
  }

  void Norm(int64_t layer, NormSite site, const DeviceRows& x, DeviceRows& out) override {
    const auto noted = Note("norm", layer);
    const HostLayer& w = weights_.layers[layer];
    const auto& weight = site == NormSite::kBeforeAttention ? w.attention_norm : w.ffn_norm;
    ForRows(slot_->step.rows(), [&](int64_t r) {
      RmsNorm(options_.precision, AsHost(x).row(r), weight, config_.rms_norm_eps,
              AsHost(out).row(r));
    });
  }

  void ProjectAndCache(int64_t layer, const DeviceRows& h, DeviceRows& q) override {
    const auto noted = Note("project", layer);
    const HostLayer& w = weights_.layers[layer];
    ProjectQueries(w, AsHost(h), AsHost(q));
    const float* kv = Linear(w.kv_a, AsHost(h).row(0), config_.hidden_size, kv_);
    ForRows(slot_->step.rows(), [&](int64_t r) { RotateQueries(r, AsHost(q).row(r)); });
    std::vector<float> row(config_.kv_row_dim());
    for (const Segment& segment : slot_->step.segments) {
      for (int64_t i = 0; i < segment.rows; ++i) {
        const int64_t r = segment.row_begin + i, position = segment.start_position + i;
        FinishKey(w, kv + r * config_.kv_row_dim(), r, row.data());
        cache_.Write(layer, segment.pages[position / kPageTokens], position % kPageTokens,
                     row.data());
      }
    }
  }

  void Attend(int64_t layer, const DeviceRows& q, DeviceRows& attended) override {
    const auto noted = Note("attend", layer);
    AttentionArgs args{options_.precision,
                       &attention_shape_,
                       &weights_.layers[layer].heads,
                       &cache_,
                       layer,
                       AsHost(q).row(0),
                       AsHost(attended).row(0),
                       &pool_};
    std::vector<Segment> decode;
    for (const Segment& segment : slot_->step.segments) {
      if (options_.attention == AttentionKernel::kReference) {
        ReferenceAttention(args, segment);
      } else if (segment.kind == RowKind::kPrefill) {
        FlashPrefill(args, segment);
      } else {
        decode.push_back(segment);
      }
    }
    FlashDecode(args, decode);
  }

  void AddAttentionOutput(int64_t layer, const DeviceRows& attended, DeviceRows& x) override {
    const auto noted = Note("attention output", layer);
    const HostLayer& w = weights_.layers[layer];
    const float* heads = AsHost(attended).row(0);
    const int64_t cols = config_.num_attention_heads * config_.v_head_dim;
    if (collective_ != nullptr) {
      attended_.resize(std::max<size_t>(attended_.size(), slot_->step.rows() * cols));
      Gather(plan_.attended(), heads, attended_.data());
      heads = attended_.data();
    }
    AddRows(WholeLinear(w.o, w.o_split, heads, cols, hidden_), AsHost(x));
  }

  void AddDenseFfn(int64_t layer, const DeviceRows& h, DeviceRows& x) override {
    const auto noted = Note("dense ffn", layer);
    TANDEM_CHECK(weights_.layers[layer].dense.has_value());
    AddRows(Ffn(*weights_.layers[layer].dense, AsHost(h)), AsHost(x));
  }

  void StartRoute(int64_t layer, const DeviceRows& h,
                  const std::vector<uint32_t>* forced_ids) override {
    if (rank_ > 0) return;  // the first rank chooses for all
    const auto noted = Note("route", layer);
    const HostLayer& w = weights_.layers[layer];
    const int64_t k = config_.num_experts_per_tok, experts = config_.n_routed_experts;
    const float* logits = Linear(w.router, AsHost(h).row(0), config_.hidden_size, router_logits_);
    RouterChoice* choice = &slot_->choice;
    *choice = {k, std::vector<uint32_t>(slot_->step.rows() * k),
               std::vector<float>(slot_->step.rows() * k)};
    if (forced_ids != nullptr) TANDEM_CHECK_EQ(forced_ids->size(), choice->expert_ids.size());
    ForRows(slot_->step.rows(), [&](int64_t r) {
      std::span<const uint32_t> forced;
      if (forced_ids != nullptr) forced = std::span(*forced_ids).subspan(r * k, k);
      const ExpertChoice row =
          ChooseExperts(config_, {logits + r * experts, size_t(experts)}, w.router_bias, forced);
      std::copy_n(row.ids.begin(), k, choice->expert_ids.begin() + r * k);
      std::copy_n(row.weights.begin(), k, choice->weights.begin() + r * k);
    });
  }

  void StartReadRows(const DeviceRows& h) override {
    if (rank_ > 0) return;
    const auto noted = Note("read rows", -1);
    const int64_t count = slot_->step.rows() * config_.hidden_size;
    std::byte* wire = slot_->wire.data();
    if (options_.precision == Precision::kF32) {
      std::memcpy(wire, AsHost(h).row(0), count * sizeof(float));
    } else {
      PackBf16(AsHost(h).row(0), count, 1, count, reinterpret_cast<uint16_t*>(wire));
    }
  }

  void FinishRoute(RouterChoice* choice) override { *choice = std::move(slot_->choice); }

  void SharedFfn(int64_t layer, const DeviceRows& h, DeviceRows& out) override {
    const auto noted = Note("shared expert", layer);
    const std::optional<HostFfn>& shared = weights_.layers[layer].shared;
    const int64_t count = slot_->step.rows() * config_.hidden_size;
    if (shared.has_value()) {
      std::copy_n(Ffn(*shared, AsHost(h)), count, AsHost(out).row(0));
    } else {
      std::fill_n(AsHost(out).row(0), count, 0.0f);
    }
  }

  void AddMoe(const DeviceRows& shared, DeviceRows& x) override {
    const auto noted = Note("add experts", -1);
    const float* routed = slot_->routed.data();
    const float* from = AsHost(shared).row(0);
    float* to = AsHost(x).row(0);
    const int64_t count = slot_->step.rows() * config_.hidden_size;
    for (int64_t i = 0; i < count; ++i) to[i] = Rounded(to[i] + (routed[i] + from[i]));
  }

  RowLogits& ComputeLogits(std::span<const LogitRow> row_ids) override {
    const auto noted = Note("logits", -1);
    const int64_t rows = static_cast<int64_t>(row_ids.size()), hidden = config_.hidden_size;
    TANDEM_CHECK_LE(rows, info_.logit_rows_max);
    hidden_.resize(std::max<size_t>(hidden_.size(), rows * hidden));
    for (int64_t r = 0; r < rows; ++r) {
      RmsNorm(options_.precision, AsHost(*row_ids[r].x).row(row_ids[r].row), weights_.final_norm,
              config_.rms_norm_eps, hidden_.data() + r * hidden);
    }
    const std::span<float> logits = logits_->Reset(rows);
    weights_.head().ApplyUnrounded(pool_, scratch_, hidden_.data(), hidden, rows, logits.data(),
                                   weights_.vocab_split.of(rank_).size());
    return *logits_;
  }

  void NoteDeviceSpans(bool on) override { noting_ = on; }
  std::vector<DeviceSpan> TakeDeviceSpans() override { return std::exchange(spans_, {}); }

 private:
  // What a slot holds of its step.
  struct Slot {
    StepBatch step;
    RopeRows rope_rows;
    RouterChoice choice;
    std::vector<std::byte> wire;  // [rows, hidden]
    std::vector<float> routed;    // [rows, hidden]
  };

  // Notes a span from here to its end.
  class Noted {
   public:
    Noted(HostBackend* backend, const char* name, int64_t layer) : backend_(backend) {
      if (backend_ != nullptr) span_ = {name, backend_->slot_index(), layer, Now(), 0};
    }
    ~Noted() {
      if (backend_ == nullptr) return;
      span_.end_ns = Now();
      backend_->spans_.push_back(span_);
    }
    Noted(const Noted&) = delete;
    Noted& operator=(const Noted&) = delete;

   private:
    static int64_t Now() { return absl::ToInt64Nanoseconds(base::RealClock().Monotonic()); }
    HostBackend* backend_;  // null: nothing is noted
    DeviceSpan span_;
  };
  Noted Note(const char* name, int64_t layer) {
    return Noted(noting_ ? this : nullptr, name, layer);
  }
  int slot_index() const { return static_cast<int>(slot_ - slots_); }

  int64_t ValueBytes() const {
    return options_.precision == Precision::kF32 ? sizeof(float) : sizeof(uint16_t);
  }

  float Rounded(float value) const {
    return options_.precision == Precision::kBf16 ? RoundBf16(value) : value;
  }

  void ForRows(int64_t rows, const std::function<void(int64_t)>& body) {
    pool_.ParallelFor(rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) body(r);
    });
  }

  // Applies `layer` to all rows of the step; the result lies in `out` until its next use.
  const float* Linear(const HostLinear& layer, const float* x, int64_t x_stride,
                      std::vector<float>& out) {
    out.resize(std::max<size_t>(out.size(), slot_->step.rows() * layer.outputs()));
    layer.Apply(pool_, scratch_, x, x_stride, slot_->step.rows(), out.data(), layer.outputs());
    return out.data();
  }

  // The same for a layer whose outputs ranks share: whole rows [rows, split.total()].
  const float* WholeLinear(const HostLinear& layer, const Split& split, const float* x,
                           int64_t x_stride, std::vector<float>& out) {
    if (collective_ == nullptr) return Linear(layer, x, x_stride, out);
    const int64_t rows = slot_->step.rows(), stride = split.part_max();
    float* part = Part(rows * stride);
    layer.Apply(pool_, scratch_, x, x_stride, rows, part, stride);
    out.resize(std::max<size_t>(out.size(), rows * split.total()));
    Gather(split, part, out.data());
    return out.data();
  }

  // Room for what this rank brings to a gather, until the next one.
  float* Part(int64_t values) {
    part_.resize(std::max<size_t>(part_.size(), values));
    return part_.data();
  }

  // whole [rows, split.total()] from every rank's part [rows, split.part_max()]. After an error,
  // which is the collective's and final, `whole` is anything.
  void Gather(const Split& split, const float* part, float* whole) {
    const int64_t rows = slot_->step.rows(), values = rows * split.part_max();
    gathered_.resize(std::max<size_t>(gathered_.size(), values * split.ranks()));
    const absl::Status status =
        collective_->AllGather(part, gathered_.data(), values * sizeof(float), /*stream=*/nullptr);
    if (status.ok()) MergeParts(split, rows, gathered_.data(), split.total(), whole);
  }

  void ProjectQueries(const HostLayer& w, const HostRows& h, HostRows& q) {
    if (!w.q.empty()) {
      w.q.Apply(pool_, scratch_, h.row(0), h.cols(), slot_->step.rows(), q.row(0), q.cols());
      return;
    }
    const int64_t lora = config_.q_lora_rank;
    Linear(w.q_a, h.row(0), h.cols(), q_lora_);
    ForRows(slot_->step.rows(), [&](int64_t r) {
      float* row = q_lora_.data() + r * lora;
      RmsNorm(options_.precision, row, w.q_a_norm, config_.rms_norm_eps, row);
    });
    w.q_b.Apply(pool_, scratch_, q_lora_.data(), lora, slot_->step.rows(), q.row(0), q.cols());
  }

  // Rotates the rope part of each head's query.
  void RotateQueries(int64_t r, float* q) const {
    for (int64_t head = 0; head < attention_shape_.heads; ++head) {
      Rotate(r, q + head * config_.qk_head_dim() + config_.qk_nope_head_dim);
    }
  }

  // What is cached of one token: the normed latent and the rotated key.
  void FinishKey(const HostLayer& w, const float* kv, int64_t r, float* out) const {
    RmsNorm(options_.precision, kv, w.kv_a_norm, config_.rms_norm_eps, out);
    std::copy_n(kv + config_.kv_lora_rank, config_.qk_rope_head_dim, out + config_.kv_lora_rank);
    Rotate(r, out + config_.kv_lora_rank);
  }

  void Rotate(int64_t r, float* v) const {
    rope_.Apply(slot_->rope_rows, r, v);
    for (int64_t i = 0; i < config_.qk_rope_head_dim; ++i) v[i] = Rounded(v[i]);
  }

  // down(silu(gate h) * up h); the result lies in hidden_.
  const float* Ffn(const HostFfn& ffn, const HostRows& h) {
    const int64_t rows = slot_->step.rows(), stride = ffn.inter.part_max();
    gate_.resize(std::max<size_t>(gate_.size(), rows * stride));
    up_.resize(std::max<size_t>(up_.size(), rows * stride));
    ffn.gate.Apply(pool_, scratch_, h.row(0), h.cols(), rows, gate_.data(), stride);
    ffn.up.Apply(pool_, scratch_, h.row(0), h.cols(), rows, up_.data(), stride);
    ForRows(rows, [&](int64_t r) {
      float* gate = gate_.data() + r * stride;
      kernels::SwiGlu(gate, up_.data() + r * stride, gate, ffn.gate.outputs());
      for (int64_t i = 0; i < ffn.gate.outputs(); ++i) gate[i] = Rounded(gate[i]);
    });
    const float* whole = gate_.data();
    if (collective_ != nullptr) {
      inter_.resize(std::max<size_t>(inter_.size(), rows * ffn.inter.total()));
      Gather(ffn.inter, whole, inter_.data());
      whole = inter_.data();
    }
    return WholeLinear(ffn.down, ffn.hidden, whole, ffn.inter.total(), hidden_);
  }

  void AddRows(const float* delta, HostRows& x) const {
    float* to = x.row(0);
    const int64_t count = slot_->step.rows() * config_.hidden_size;
    for (int64_t i = 0; i < count; ++i) to[i] = Rounded(to[i] + delta[i]);
  }

  const ModelConfig config_;
  const HostBackendOptions options_;
  const ShardPlan plan_;
  const int rank_;
  Collective* const collective_;  // null: one rank
  const AttentionShape attention_shape_;
  const Rope rope_;
  base::ThreadPool pool_;
  KvCache cache_;
  HostWeights weights_;
  std::optional<HostLogits> logits_;  // from Load on
  BackendInfo info_;

  Slot slots_[kStepSlots];
  Slot* slot_ = slots_;  // selected
  bool noting_ = false;
  std::vector<DeviceSpan> spans_;
  LinearScratch scratch_;
  // Results of the last use.
  std::vector<float> hidden_, kv_, q_lora_, gate_, up_, router_logits_;
  // Of several ranks: this one's part, all parts, and whole rows made of them.
  std::vector<float> part_, gathered_, attended_, inter_;
};

absl::StatusOr<std::unique_ptr<Backend>> MakeRanks(const ModelWeights& weights,
                                                   HostBackendOptions options,
                                                   const ShardPlan& plan) {
  options.threads = std::max(1, options.threads / options.ranks);
  const auto group = InProcessGroup::Make(options.ranks, options.rank_wait_max);
  ShardedOptions sharded;
  sharded.ranks = options.ranks;
  // A rank that waits for others is back after rank_wait_max, and a call has a few gathers: who
  // takes longer than that twice is stuck alone.
  sharded.call_max = 2 * options.rank_wait_max;
  return ShardedBackend::Make(
      weights.config,
      [&](int rank) -> absl::StatusOr<RankParts> {
        RankParts parts;
        parts.collective = group->Rank(rank);
        TANDEM_ASSIGN_OR_RETURN(parts.backend,
                                MakeHostRank(weights, options, plan, rank, parts.collective.get()));
        return parts;
      },
      sharded);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeHostRank(const ModelWeights& weights,
                                                      const HostBackendOptions& options,
                                                      const ShardPlan& plan, int rank,
                                                      Collective* collective) {
  auto backend = std::make_unique<HostBackend>(weights, options, plan, rank, collective);
  TANDEM_RETURN_IF_ERROR(backend->Load(weights));
  return backend;
}

absl::StatusOr<std::unique_ptr<Backend>> MakeHostBackend(const ModelWeights& weights,
                                                         const HostBackendOptions& options) {
  if (options.kv_pages < 1 || options.rows_max < 1 || options.threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv pages, rows and threads must be positive, found ", options.kv_pages, ", ",
                     options.rows_max, ", ", options.threads));
  }
  std::vector<LinearFormat> formats = {options.linear};
  for (const auto& [module, format] : options.linear_of) formats.push_back(format);
  for (const LinearFormat& format : formats) {
    if (format.kernel == LinearKernel::kNative || options.precision == Precision::kBf16) continue;
    return absl::InvalidArgumentError(absl::StrCat("linear layers in format ", NameOf(format),
                                                   " need precision bf16, found f32"));
  }
  TANDEM_ASSIGN_OR_RETURN(const ShardPlan plan, ShardPlan::Make(weights.config, options.ranks));
  if (options.ranks > 1) return MakeRanks(weights, options, plan);
  return MakeHostRank(weights, options, plan, 0, nullptr);
}

}  // namespace tandem::gpu_worker
