#include "gpu_worker/backend/host/host_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/host/attention.h"
#include "gpu_worker/backend/host/bf16.h"
#include "gpu_worker/backend/host/host_rows.h"
#include "gpu_worker/backend/host/host_weights.h"
#include "gpu_worker/backend/host/rope.h"
#include "gpu_worker/backend/host/router.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/activation.h"
#include "lib/kernels/linear.h"

namespace tandem::gpu_worker {
namespace {

// Rows of one Logits call: their f32 logits over the largest vocabulary (163,840) take 21 MB.
constexpr int64_t kLogitRowsMax = 32;

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
  HostBackend(const ModelWeights& weights, const HostBackendOptions& options)
      : config_(weights.config),
        options_(options),
        attention_shape_(weights.config),
        rope_(weights.config),
        pool_(options.threads),
        cache_(options.precision, config_.num_hidden_layers, options.kv_pages,
               config_.kv_row_dim()) {
    info_ = {"host",           options.precision, options.attention,
             options.kv_pages, options.rows_max,  std::min(kLogitRowsMax, options.rows_max)};
  }

  absl::Status Load(const ModelWeights& weights) {
    TANDEM_ASSIGN_OR_RETURN(weights_, LoadHostWeights(weights, options_, pool_));
    return absl::OkStatus();
  }

  const BackendInfo& info() const override { return info_; }

  std::unique_ptr<DeviceRows> NewRows(RowShape shape) override {
    const int64_t heads = config_.num_attention_heads;
    const int64_t cols = shape == RowShape::kHidden    ? config_.hidden_size
                         : shape == RowShape::kQueries ? heads * config_.qk_head_dim()
                                                       : heads * config_.v_head_dim;
    return std::make_unique<HostRows>(options_.rows_max, cols);
  }

  void BeginStep(const StepBatch& step) override {
    TANDEM_CHECK_LE(step.rows(), options_.rows_max);
    TANDEM_CHECK_EQ(step.token_ids.size(), step.positions.size());
    step_ = step;
    rope_rows_ = rope_.ForPositions(step.positions);
  }

  void Embed(DeviceRows& x) override {
    for (int64_t r = 0; r < step_.rows(); ++r) {
      weights_.embedding.ReadRow(step_.token_ids[r], AsHost(x).row(r));
    }
  }

  void Norm(int64_t layer, NormSite site, const DeviceRows& x, DeviceRows& out) override {
    const HostLayer& w = weights_.layers[layer];
    const auto& weight = site == NormSite::kBeforeAttention ? w.attention_norm : w.ffn_norm;
    ForRows(step_.rows(), [&](int64_t r) {
      RmsNorm(options_.precision, AsHost(x).row(r), weight, config_.rms_norm_eps,
              AsHost(out).row(r));
    });
  }

  void ProjectAndCache(int64_t layer, const DeviceRows& h, DeviceRows& q) override {
    const HostLayer& w = weights_.layers[layer];
    ProjectQueries(w, AsHost(h), AsHost(q));
    const float* kv = Linear(w.kv_a, AsHost(h).row(0), config_.hidden_size, kv_);
    ForRows(step_.rows(), [&](int64_t r) { RotateQueries(r, AsHost(q).row(r)); });
    std::vector<float> row(config_.kv_row_dim());
    for (const Segment& segment : step_.segments) {
      for (int64_t i = 0; i < segment.rows; ++i) {
        const int64_t r = segment.row_begin + i, position = segment.start_position + i;
        FinishKey(w, kv + r * config_.kv_row_dim(), r, row.data());
        cache_.Write(layer, segment.pages[position / kPageTokens], position % kPageTokens,
                     row.data());
      }
    }
  }

