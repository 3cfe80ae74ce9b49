// Attention: projections, rotation, the latent cache, prompts and generated rows.
#include "gpu_worker/backend/cuda/cuda_forward.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"
#include "gpu_worker/backend/cuda/kernels/columns/columns.h"

namespace tandem::gpu_worker::cuda {

void CudaBackend::ProjectAndCache(int64_t layer, const DeviceRows& h, DeviceRows& q) {
  const CudaLayer& w = weights_.layers[layer];
  const int64_t stride = w.q_kv_a.stride;
  void* const to = AsCuda(q).data();
  ProjectPair({"query_key_value", "query", "key_value"}, layer, w.q_kv_a, InputsOf(h),
              scratch_.q_kv);
  const bool has_q_b = w.q_b.outputs > 0, fp8 = IsFp8(w.q_b);
  if (has_q_b) {
    void* const normed = fp8 ? nullptr : scratch_.q_kv;
    const Fp8Scratch quantized = fp8 ? scratch_.inner : Fp8Scratch{};
    Normalize("query_norm", layer,
              {.x = scratch_.q_kv,
               .x_stride = stride,
               .weight = w.q_a_norm,
               .cols = config_.q_lora_rank,
               .out = normed,
               .out_stride = stride},
              quantized);
    Project("query_b", layer, w.q_b, {normed, stride, Rows(quantized)}, to, AsCuda(q).cols());
  }
  const auto* const kv =
      static_cast<const std::byte*>(scratch_.q_kv) + w.q_kv_a.second_begin * BytesOf(storage_);
  Do(
      "rope", layer,
      [=, this](Stream stream) {
        RotateQueries({.storage = storage_,
                       .rope = Tables(),
                       .heads = heads_,
                       .head_dim = config_.qk_head_dim(),
                       .rows = slot().padded,
                       .q = to,
                       .from = has_q_b ? nullptr : scratch_.q_kv,
                       .from_stride = stride},
                      stream);
        FinishKeys({.storage = storage_,
                    .kv = kv,
                    .kv_stride = stride,
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

void CudaBackend::Attend(int64_t layer, const DeviceRows& q, DeviceRows& attended) {
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

void CudaBackend::AddAttentionOutput(int64_t layer, const DeviceRows& attended, DeviceRows& x) {
  const CudaLayer& w = weights_.layers[layer];
  const void* heads = AsCuda(attended).data();
  if (collective_ != nullptr) {
    Gather(layer, plan_.attended(), heads, scratch_.whole);
    heads = scratch_.whole;
  }
  ProjectWhole("attention_out", layer, w.o, w.o_split, {heads, plan_.attended().total(), {}},
               scratch_.delta);
  AddDelta(layer, x);
}

void CudaBackend::AttendAbsorbed(int64_t layer, const void* q, void* attended, Stream stream) {
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

void CudaBackend::AttendPrompt(int64_t layer, const Segment& segment, const void* q, void* attended,
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

}  // namespace tandem::gpu_worker::cuda
