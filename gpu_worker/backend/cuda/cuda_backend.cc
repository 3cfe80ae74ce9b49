#include "gpu_worker/backend/cuda/cuda_backend.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/cuda/cuda_forward.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker::cuda {

namespace {

// Rows of one ComputeLogits call: their f32 logits over the largest vocabulary (163,840) take 84
// MB. The weights of the head are read once a call.
constexpr int64_t kLogitRowsMax = 128;

}  // namespace

// Scratch, the two slots' step buffers, and the rows that Forward asks for: x, h, the shared
// expert's, queries and attended of each slot.
size_t CudaBackend::ActivationBytes(const ScratchShape& shape) const {
  DeviceArena count;
  TakeScratch(shape, count);
  size_t bytes = count.used() + kStepSlots * StepBuffers::BytesFor(shape.step) +
                 CudaRowLogits::DeviceBytesFor(LogitsShape());
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
  TANDEM_ASSIGN_OR_RETURN(logits_,
                          CudaRowLogits::Create(LogitsShape(), scratch_.logits, stream_.get()));
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
  info_ = {.name = device.emulated ? "cuda (emulated)" : "cuda",
           .precision = options_.formats.precision,
           .attention = options_.formats.attention,
           .kv_pages = options_.kv_pages,
           .rows_max = options_.rows_max,
           .logit_rows_max = std::min(kLogitRowsMax, options_.rows_max),
           .asynchronous = true};
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

namespace {

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
