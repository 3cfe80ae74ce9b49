#include "gpu_worker/backend/cuda/cuda_backend.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/cuda/cuda_scratch.h"
#include "gpu_worker/backend/cuda/cuda_shapes.h"
#include "gpu_worker/backend/cuda/device_arena.h"
#include "gpu_worker/backend/cuda/graph_segments.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"
#include "gpu_worker/backend/cuda/kernels/columns/columns.h"
#include "gpu_worker/backend/cuda/memory_plan.h"
#include "gpu_worker/backend/cuda/step_buffers.h"
#include "gpu_worker/backend/cuda/step_clock.h"
#include "gpu_worker/backend/shard/device_parts.h"
#include "lib/base/check.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker::cuda {
namespace {

// Rows of one Logits call: their f32 logits over the largest vocabulary (163,840) take 21 MB.
constexpr int64_t kLogitRowsMax = 32;

// Steps of generated rows are padded to the next of these, so that a handful of graphs serves all.
constexpr std::array<int64_t, 8> kGraphRows = {1, 2, 4, 8, 16, 24, 32, 64};

class CudaRows : public DeviceRows {
 public:
  CudaRows(DeviceMemory memory, int64_t cols) : memory_(std::move(memory)), cols_(cols) {}
  void* data() const { return memory_.data(); }
  int64_t cols() const { return cols_; }

 private:
  DeviceMemory memory_;
  int64_t cols_;
};

const CudaRows& AsCuda(const DeviceRows& rows) { return static_cast<const CudaRows&>(rows); }

// One step in flight.
struct Slot {
  StepBatch step;
  int64_t rows = 0;    // of the step
  int64_t padded = 0;  // that the kernels work on
  bool graphs = false;
  int64_t moe_calls = 0;  // of this step: tells AddMoe's segments apart
  StepBuffers buffers;
  PinnedMemory wire, routed, expert_ids, expert_weights;
  OwnedEvent routed_ready;  // choice and rows lie in the slot's device buffers
  OwnedEvent read_done;     // ... and in host memory
  OwnedEvent routed_sent;   // the experts' answer is on the device

  explicit Slot(StepBuffers step_buffers) : buffers(std::move(step_buffers)) {}
};

// Hash of what a kernel's work depends on.
template <typename... T>
uint64_t Signature(const T&... values) {
  return absl::HashOf(values...);
}

class CudaBackend : public Backend {
 public:
  // collective: how this rank of the plan meets the others; null when it is the only one.
  CudaBackend(const ModelConfig& config, const CudaBackendOptions& options, const ShardPlan& plan,
              int rank, Collective* collective)
      : config_(config),
        options_(options),
        storage_(options.formats.storage()),
        plan_(plan),
        rank_(rank),
        heads_(plan.heads().of(rank).size()),
        collective_(collective),
        rope_(config),
        stream_(NewStream()),
        copies_(NewStream()),
        segments_(stream_.get()),
        clock_(stream_.get()) {}

  // Works out shapes and what fits; allocates nothing.
  absl::Status Plan(const DeviceProperties& device);
  absl::Status Load(const ModelWeights& weights);

  const BackendInfo& info() const override { return info_; }

  std::unique_ptr<DeviceRows> NewRows(RowShape shape, int64_t rows) override {
    const int64_t cols = ColsOf(shape);
    absl::StatusOr<DeviceMemory> memory = AllocateDevice(rows * cols * BytesOf(storage_));
    TANDEM_CHECK(memory.ok());  // the plan has room for it
    // Padding rows are computed with: what they hold at first must be numbers.
    FillBytes(memory->data(), 0, memory->bytes(), stream_.get());
    return std::make_unique<CudaRows>(*std::move(memory), cols);
  }

  void BeginStep(int slot, const StepBatch& step) override {
    MakeCurrent(options_.device);  // steps may run on another thread than the one that loaded
    EndSegment();
    TANDEM_CHECK_LE(step.rows(), info_.slot_rows_max(slot));
    TANDEM_CHECK_EQ(step.token_ids.size(), step.positions.size());
    slot_ = slot;
    Slot& s = *slots_[slot];
    s.step = step;
    s.rows = step.rows();
    const auto graph_rows = std::lower_bound(kGraphRows.begin(), kGraphRows.end(), s.rows);
    const bool decode_only =
        std::all_of(step.segments.begin(), step.segments.end(),
                    [](const Segment& segment) { return segment.kind == RowKind::kDecode; });
    s.graphs = options_.graphs && decode_only && Flash() && !clock_.on() &&
               graph_rows != kGraphRows.end() && *graph_rows <= info_.slot_rows_max(slot);
    s.padded = s.graphs ? *graph_rows : s.rows;
    s.buffers.Upload(step, s.padded, rope_, stream_.get());
    OpenSegment(/*part=*/0, /*layer=*/-1);
  }

