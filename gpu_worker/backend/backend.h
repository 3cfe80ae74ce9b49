// Backend: the third of the project's interfaces, the arithmetic of one forward pass on one kind of
// device. The engine speaks in steps of the network ("norm", "project and cache", "attend"); where
// the rows lie, how weights are packed and which kernel runs is the backend's business, so nothing
// here assumes that activations are readable by the CPU. Only what leaves the device is host
// memory: router choices, rows for the wire, what is asked about logits.
//
// Two steps may be in flight, one in each slot: while the rows of one are away at the expert
// workers the device works on the other. Calls return before the device is done, except where they
// hand something to the host, and take effect in the order in which they were made, whatever their
// slot: what one call has read another may overwrite.
//
// Bits: a row's result depends on that row, its sequence's cached keys and the weights, never on
// the other rows of the step, nor on what is in the other slot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gpu_worker/backend/row_logits.h"

namespace tandem::gpu_worker {

// Tokens per KV page (architecture.md, "Text"); also the block of keys of attention's fixed
// summation order.
inline constexpr int64_t kPageTokens = 64;

// Steps that may be in flight at once.
inline constexpr int kStepSlots = 2;

enum class Precision { kBf16, kF32 };
enum class AttentionKernel { kReference, kFlash };
enum class RowKind { kPrefill, kDecode };

// Consecutive rows of one sequence in one step. Its rows attend to all positions of the sequence up
// to their own.
struct Segment {
  RowKind kind = RowKind::kPrefill;
  int64_t row_begin = 0;  // first row in the step
  int64_t rows = 0;
  int64_t start_position = 0;  // position of the first row
  std::span<const uint32_t>
      pages;  // page table of the sequence, covering the last row; lives during the step
};

// The rows of one forward pass.
struct StepBatch {
  std::vector<uint32_t> token_ids;  // [rows], each below the vocabulary size
  std::vector<int64_t> positions;   // [rows]
  std::vector<Segment> segments;    // cover the rows in order
  int64_t rows() const { return static_cast<int64_t>(token_ids.size()); }
};

// The experts of each row of one layer, best first.
struct RouterChoice {
  int64_t experts_per_row = 0;
  std::vector<uint32_t> expert_ids;  // [rows, experts_per_row]
  std::vector<float> weights;  // [rows, experts_per_row], normalized and scaled as the model wants
};

// Device memory for rows of activations; made and understood by one backend.
class DeviceRows {
 public:
  virtual ~DeviceRows() = default;
};

struct BackendInfo {
  std::string name;  // "host" or "cuda"
  Precision precision = Precision::kBf16;
  AttentionKernel attention = AttentionKernel::kFlash;
  int64_t kv_pages = 0;
  int64_t rows_max = 0;        // rows of one step
  int64_t logit_rows_max = 0;  // rows of one ComputeLogits call
  // Whether calls return before the device is done. The caller then hands over the shared expert
  // before it waits for the rows to send, else after they are sent.
  bool asynchronous = false;

  // Rows of a step in `slot`. Two steps share what one may have, the smaller one lies in slot 1.
  int64_t slot_rows_max(int slot) const { return slot == 0 ? rows_max : rows_max / 2; }
};

// A row of activations after the last layer, in the rows of either slot.
struct LogitRow {
  const DeviceRows* x = nullptr;
  int64_t row = 0;
};

// When the device was busy with what, for traces.
struct DeviceSpan {
  const char* name = "";  // a literal
  int slot = 0;
  int64_t layer = -1;    // -1: outside the layers
  int64_t begin_ns = 0;  // CLOCK_MONOTONIC
  int64_t end_ns = 0;
};

enum class RowShape { kHidden, kQueries, kAttended };
enum class NormSite { kBeforeAttention, kBeforeFfn };

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const BackendInfo& info() const = 0;

  // Room for `rows` rows: kHidden [hidden], kQueries [heads * qk_head], kAttended [heads * v].
  virtual std::unique_ptr<DeviceRows> NewRows(RowShape shape, int64_t rows) = 0;

  // Takes the step's ids, positions and page tables (at most slot_rows_max(slot) rows) to the
  // device, into the place of the slot's last step, and selects the slot. `step` itself is needed
  // only during the call, page tables until the slot's next BeginStep.
  virtual void BeginStep(int slot, const StepBatch& step) = 0;
  // The calls below work on the rows of the slot that was last selected or begun.
  virtual void SelectSlot(int slot) = 0;

  // Host memory of a slot, pinned where the device wants it so, for as many rows as the slot may
  // have, at the same place as long as the backend lives.
  // [rows, hidden] bf16 or f32 by precision: holds what StartReadRows read, from FinishRoute until
  // the slot's next StartReadRows.
  virtual std::span<std::byte> WireRows(int slot) = 0;
  // [rows, hidden] f32: what AddMoe adds; may be written from FinishRoute until AddMoe.
  virtual std::span<float> RoutedRows(int slot) = 0;

  virtual void Embed(DeviceRows& x) = 0;
  // out = rms_norm(x) * weight.
  virtual void Norm(int64_t layer, NormSite site, const DeviceRows& x, DeviceRows& out) = 0;
  // q = queries of h with rope applied; writes the latent and rope key of each row into the rows'
  // KV pages.
  virtual void ProjectAndCache(int64_t layer, const DeviceRows& h, DeviceRows& q) = 0;
  // Attention of each row over its cached keys: prefill rows by the prefill kernel, decode rows by
  // the decode kernel.
  virtual void Attend(int64_t layer, const DeviceRows& q, DeviceRows& attended) = 0;
  // x += W_o attended.
  virtual void AddAttentionOutput(int64_t layer, const DeviceRows& attended, DeviceRows& x) = 0;
  // x += ffn(h), for dense layers.
  virtual void AddDenseFfn(int64_t layer, const DeviceRows& h, DeviceRows& x) = 0;

  // Begins to choose experts, in f32. `forced_ids`: null, or [rows, experts_per_row] ids taken
  // instead of the router's own choice (weights still come from the scores); for tests that compare
  // arithmetic apart from ties in the choice. They must live until FinishRoute.
  virtual void StartRoute(int64_t layer, const DeviceRows& h,
                          const std::vector<uint32_t>* forced_ids) = 0;
  // Begins to copy all rows of h to the slot's WireRows.
  virtual void StartReadRows(const DeviceRows& h) = 0;
  // Waits until what StartRoute and StartReadRows of this slot began is in host memory, not for
  // what was called after them. No other slot's FinishRoute lies between.
  virtual void FinishRoute(RouterChoice* choice) = 0;
  // out = shared expert of h; zeros in a layer without one.
  virtual void SharedFfn(int64_t layer, const DeviceRows& h, DeviceRows& out) = 0;
  // x += shared + the slot's RoutedRows, one rounding.
  virtual void AddMoe(const DeviceRows& shared, DeviceRows& x) = 0;

  // Final norm and f32 logits of the given rows (at most logit_rows_max, of either slot). They stay
  // where the device has them, to be asked about until the next call of this; the same object each
  // time, the backend's.
  virtual RowLogits& ComputeLogits(std::span<const LogitRow> rows) = 0;

  // Whether to note when the device does what. Off at first.
  virtual void NoteDeviceSpans(bool on) = 0;
  // What was noted since the last call, in no order. Waits until the device has done all it has.
  virtual std::vector<DeviceSpan> TakeDeviceSpans() = 0;
};

}  // namespace tandem::gpu_worker
