// The CUDA backend's class, for the files that share its work: cuda_backend.cc makes it,
// cuda_forward.cc, cuda_attention.cc and cuda_logits.cc compute. Others include cuda_backend.h.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/hash/hash.h"
#include "gpu_worker/backend/cuda/cuda_backend.h"
#include "gpu_worker/backend/cuda/cuda_row_logits.h"
#include "gpu_worker/backend/cuda/cuda_scratch.h"
#include "gpu_worker/backend/cuda/cuda_shapes.h"
#include "gpu_worker/backend/cuda/device_arena.h"
#include "gpu_worker/backend/cuda/graph_segments.h"
#include "gpu_worker/backend/cuda/memory_plan.h"
#include "gpu_worker/backend/cuda/step_buffers.h"
#include "gpu_worker/backend/cuda/step_clock.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {

class CudaRows : public DeviceRows {
 public:
  CudaRows(DeviceMemory memory, int64_t cols) : memory_(std::move(memory)), cols_(cols) {}
  void* data() const { return memory_.data(); }
  int64_t cols() const { return cols_; }

 private:
  DeviceMemory memory_;
  int64_t cols_;
};

inline const CudaRows& AsCuda(const DeviceRows& rows) { return static_cast<const CudaRows&>(rows); }

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
  void BeginStep(int slot, const StepBatch& step) override;

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
  void Embed(DeviceRows& x) override;
  void Norm(int64_t layer, NormSite site, const DeviceRows& x, DeviceRows& out) override;
  void ProjectAndCache(int64_t layer, const DeviceRows& h, DeviceRows& q) override;
  void Attend(int64_t layer, const DeviceRows& q, DeviceRows& attended) override;
  void AddAttentionOutput(int64_t layer, const DeviceRows& attended, DeviceRows& x) override;
  void AddDenseFfn(int64_t layer, const DeviceRows& h, DeviceRows& x) override;
  void StartRoute(int64_t layer, const DeviceRows& h,
                  const std::vector<uint32_t>* forced_ids) override;
  // The rows are set aside first, so that the copy to the host need not be over before they are
  // overwritten.
  void StartReadRows(const DeviceRows& h) override;
  void FinishRoute(RouterChoice* choice) override;
  void SharedFfn(int64_t layer, const DeviceRows& h, DeviceRows& out) override;
  void AddMoe(const DeviceRows& shared, DeviceRows& x) override;
  RowLogits& ComputeLogits(std::span<const LogitRow> rows) override;

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
  // Rows that linear layers read: in the storage's format, and quantized where codes are given.
  struct InputRows {
    const void* x = nullptr;
    int64_t stride = 0;
    Fp8Rows fp8;
  };
  InputRows InputsOf(const DeviceRows& h) const {
    const void* const x = AsCuda(h).data();
    return {x, AsCuda(h).cols(), x == normed_ ? Rows(scratch_.normed) : Fp8Rows{}};
  }
  static Fp8Rows Rows(const Fp8Scratch& s) { return {s.codes, s.scales}; }
  // Rows are about to change: what was quantized of them is no longer theirs.
  void* Change(DeviceRows& rows) {
    if (AsCuda(rows).data() == normed_) normed_ = nullptr;
    return AsCuda(rows).data();
  }
  LinearArgs LinearOf(const DeviceMatrix& w, const void* x, int64_t x_stride, int64_t rows, void* y,
                      int64_t y_stride, Storage y_storage) const;
  void Project(const char* name, int64_t layer, const DeviceMatrix& w, const InputRows& x, void* y,
               int64_t y_stride);
  struct PairNames {
    const char *both, *first, *second;
  };
  // y [rows, pair.stride]
  void ProjectPair(const PairNames& names, int64_t layer, const CudaPair& pair, const InputRows& x,
                   void* y);
  // fp8: the rows' codes and scales as well, or alone where args.out is null.
  void Normalize(const char* name, int64_t layer, RmsNormArgs args, const Fp8Scratch& fp8);
  void AddDelta(int64_t layer, DeviceRows& x);
  // silu(gate) * up of scratch_.gate_up, as the layer's last product reads it.
  InputRows Activate(int64_t layer, const CudaFfn& ffn);
  // out = down(silu(gate h) * up h)
  void Ffn(int64_t layer, const CudaFfn& ffn, const DeviceRows& h, void* out);
  // The same as Project for a layer whose outputs ranks share: whole rows in y.
  void ProjectWhole(const char* name, int64_t layer, const DeviceMatrix& w, const Split& split,
                    const InputRows& x, void* y);
  // whole [padded, split.total()] from every rank's part [padded, split.part_max()]. An error is
  // the collective's and final; its owner looks at it after each call.
  void Gather(int64_t layer, const Split& split, const void* part, void* whole);
  // Rows of `cols` in scratch_.part are moved apart to part_max: the last rank's share of a matrix
  // may be smaller than the others'.
  void Widen(int64_t cols, int64_t part_max);
  // Rows of the decode range: queries into latent space, attention over latents, values out of it.
  void AttendAbsorbed(int64_t layer, const void* q, void* attended, Stream stream);
  void AttendPrompt(int64_t layer, const Segment& segment, const void* q, void* attended,
                    Stream stream);

  RowLogitsShape LogitsShape() const {
    return {info_.logit_rows_max, config_.vocab_size, weights_.vocab_split.of(rank_)};
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
  std::unique_ptr<CudaRowLogits> logits_;
  BackendInfo info_;
  std::vector<std::unique_ptr<Slot>> slots_;
  int slot_ = 0;
  const void* normed_ = nullptr;  // the rows that scratch_.normed has quantized
};

}  // namespace tandem::gpu_worker::cuda