  void SelectSlot(int slot) override {
    if (slot == slot_) return;
    EndSegment();
    slot_ = slot;
  }

  std::span<std::byte> WireRows(int slot) override {
    const int64_t bytes = info_.slot_rows_max(slot) * config_.hidden_size * BytesOf(storage_);
    return {slots_[slot]->wire.as<std::byte>(), static_cast<size_t>(bytes)};
  }
  std::span<float> RoutedRows(int slot) override {
    const int64_t values = info_.slot_rows_max(slot) * config_.hidden_size;
    return {slots_[slot]->routed.as<float>(), static_cast<size_t>(values)};
  }

  void Embed(DeviceRows& x) override {
    const Split& split = weights_.embedding_split;
    const int64_t cols = split.of(rank_).size();
    void* const whole = AsCuda(x).data();
    void* const to = collective_ == nullptr ? whole : scratch_.part;
    Do(
        "embed", -1,
        [=, this, ids = slot().buffers.ids()](Stream stream) {
          cuda::Embed(storage_, ids, weights_.embedding, cols, slot().padded, to, stream);
        },
        static_cast<const std::byte*>(whole));
    if (collective_ == nullptr) return;
    if (cols < split.part_max()) Widen(cols, split.part_max());
    Gather(-1, split, scratch_.part, whole);
  }

  void Norm(int64_t layer, NormSite site, const DeviceRows& x, DeviceRows& out) override {
    const CudaLayer& w = weights_.layers[layer];
    const float* weight = site == NormSite::kBeforeAttention ? w.attention_norm : w.ffn_norm;
    Normalize("norm", layer, AsCuda(x).data(), weight, config_.hidden_size, AsCuda(out).data());
  }

  void ProjectAndCache(int64_t layer, const DeviceRows& h, DeviceRows& q) override {
    const CudaLayer& w = weights_.layers[layer];
    const int64_t hidden = config_.hidden_size, queries = AsCuda(q).cols();
    if (w.q.outputs > 0) {
      Project("query", layer, w.q, AsCuda(h).data(), hidden, AsCuda(q).data(), queries);
    } else {
      const int64_t lora = config_.q_lora_rank;
      Project("query_a", layer, w.q_a, AsCuda(h).data(), hidden, scratch_.q_lora, lora);
      Normalize("query_norm", layer, scratch_.q_lora, w.q_a_norm, lora, scratch_.q_lora);
      Project("query_b", layer, w.q_b, scratch_.q_lora, lora, AsCuda(q).data(), queries);
    }
    Project("key_value", layer, w.kv_a, AsCuda(h).data(), hidden, scratch_.kv,
            config_.kv_row_dim());
    Do(
        "rope", layer,
        [=, this, to = AsCuda(q).data()](Stream stream) {
          RotateQueries(storage_, Tables(), heads_, config_.qk_head_dim(), slot().padded, to,
                        stream);
          FinishKeys({.storage = storage_,
                      .kv = scratch_.kv,
                      .weight = weights_.layers[layer].kv_a_norm,
                      .eps = static_cast<float>(config_.rms_norm_eps),
                      .latent = config_.kv_lora_rank,
                      .rows = slot().padded,
                      .rope = Tables(),
                      .slots = slot().buffers.slots(),
                      .cache = CacheOf(layer)},
                     stream);
        },
        AsCuda(q).data());
  }

  void Attend(int64_t layer, const DeviceRows& q, DeviceRows& attended) override {
    if (Flash() && slot().buffers.decode().rows > 0) {
      Do(
          "attention_decode", layer,
          [=, this, &q, &attended](Stream stream) {
            AttendAbsorbed(layer, AsCuda(q).data(), AsCuda(attended).data(), stream);
          },
          AsCuda(q).data(), AsCuda(attended).data());
    }
    for (const Segment& segment : slot().step.segments) {
      if (Flash() && segment.kind == RowKind::kDecode) continue;
      EndSegment();  // its place and length are the step's own
      Do("attention_prefill", layer, [=, this, &q, &attended](Stream stream) {
        AttendPrompt(layer, segment, AsCuda(q).data(), AsCuda(attended).data(), stream);
      });
    }
  }

