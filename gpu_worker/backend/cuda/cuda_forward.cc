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
  void* const whole = Change(x);
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
  const int64_t hidden = config_.hidden_size;
  const bool fp8 = ReadsFp8(w, site);
  void* const to = Change(out);
  Normalize("norm", layer,
            {.x = AsCuda(x).data(),
             .x_stride = hidden,
             .weight = weight,
             .cols = hidden,
             .out = to,
             .out_stride = hidden},
            fp8 ? scratch_.normed : Fp8Scratch{});
  if (fp8) normed_ = to;
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
  void* const to = AsCuda(out).data();
  OpenSegment(/*part=*/1, layer);
  if (shared.has_value()) {
    Ffn(layer, *shared, h, to);
  } else {
    const int64_t bytes = slot().padded * config_.hidden_size * BytesOf(storage_);
    Do(
        "no_shared", layer, [=](Stream stream) { FillBytes(to, 0, bytes, stream); },
        static_cast<const std::byte*>(to));
  }
  Change(out);
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
      [=, this, from = AsCuda(shared).data(), to = Change(x)](Stream stream) {
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

void CudaBackend::Project(const char* name, int64_t layer, const DeviceMatrix& w,
                          const InputRows& x, void* y, int64_t y_stride) {
  if (w.outputs == 0) return;  // not there, or a rank without a share
  LinearArgs args = LinearOf(w, x.x, x.stride, slot().padded, y, y_stride, storage_);
  if (IsFp8(w)) args.x_fp8 = x.fp8;
  Do(
      name, layer, [args](Stream stream) { cuda::Linear(args, stream); },
      static_cast<const std::byte*>(x.x), args.x_fp8.codes, static_cast<const std::byte*>(y));
}

void CudaBackend::ProjectPair(const PairNames& names, int64_t layer, const CudaPair& pair,
                              const InputRows& x, void* y) {
  auto* const second = static_cast<std::byte*>(y) + pair.second_begin * BytesOf(storage_);
  Project(names.both, layer, pair.both, x, y, pair.stride);
  Project(names.first, layer, pair.first, x, y, pair.stride);
  Project(names.second, layer, pair.second, x, second, pair.stride);
}

void CudaBackend::Normalize(const char* name, int64_t layer, RmsNormArgs args,
                            const Fp8Scratch& fp8) {
  args.storage = storage_;
  args.eps = static_cast<float>(config_.rms_norm_eps);
  args.rows = slot().padded;
  Do(
      name, layer,
      [args, fp8](Stream stream) {
        fp8.codes == nullptr ? RmsNorm(args, stream)
                             : RmsNormFp8(args, fp8.codes, fp8.scales, stream);
      },
      static_cast<const std::byte*>(args.x), args.weight, fp8.codes,
      static_cast<const std::byte*>(args.out));
}

void CudaBackend::AddDelta(int64_t layer, DeviceRows& x) {
  const int64_t count = slot().padded * config_.hidden_size;
  Do(
      "add", layer,
      [=, this, to = Change(x)](Stream stream) {
        cuda::Add(storage_, scratch_.delta, count, to, stream);
      },
      static_cast<const std::byte*>(AsCuda(x).data()));
}

void CudaBackend::Ffn(int64_t layer, const CudaFfn& ffn, const DeviceRows& h, void* out) {
  ProjectPair({"ffn_gate_up", "ffn_gate", "ffn_up"}, layer, ffn.gate_up, InputsOf(h),
              scratch_.gate_up);
  ProjectWhole("ffn_down", layer, ffn.down, ffn.hidden, Activate(layer, ffn), out);
}

CudaBackend::InputRows CudaBackend::Activate(int64_t layer, const CudaFfn& ffn) {
  const int64_t stride = ffn.gate_up.stride, cols = ffn.inter.part_max();
  const auto* const up = static_cast<const std::byte*>(scratch_.gate_up) +
                         ffn.gate_up.second_begin * BytesOf(storage_);
  if (collective_ == nullptr && IsFp8(ffn.down)) {
    Do("ffn_activation", layer, [=, this](Stream stream) {
      SwiGluFp8(static_cast<const uint16_t*>(scratch_.gate_up),
                reinterpret_cast<const uint16_t*>(up), stride, cols, slot().padded,
                scratch_.inner.codes, scratch_.inner.scales, stream);
    });
    return {nullptr, 0, Rows(scratch_.inner)};
  }
  SwiGluArgs args = {.storage = storage_,
                     .gate = scratch_.gate_up,
                     .up = up,
                     .stride = stride,
                     .cols = cols,
                     .rows = slot().padded,
                     .out = scratch_.gate_up,
                     .out_stride = stride};
  if (collective_ != nullptr) {
    args.out = scratch_.part;  // parts are gathered side by side
    args.out_stride = cols;
  }
  Do("ffn_activation", layer, [args](Stream stream) { SwiGlu(args, stream); });
  if (collective_ == nullptr) return {args.out, stride, {}};
  Gather(layer, ffn.inter, scratch_.part, scratch_.whole);
  return {scratch_.whole, ffn.inter.total(), {}};
}

void CudaBackend::ProjectWhole(const char* name, int64_t layer, const DeviceMatrix& w,
                               const Split& split, const InputRows& x, void* y) {
  if (collective_ == nullptr) {
    Project(name, layer, w, x, y, split.total());
    return;
  }
  Project(name, layer, w, x, scratch_.part, split.part_max());
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