  void Attend(int64_t layer, const DeviceRows& q, DeviceRows& attended) override {
    AttentionArgs args{options_.precision,
                       &attention_shape_,
                       &weights_.layers[layer].heads,
                       &cache_,
                       layer,
                       AsHost(q).row(0),
                       AsHost(attended).row(0),
                       &pool_};
    std::vector<Segment> decode;
    for (const Segment& segment : step_.segments) {
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
    const HostLinear& o = weights_.layers[layer].o;
    AddRows(Linear(o, AsHost(attended).row(0), o.inputs(), hidden_), AsHost(x));
  }

  void AddDenseFfn(int64_t layer, const DeviceRows& h, DeviceRows& x) override {
    TANDEM_CHECK(weights_.layers[layer].dense.has_value());
    AddRows(Ffn(*weights_.layers[layer].dense, AsHost(h)), AsHost(x));
  }

  void Route(int64_t layer, const DeviceRows& h, const std::vector<uint32_t>* forced_ids,
             RouterChoice* choice) override {
    const HostLayer& w = weights_.layers[layer];
    const int64_t k = config_.num_experts_per_tok, experts = config_.n_routed_experts;
    const float* logits = Linear(w.router, AsHost(h).row(0), config_.hidden_size, router_logits_);
    *choice = {k, std::vector<uint32_t>(step_.rows() * k), std::vector<float>(step_.rows() * k)};
    if (forced_ids != nullptr) TANDEM_CHECK_EQ(forced_ids->size(), choice->expert_ids.size());
    ForRows(step_.rows(), [&](int64_t r) {
      std::span<const uint32_t> forced;
      if (forced_ids != nullptr) forced = std::span(*forced_ids).subspan(r * k, k);
      const ExpertChoice row =
          ChooseExperts(config_, {logits + r * experts, size_t(experts)}, w.router_bias, forced);
      std::copy_n(row.ids.begin(), k, choice->expert_ids.begin() + r * k);
      std::copy_n(row.weights.begin(), k, choice->weights.begin() + r * k);
    });
  }

  void ReadRows(const DeviceRows& h, std::vector<std::byte>* wire) override {
    const int64_t count = step_.rows() * config_.hidden_size;
    if (options_.precision == Precision::kF32) {
      wire->resize(count * sizeof(float));
      std::memcpy(wire->data(), AsHost(h).row(0), wire->size());
      return;
    }
    wire->resize(count * sizeof(uint16_t));
    PackBf16(AsHost(h).row(0), count, 1, count, reinterpret_cast<uint16_t*>(wire->data()));
  }

  void SharedFfn(int64_t layer, const DeviceRows& h, DeviceRows& out) override {
    const std::optional<HostFfn>& shared = weights_.layers[layer].shared;
    const int64_t count = step_.rows() * config_.hidden_size;
    if (shared.has_value()) {
      std::copy_n(Ffn(*shared, AsHost(h)), count, AsHost(out).row(0));
    } else {
      std::fill_n(AsHost(out).row(0), count, 0.0f);
    }
  }

  void AddMoe(const DeviceRows& shared, std::span<const float> routed, DeviceRows& x) override {
    TANDEM_CHECK_EQ(static_cast<int64_t>(routed.size()), step_.rows() * config_.hidden_size);
    const float* from = AsHost(shared).row(0);
    float* to = AsHost(x).row(0);
    for (size_t i = 0; i < routed.size(); ++i) to[i] = Rounded(to[i] + (routed[i] + from[i]));
  }

  void Logits(const DeviceRows& x, std::span<const int64_t> row_ids,
              std::vector<float>* logits) override {
    const int64_t rows = static_cast<int64_t>(row_ids.size()), hidden = config_.hidden_size;
    TANDEM_CHECK_LE(rows, info_.logit_rows_max);
    hidden_.resize(std::max<size_t>(hidden_.size(), rows * hidden));
    for (int64_t r = 0; r < rows; ++r) {
      RmsNorm(options_.precision, AsHost(x).row(row_ids[r]), weights_.final_norm,
              config_.rms_norm_eps, hidden_.data() + r * hidden);
    }
    logits->resize(rows * config_.vocab_size);
    weights_.head().ApplyUnrounded(pool_, scratch_, hidden_.data(), hidden, rows, logits->data(),
                                   config_.vocab_size);
  }

 private:
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
    out.resize(std::max<size_t>(out.size(), step_.rows() * layer.outputs()));
    layer.Apply(pool_, scratch_, x, x_stride, step_.rows(), out.data(), layer.outputs());
    return out.data();
  }

  void ProjectQueries(const HostLayer& w, const HostRows& h, HostRows& q) {
    if (!w.q.empty()) {
      w.q.Apply(pool_, scratch_, h.row(0), h.cols(), step_.rows(), q.row(0), q.cols());
      return;
    }
    const int64_t lora = config_.q_lora_rank;
    Linear(w.q_a, h.row(0), h.cols(), q_lora_);
    ForRows(step_.rows(), [&](int64_t r) {
      float* row = q_lora_.data() + r * lora;
      RmsNorm(options_.precision, row, w.q_a_norm, config_.rms_norm_eps, row);
    });
    w.q_b.Apply(pool_, scratch_, q_lora_.data(), lora, step_.rows(), q.row(0), q.cols());
  }

  // Rotates the rope part of each head's query.
  void RotateQueries(int64_t r, float* q) const {
    for (int64_t head = 0; head < config_.num_attention_heads; ++head) {
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
    rope_.Apply(rope_rows_, r, v);
    for (int64_t i = 0; i < config_.qk_rope_head_dim; ++i) v[i] = Rounded(v[i]);
  }

  // down(silu(gate h) * up h); the result lies in hidden_.
  const float* Ffn(const HostFfn& ffn, const HostRows& h) {
    const int64_t inter = ffn.gate.outputs();
    Linear(ffn.gate, h.row(0), h.cols(), gate_);
    Linear(ffn.up, h.row(0), h.cols(), up_);
    ForRows(step_.rows(), [&](int64_t r) {
      float* gate = gate_.data() + r * inter;
      kernels::SwiGlu(gate, up_.data() + r * inter, gate, inter);
      for (int64_t i = 0; i < inter; ++i) gate[i] = Rounded(gate[i]);
    });
    return Linear(ffn.down, gate_.data(), inter, hidden_);
  }

  void AddRows(const float* delta, HostRows& x) const {
    float* to = x.row(0);
    const int64_t count = step_.rows() * config_.hidden_size;
    for (int64_t i = 0; i < count; ++i) to[i] = Rounded(to[i] + delta[i]);
  }

  const ModelConfig config_;
  const HostBackendOptions options_;
  const AttentionShape attention_shape_;
  const Rope rope_;
  base::ThreadPool pool_;
  KvCache cache_;
  HostWeights weights_;
  BackendInfo info_;

  StepBatch step_;
  RopeRows rope_rows_;
  LinearScratch scratch_;
  std::vector<float> hidden_, kv_, q_lora_, gate_, up_, router_logits_;  // results of the last use
};

}  // namespace

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
  auto backend = std::make_unique<HostBackend>(weights, options);
  TANDEM_RETURN_IF_ERROR(backend->Load(weights));
  return backend;
}

}  // namespace tandem::gpu_worker