  void AddAttentionOutput(int64_t layer, const DeviceRows& attended, DeviceRows& x) override {
    const CudaLayer& w = weights_.layers[layer];
    const void* heads = AsCuda(attended).data();
    if (collective_ != nullptr) {
      Gather(layer, plan_.attended(), heads, scratch_.whole);
      heads = scratch_.whole;
    }
    ProjectWhole("attention_out", layer, w.o, w.o_split, heads, plan_.attended().total(),
                 scratch_.delta);
    AddDelta(layer, x);
  }

  void AddDenseFfn(int64_t layer, const DeviceRows& h, DeviceRows& x) override {
    TANDEM_CHECK(weights_.layers[layer].dense.has_value());
    Ffn(layer, *weights_.layers[layer].dense, h, scratch_.delta);
    AddDelta(layer, x);
  }

  void StartRoute(int64_t layer, const DeviceRows& h,
                  const std::vector<uint32_t>* forced_ids) override {
    if (rank_ > 0) return;  // the first rank chooses for all
    const SlotScratch& mine = scratch_.slots[slot_];
    if (forced_ids != nullptr) {
      EndSegment();
      TANDEM_CHECK_EQ(static_cast<int64_t>(forced_ids->size()),
                      slot().rows * config_.num_experts_per_tok);
      const int64_t padding = (slot().padded - slot().rows) * config_.num_experts_per_tok;
      CopyToDevice(mine.forced_ids, forced_ids->data(), forced_ids->size() * sizeof(uint32_t),
                   stream_.get());
      FillBytes(mine.forced_ids + forced_ids->size(), 0, padding * sizeof(uint32_t), stream_.get());
    }
    const uint32_t* forced = forced_ids == nullptr ? nullptr : mine.forced_ids;
    const CudaLayer& w = weights_.layers[layer];
    Do(
        "route", layer,
        [=, this, &w, from = AsCuda(h).data()](Stream stream) {
          cuda::Linear({.kernels = options_.kernels,
                        .w = w.router,
                        .x = from,
                        .x_storage = storage_,
                        .x_stride = config_.hidden_size,
                        .rows = slot().padded,
                        .y = scratch_.router_logits,
                        .y_stride = config_.n_routed_experts,
                        .y_storage = Storage::kF32,
                        .workspace = scratch_.workspace,
                        .workspace_bytes = scratch_.workspace_bytes},
                       stream);
          RouteArgs args = RouteShapeOf(config_);
          args.logits = scratch_.router_logits;
          args.bias = w.router_bias;
          args.forced = forced;
          args.rows = slot().padded;
          args.ids = scratch_.slots[slot_].expert_ids;
          args.weights = scratch_.slots[slot_].expert_weights;
          cuda::Route(args, stream);
        },
        AsCuda(h).data());
  }

  // The rows are set aside first, so that the copy to the host need not be over before they are
  // overwritten.
  void StartReadRows(const DeviceRows& h) override {
    if (rank_ > 0) {
      EndSegment();
      return;
    }
    const int64_t bytes = slot().rows * config_.hidden_size * BytesOf(storage_);
    const int64_t padded_bytes = slot().padded * config_.hidden_size * BytesOf(storage_);
    const SlotScratch& mine = scratch_.slots[slot_];
    Do(
        "set_aside", -1,
        [=, from = AsCuda(h).data(), to = mine.wire](Stream stream) {
          CopyOnDevice(to, from, padded_bytes, stream);
        },
        AsCuda(h).data());
    EndSegment();
    Slot& s = slot();
    Record(s.routed_ready.get(), stream_.get());
    WaitFor(s.routed_ready.get(), copies_.get());
    const int64_t choices = s.rows * config_.num_experts_per_tok;
    CopyToHost(s.expert_ids.data(), mine.expert_ids, choices * sizeof(uint32_t), copies_.get());
    CopyToHost(s.expert_weights.data(), mine.expert_weights, choices * sizeof(float),
               copies_.get());
    CopyToHost(s.wire.data(), mine.wire, bytes, copies_.get());
    Record(s.read_done.get(), copies_.get());
  }

  void FinishRoute(RouterChoice* choice) override {
    Slot& s = slot();
    if (rank_ > 0) {  // chooses nothing, but what the experts answered must have left its memory
      Synchronize(s.routed_sent.get());
      return;
    }
    Synchronize(s.read_done.get());
    const int64_t k = config_.num_experts_per_tok, count = s.rows * k;
    choice->experts_per_row = k;
    choice->expert_ids.assign(s.expert_ids.as<uint32_t>(), s.expert_ids.as<uint32_t>() + count);
    choice->weights.assign(s.expert_weights.as<float>(), s.expert_weights.as<float>() + count);
  }

