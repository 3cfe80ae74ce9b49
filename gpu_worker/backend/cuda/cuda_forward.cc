// Steps of the forward pass but attention's.
#include "gpu_worker/backend/cuda/cuda_forward.h"

#include <algorithm>
#include <array>

#include "gpu_worker/backend/cuda/kernels/columns/columns.h"
#include "gpu_worker/backend/shard/device_parts.h"

namespace tandem::gpu_worker::cuda {

namespace {

// Steps of generated rows are padded to the next of these, so that a handful of graphs serves all.
constexpr std::array<int64_t, 8> kGraphRows = {1, 2, 4, 8, 16, 24, 32, 64};

}  // namespace

void CudaBackend::BeginStep(int slot, const StepBatch& step) {
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

void CudaBackend::Embed(DeviceRows& x) {
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

void CudaBackend::Norm(int64_t layer, NormSite site, const DeviceRows& x, DeviceRows& out) {
  const CudaLayer& w = weights_.layers[layer];
  const float* weight = site == NormSite::kBeforeAttention ? w.attention_norm : w.ffn_norm;
  Normalize("norm", layer, AsCuda(x).data(), weight, config_.hidden_size, AsCuda(out).data());
}

void CudaBackend::AddDenseFfn(int64_t layer, const DeviceRows& h, DeviceRows& x) {
  TANDEM_CHECK(weights_.layers[layer].dense.has_value());
  Ffn(layer, *weights_.layers[layer].dense, h, scratch_.delta);
  AddDelta(layer, x);
}

void CudaBackend::StartRoute(int64_t layer, const DeviceRows& h,
                             const std::vector<uint32_t>* forced_ids) {
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

void CudaBackend::StartReadRows(const DeviceRows& h) {
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
  CopyToHost(s.expert_weights.data(), mine.expert_weights, choices * sizeof(float), copies_.get());
  CopyToHost(s.wire.data(), mine.wire, bytes, copies_.get());
  Record(s.read_done.get(), copies_.get());
}

void CudaBackend::FinishRoute(RouterChoice* choice) {
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

void CudaBackend::SharedFfn(int64_t layer, const DeviceRows& h, DeviceRows& out) {
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

void CudaBackend::AddMoe(const DeviceRows& shared, DeviceRows& x) {
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

LinearArgs CudaBackend::LinearOf(const DeviceMatrix& w, const void* x, int64_t x_stride,
                                 int64_t rows, void* y, int64_t y_stride, Storage y_storage) const {
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

void CudaBackend::Project(const char* name, int64_t layer, const DeviceMatrix& w, const void* x,
                          int64_t x_stride, void* y, int64_t y_stride) {
  if (w.outputs == 0) return;  // a rank without a share
  const LinearArgs args = LinearOf(w, x, x_stride, slot().padded, y, y_stride, storage_);
  Do(
      name, layer, [args](Stream stream) { cuda::Linear(args, stream); },
      static_cast<const std::byte*>(x), static_cast<const std::byte*>(y));
}

void CudaBackend::Normalize(const char* name, int64_t layer, const void* x, const float* weight,
                            int64_t cols, void* out) {
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

void CudaBackend::AddDelta(int64_t layer, DeviceRows& x) {
  const int64_t count = slot().padded * config_.hidden_size;
  Do(
      "add", layer,
      [=, this, to = AsCuda(x).data()](Stream stream) {
        cuda::Add(storage_, scratch_.delta, count, to, stream);
      },
      static_cast<const std::byte*>(AsCuda(x).data()));
}

void CudaBackend::Ffn(int64_t layer, const CudaFfn& ffn, const DeviceRows& h, void* out) {
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

void CudaBackend::ProjectWhole(const char* name, int64_t layer, const DeviceMatrix& w,
                               const Split& split, const void* x, int64_t x_stride, void* y) {
  if (collective_ == nullptr) {
    Project(name, layer, w, x, x_stride, y, split.total());
    return;
  }
  Project(name, layer, w, x, x_stride, scratch_.part, split.part_max());
  Gather(layer, split, scratch_.part, y);
}

void CudaBackend::Gather(int64_t layer, const Split& split, const void* part, void* whole) {
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

void CudaBackend::Widen(int64_t cols, int64_t part_max) {
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

}  // namespace tandem::gpu_worker::cuda