  void SharedFfn(int64_t layer, const DeviceRows& h, DeviceRows& out) override {
    const std::optional<CudaFfn>& shared = weights_.layers[layer].shared;
    OpenSegment(/*part=*/1, layer);
    if (shared.has_value()) {
      Ffn(layer, *shared, h, AsCuda(out).data());
    } else {
      const int64_t bytes = slot().padded * config_.hidden_size * BytesOf(storage_);
      Do(
          "no_shared", layer,
          [=, to = AsCuda(out).data()](Stream stream) { FillBytes(to, 0, bytes, stream); },
          AsCuda(out).data());
    }
    EndSegment();
  }

  void AddMoe(const DeviceRows& shared, DeviceRows& x) override {
    EndSegment();
    Slot& s = slot();
    const int64_t count = s.rows * config_.hidden_size;
    float* const routed = scratch_.slots[slot_].routed;
    CopyToDevice(routed, s.routed.data(), count * sizeof(float), copies_.get());
    Record(s.routed_sent.get(), copies_.get());
    WaitFor(s.routed_sent.get(), stream_.get());
    OpenSegment(/*part=*/2, s.moe_calls++);
    const int64_t padded_count = s.padded * config_.hidden_size;
    Do(
        "combine", -1,
        [=, this, from = AsCuda(shared).data(), to = AsCuda(x).data()](Stream stream) {
          cuda::AddMoe(storage_, from, routed, padded_count, to, stream);
        },
        AsCuda(shared).data(), AsCuda(x).data());
  }

  void Logits(std::span<const LogitRow> rows, std::vector<float>* logits) override {
    EndSegment();
    const int64_t count = static_cast<int64_t>(rows.size()), hidden = config_.hidden_size;
    const ShardRange own = weights_.vocab_split.of(rank_);
    TANDEM_CHECK_LE(count, info_.logit_rows_max);
    if (count == 0) return;
    Do("logits", -1, [=, this](Stream stream) {
      for (int64_t i = 0; i < count; ++i) {
        const auto* from = static_cast<const std::byte*>(AsCuda(*rows[i].x).data());
        CopyOnDevice(static_cast<std::byte*>(scratch_.logit_rows) + i * hidden * BytesOf(storage_),
                     from + rows[i].row * hidden * BytesOf(storage_), hidden * BytesOf(storage_),
                     stream);
      }
      RmsNorm({.storage = storage_,
               .x = scratch_.logit_rows,
               .x_stride = hidden,
               .weight = weights_.final_norm,
               .eps = static_cast<float>(config_.rms_norm_eps),
               .cols = hidden,
               .rows = count,
               .out = scratch_.logit_rows,
               .out_stride = hidden},
              stream);
      if (own.empty()) return;
      cuda::Linear(LinearOf(weights_.head, scratch_.logit_rows, hidden, count, scratch_.logits,
                            own.size(), Storage::kF32),
                   stream);
    });
    logits->resize(count * config_.vocab_size);
    if (own.size() == config_.vocab_size) {
      CopyToHost(logits->data(), scratch_.logits, logits->size() * sizeof(float), stream_.get());
    } else {
      for (int64_t i = 0; i < count; ++i) {
        CopyToHost(logits->data() + i * config_.vocab_size + own.begin,
                   scratch_.logits + i * own.size(), own.size() * sizeof(float), stream_.get());
      }
    }
    Synchronize(stream_.get());
  }

  void NoteDeviceSpans(bool on) override { clock_.Turn(on); }
  std::vector<DeviceSpan> TakeDeviceSpans() override { return clock_.Take(); }

 private:
  bool Flash() const { return options_.formats.attention == AttentionKernel::kFlash; }
  Slot& slot() { return *slots_[slot_]; }
  const Slot& slot() const { return *slots_[slot_]; }

  int64_t ColsOf(RowShape shape) const {
    const int64_t heads = heads_;
    return shape == RowShape::kHidden    ? config_.hidden_size
           : shape == RowShape::kQueries ? heads * config_.qk_head_dim()
                                         : heads * config_.v_head_dim;
  }

  void* CacheOf(int64_t layer) const {
    const int64_t values = info_.kv_pages * kPageTokens * config_.kv_row_dim();
    return cache_.as<std::byte>() + layer * values * BytesOf(storage_);
  }

  RopeArgs Tables() const {
    return {.cos = slot().buffers.cos(),
            .sin = slot().buffers.sin(),
            .rope = config_.qk_rope_head_dim,
            .halves = config_.rope_layout == RopeLayout::kSplitHalves};
  }

  void EndSegment() {
    if (!segments_.open()) return;
    segments_.End();
    if (collective_ != nullptr) collective_->Watch(stream_.get());
  }

  void OpenSegment(int part, int64_t layer) {
    if (layer < 0) slot().moe_calls = 0;
    if (slot().graphs) segments_.Begin(Signature(slot_, part, layer, slot().padded));
  }

  // Enqueues work(stream), timed when spans are wanted. The rest: what it depends on beside the
  // slot's rows and the layer.
  template <typename Work, typename... Places>
  void Do(const char* name, int64_t layer, Work work, const Places*... places) {
    segments_.Call(Signature(name, layer, slot().padded, slot_, places...),
                   [this, name, layer, slot = slot_, work = std::move(work)] {
                     const auto span = clock_.Span(name, slot, layer);
                     work(stream_.get());
                   });
  }

  LinearArgs LinearOf(const DeviceMatrix& w, const void* x, int64_t x_stride, int64_t rows, void* y,
                      int64_t y_stride, Storage y_storage) const {
    return {.kernels = options_.kernels,
            .w = w,
            .x = x,
            .x_storage = storage_,
            .x_stride = x_stride,
            .rows = rows,
            .y = y,
            .y_stride = y_stride,
            .y_storage = y_storage,
            .workspace = scratch_.workspace,
            .workspace_bytes = scratch_.workspace_bytes};
  }

  void Project(const char* name, int64_t layer, const DeviceMatrix& w, const void* x,
               int64_t x_stride, void* y, int64_t y_stride) {
    if (w.outputs == 0) return;  // a rank without a share
    const LinearArgs args = LinearOf(w, x, x_stride, slot().padded, y, y_stride, storage_);
    Do(
        name, layer, [args](Stream stream) { cuda::Linear(args, stream); },
        static_cast<const std::byte*>(x), static_cast<const std::byte*>(y));
  }

  void Normalize(const char* name, int64_t layer, const void* x, const float* weight, int64_t cols,
                 void* out) {
    const RmsNormArgs args{.storage = storage_,
                           .x = x,
                           .x_stride = cols,
                           .weight = weight,
                           .eps = static_cast<float>(config_.rms_norm_eps),
                           .cols = cols,
                           .rows = slot().padded,
                           .out = out,
                           .out_stride = cols};
    Do(
        name, layer, [args](Stream stream) { RmsNorm(args, stream); },
        static_cast<const std::byte*>(x), weight, static_cast<const std::byte*>(out));
  }

  void AddDelta(int64_t layer, DeviceRows& x) {
    const int64_t count = slot().padded * config_.hidden_size;
    Do(
        "add", layer,
        [=, this, to = AsCuda(x).data()](Stream stream) {
          cuda::Add(storage_, scratch_.delta, count, to, stream);
        },
        static_cast<const std::byte*>(AsCuda(x).data()));
  }

  // out = down(silu(gate h) * up h)
  void Ffn(int64_t layer, const CudaFfn& ffn, const DeviceRows& h, void* out) {
    const int64_t hidden = config_.hidden_size, stride = ffn.inter.part_max();
    Project("ffn_gate", layer, ffn.gate, AsCuda(h).data(), hidden, scratch_.gate, stride);
    Project("ffn_up", layer, ffn.up, AsCuda(h).data(), hidden, scratch_.up, stride);
    const int64_t count = slot().padded * stride;
    Do("ffn_activation", layer, [=, this](Stream stream) {
      SwiGlu(storage_, scratch_.gate, scratch_.up, count, scratch_.gate, stream);
    });
    const void* inter = scratch_.gate;
    if (collective_ != nullptr) {
      Gather(layer, ffn.inter, inter, scratch_.whole);
      inter = scratch_.whole;
    }
    ProjectWhole("ffn_down", layer, ffn.down, ffn.hidden, inter, ffn.inter.total(), out);
  }

  // The same as Project for a layer whose outputs ranks share: whole rows in y.
  void ProjectWhole(const char* name, int64_t layer, const DeviceMatrix& w, const Split& split,
                    const void* x, int64_t x_stride, void* y) {
    if (collective_ == nullptr) {
      Project(name, layer, w, x, x_stride, y, split.total());
      return;
    }
    Project(name, layer, w, x, x_stride, scratch_.part, split.part_max());
    Gather(layer, split, scratch_.part, y);
  }

  // whole [padded, split.total()] from every rank's part [padded, split.part_max()]. An error is
  // the collective's and final; its owner looks at it after each call.
  void Gather(int64_t layer, const Split& split, const void* part, void* whole) {
    const int64_t bytes = slot().padded * split.part_max() * BytesOf(storage_);
    Do(
        "gather", layer,
        [=, this](Stream stream) {
          if (!collective_->AllGather(part, scratch_.gathered, bytes, stream).ok()) return;
          MergePartsOnDevice(split, slot().padded, static_cast<int>(BytesOf(storage_)),
                             scratch_.gathered, whole, stream);
        },
        static_cast<const std::byte*>(part), static_cast<const std::byte*>(whole));
  }

  // Rows of `cols` in scratch_.part are moved apart to part_max: the last rank's share of a matrix
  // may be smaller than the others'.
  void Widen(int64_t cols, int64_t part_max) {
    Do("widen", -1, [=, this](Stream stream) {
      const int value_bytes = static_cast<int>(BytesOf(storage_));
      CopyColumns({.value_bytes = value_bytes,
                   .from = scratch_.part,
                   .from_stride = cols,
                   .to = scratch_.delta,
                   .to_stride = cols,
                   .rows = slot().padded,
                   .cols = cols},
                  stream);
      CopyColumns({.value_bytes = value_bytes,
                   .from = scratch_.delta,
                   .from_stride = cols,
                   .to = scratch_.part,
                   .to_stride = part_max,
                   .rows = slot().padded,
                   .cols = cols},
                  stream);
    });
  }

  // Rows of the decode range: queries into latent space, attention over latents, values out of it.
  void AttendAbsorbed(int64_t layer, const void* q, void* attended, Stream stream) {
    const CudaLayer& w = weights_.layers[layer];
    const DecodeRange range = slot().buffers.decode();
    const int64_t heads = heads_, qk = config_.qk_head_dim();
    const int64_t latent = config_.kv_lora_rank, key = config_.kv_row_dim(), v = config_.v_head_dim;
    const int64_t value_bytes = BytesOf(storage_);
    const auto* from = static_cast<const std::byte*>(q) + range.begin * heads * qk * value_bytes;
    auto* const to = static_cast<std::byte*>(attended) + range.begin * heads * v * value_bytes;
    LinearArgs absorb =
        LinearOf(w.absorb, from, heads * qk, range.rows, scratch_.latent_q, heads * key, storage_);
    absorb.x_batch_stride = qk;
    absorb.y_batch_stride = key;
    cuda::Linear(absorb, stream);
    CopyColumns({.value_bytes = static_cast<int>(value_bytes),
                 .from = from + config_.qk_nope_head_dim * value_bytes,
                 .from_stride = qk,
                 .to = static_cast<std::byte*>(scratch_.latent_q) + latent * value_bytes,
                 .to_stride = key,
                 .rows = range.rows * heads,
                 .cols = config_.qk_rope_head_dim},
                stream);
    const StepBuffers& buffers = slot().buffers;
    MlaDecode({.kernels = options_.kernels,
               .storage = storage_,
               .shape = scratch_shape_.step.mla,
               .q = scratch_.latent_q,
               .cache = CacheOf(layer),
               .page_table = buffers.pages_of_row(range.begin),
               .page_table_stride = buffers.page_table_stride(),
               .lengths = buffers.lengths() + range.begin,
               .rows = range.rows,
               .out = scratch_.latent_out,
               .plan = buffers.plan(),
               .workspace = scratch_.workspace,
               .workspace_bytes = scratch_.workspace_bytes,
               .multiprocessors = scratch_shape_.step.multiprocessors,
               .shared_bytes_max = scratch_shape_.step.shared_bytes_max},
              stream);
    LinearArgs values = LinearOf(w.value_up, scratch_.latent_out, heads * latent, range.rows, to,
                                 heads * v, storage_);
    values.x_batch_stride = latent;
    values.y_batch_stride = v;
    cuda::Linear(values, stream);
  }

  void AttendPrompt(int64_t layer, const Segment& segment, const void* q, void* attended,
                    Stream stream) {
    const CudaLayer& w = weights_.layers[layer];
    const int64_t heads = heads_, value_bytes = BytesOf(storage_);
    const int64_t q_bytes = heads * config_.qk_head_dim() * value_bytes;
    const int64_t v_bytes = heads * config_.v_head_dim * value_bytes;
    MlaPrefill({.kernels = options_.kernels,
                .storage = storage_,
                .shape = scratch_shape_.step.mla,
                .q = static_cast<const std::byte*>(q) + segment.row_begin * q_bytes,
                .cache = CacheOf(layer),
                .pages = slot().buffers.pages_of_row(segment.row_begin),
                .start_position = segment.start_position,
                .rows = segment.rows,
                .key_up = w.key_up,
                .value_up = w.value_up,
                .out = static_cast<std::byte*>(attended) + segment.row_begin * v_bytes,
                .workspace = scratch_.workspace,
                .workspace_bytes = scratch_.workspace_bytes},
               stream);
  }

  size_t ActivationBytes(const ScratchShape& shape) const;
  absl::Status AllocateAll(const ScratchShape& shape);

  const ModelConfig config_;
  const CudaBackendOptions options_;
  const Storage storage_;
  const ShardPlan plan_;
  const int rank_;
  const int64_t heads_;           // of this rank
  Collective* const collective_;  // null: one rank
  const Rope rope_;
  const OwnedStream stream_, copies_;
  GraphSegments segments_;
  StepClock clock_;
  CudaWeights weights_;
  DeviceMemory cache_;  // [layers, kv_pages, kPageTokens, kv_row]
  DeviceMemory scratch_memory_;
  ScratchShape scratch_shape_;
  CudaScratch scratch_;
  BackendInfo info_;
  std::vector<std::unique_ptr<Slot>> slots_;
  int slot_ = 0;
};

// Scratch, the two slots' step buffers, and the rows that Forward asks for: x, h, the shared
// expert's, queries and attended of each slot.
size_t CudaBackend::ActivationBytes(const ScratchShape& shape) const {
  DeviceArena count;
  TakeScratch(shape, count);
  size_t bytes = count.used() + kStepSlots * StepBuffers::BytesFor(shape.step);
  for (int slot = 0; slot < kStepSlots; ++slot) {
    const int64_t cols =
        3 * ColsOf(RowShape::kHidden) + ColsOf(RowShape::kQueries) + ColsOf(RowShape::kAttended);
    bytes += info_.slot_rows_max(slot) * cols * BytesOf(storage_);
  }
  return bytes;
}

absl::Status CudaBackend::AllocateAll(const ScratchShape& shape) {
  DeviceArena count;
  TakeScratch(shape, count);
  TANDEM_ASSIGN_OR_RETURN(DeviceArena arena, DeviceArena::Like(count));
  scratch_ = TakeScratch(shape, arena);
  scratch_memory_ = std::move(arena).Release();
  FillBytes(scratch_memory_.data(), 0, scratch_memory_.bytes(), stream_.get());
  const size_t cache_bytes = info_.kv_pages * kPageTokens * config_.kv_row_dim() *
                             config_.num_hidden_layers * BytesOf(storage_);
  TANDEM_ASSIGN_OR_RETURN(cache_, AllocateDevice(cache_bytes));
  for (int i = 0; i < kStepSlots; ++i) {
    TANDEM_ASSIGN_OR_RETURN(StepBuffers buffers, StepBuffers::Create(shape.step));
    auto slot = std::make_unique<Slot>(std::move(buffers));
    const int64_t rows = std::max<int64_t>(1, info_.slot_rows_max(i));
    const int64_t choices = std::max<int64_t>(1, rows * config_.num_experts_per_tok);
    TANDEM_ASSIGN_OR_RETURN(slot->wire,
                            AllocatePinned(rows * config_.hidden_size * BytesOf(storage_)));
    TANDEM_ASSIGN_OR_RETURN(slot->routed,
                            AllocatePinned(rows * config_.hidden_size * sizeof(float)));
    TANDEM_ASSIGN_OR_RETURN(slot->expert_ids, AllocatePinned(choices * sizeof(uint32_t)));
    TANDEM_ASSIGN_OR_RETURN(slot->expert_weights, AllocatePinned(choices * sizeof(float)));
    slot->routed_ready = NewEvent();
    slot->read_done = NewEvent();
    slot->routed_sent = NewEvent();
    slots_.push_back(std::move(slot));
  }
  Synchronize(stream_.get());
  return absl::OkStatus();
}

absl::Status CudaBackend::Plan(const DeviceProperties& device) {
  info_ = {.name = "cuda",
           .precision = options_.formats.precision,
           .attention = options_.formats.attention,
           .kv_pages = options_.kv_pages,
           .rows_max = options_.rows_max,
           .logit_rows_max = std::min(kLogitRowsMax, options_.rows_max)};
  TANDEM_ASSIGN_OR_RETURN(weights_, CudaWeightShapes(config_, options_.formats, {&plan_, rank_}));
  scratch_shape_ = ScratchShapeOf({.config = &config_,
                                   .weights = &weights_,
                                   .plan = &plan_,
                                   .rank = rank_,
                                   .storage = storage_,
                                   .attention = options_.formats.attention,
                                   .kernels = options_.kernels,
                                   .kv_pages = options_.kv_pages,
                                   .rows_max = options_.rows_max,
                                   .logit_rows_max = info_.logit_rows_max,
                                   .device = &device});
  MemoryNeeds needs;
  needs.weight_bytes = weights_.bytes;
  needs.activation_bytes = ActivationBytes(scratch_shape_);
  needs.kv_page_bytes =
      kPageTokens * config_.kv_row_dim() * config_.num_hidden_layers * BytesOf(storage_);
  needs.kv_pages = options_.kv_pages;
  needs.kv_pages_max = scratch_shape_.step.pages_per_sequence_max;
  needs.rows_max = options_.rows_max;
  TANDEM_ASSIGN_OR_RETURN(info_.kv_pages, PlanKvPages(needs, device.free_bytes, device.name));
  base::LogInfo("device_memory_planned", {{"device", device.name},
                                          {"rank", rank_},
                                          {"weight_bytes", needs.weight_bytes},
                                          {"activation_bytes", needs.activation_bytes},
                                          {"kv_pages", info_.kv_pages},
                                          {"kv_bytes", info_.kv_pages * needs.kv_page_bytes},
                                          {"free_bytes", device.free_bytes}});
  return absl::OkStatus();
}

absl::Status CudaBackend::Load(const ModelWeights& weights) {
  TANDEM_RETURN_IF_ERROR(AllocateAll(scratch_shape_));
  base::ThreadPool pool(options_.pack_threads);
  TANDEM_ASSIGN_OR_RETURN(
      weights_, LoadCudaWeights(weights, options_.formats, {&plan_, rank_}, pool, stream_.get()));
  return absl::OkStatus();
}

// The device of the options, once it is known to do what they ask for.
absl::StatusOr<DeviceProperties> DeviceFor(const ModelConfig& config,
                                           const CudaBackendOptions& options) {
  if (options.kv_pages < 0 || options.rows_max < 1 || options.pack_threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows and threads must be positive and kv pages not negative, found ",
                     options.rows_max, ", ", options.pack_threads, ", ", options.kv_pages));
  }
  if (options.formats.precision == Precision::kF32 && options.kernels != Kernels::kReference) {
    return absl::InvalidArgumentError("expected --kernels reference with --precision f32");
  }
  const MlaShape mla = {.latent = config.kv_lora_rank,
                        .rope = config.qk_rope_head_dim,
                        .nope = config.qk_nope_head_dim,
                        .v = config.v_head_dim};
  if (options.kernels != Kernels::kReference && !HasPortableDecode(mla, Storage::kBf16)) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected --kernels reference for latents of ", mla.latent, " + ", mla.rope,
                     " values; the others have attention for 512 + 64"));
  }
  if (options.kernels != Kernels::kReference && !HasPortablePrefill(mla, Storage::kBf16)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "expected --kernels reference for heads of ", mla.nope, " + ", mla.rope, " and ", mla.v,
        " values; the others have prompts' attention for 128 + 64 and 128"));
  }
  TANDEM_ASSIGN_OR_RETURN(DeviceProperties device, UseDevice(options.device));
  if (options.kernels == Kernels::kHopper && device.major != 9) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected compute capability 9.0 for --kernels hopper, found ", device.major,
                     ".", device.minor, " (", device.name, ")"));
  }
  return device;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaRank(const ModelWeights& weights,
                                                      const CudaBackendOptions& options,
                                                      const ShardPlan& plan, int rank,
                                                      Collective* collective) {
  TANDEM_ASSIGN_OR_RETURN(const DeviceProperties device, DeviceFor(weights.config, options));
  auto backend = std::make_unique<CudaBackend>(weights.config, options, plan, rank, collective);
  TANDEM_RETURN_IF_ERROR(backend->Plan(device));
  TANDEM_RETURN_IF_ERROR(backend->Load(weights));
  return backend;
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const ModelWeights& weights,
                                                         const CudaBackendOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const ShardPlan plan, ShardPlan::Make(weights.config, 1));
  return MakeCudaRank(weights, options, plan, 0, nullptr);
}

absl::StatusOr<int64_t> CudaKvPages(const ModelConfig& config, const CudaBackendOptions& options,
                                    const ShardPlan& plan, int rank) {
  TANDEM_ASSIGN_OR_RETURN(const DeviceProperties device, DeviceFor(config, options));
  CudaBackend backend(config, options, plan, rank, nullptr);
  TANDEM_RETURN_IF_ERROR(backend.Plan(device));
  return backend.info().kv_pages;
}

}  // namespace tandem::gpu_worker::cuda
