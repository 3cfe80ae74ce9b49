// Backend: the third of the project's interfaces, the arithmetic of one forward pass on one kind of
// device. The engine speaks in steps of the network ("norm", "project and cache", "attend"); where
// the rows lie, how weights are packed and which kernel runs is the backend's business, so nothing
// here assumes that activations are readable by the CPU. Only what leaves the device is host
// memory: router choices, rows for the wire, logits.
//
// Bits: a row's result depends on that row, its sequence's cached keys and the weights, never on
// the other rows of the step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace tandem::gpu_worker {

// Tokens per KV page (architecture.md, "Text"); also the block of keys of attention's fixed
// summation order.
inline constexpr int64_t kPageTokens = 64;

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
  int64_t logit_rows_max = 0;  // rows of one Logits call
};

enum class RowShape { kHidden, kQueries, kAttended };
enum class NormSite { kBeforeAttention, kBeforeFfn };

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const BackendInfo& info() const = 0;

  // Room for rows_max rows: kHidden [hidden], kQueries [heads * qk_head], kAttended [heads * v].
  virtual std::unique_ptr<DeviceRows> NewRows(RowShape shape) = 0;

  // Takes the step's ids, positions and page tables to the device. The calls below work on the rows
  // of the last BeginStep.
  virtual void BeginStep(const StepBatch& step) = 0;

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

  // Chooses experts in f32. `forced_ids`: null, or [rows, experts_per_row] ids taken instead of the
  // router's own choice (weights still come from the scores); for tests that compare arithmetic
  // apart from ties in the choice.
  virtual void Route(int64_t layer, const DeviceRows& h, const std::vector<uint32_t>* forced_ids,
                     RouterChoice* choice) = 0;
  // Copies all rows of h to `wire` [rows, hidden], bf16 or f32 by precision.
  virtual void ReadRows(const DeviceRows& h, std::vector<std::byte>* wire) = 0;
  // out = shared expert of h; zeros in a layer without one. May return before the device is done.
  virtual void SharedFfn(int64_t layer, const DeviceRows& h, DeviceRows& out) = 0;
  // x += shared + routed, one rounding. `routed` [rows, hidden] f32 in host memory.
  virtual void AddMoe(const DeviceRows& shared, std::span<const float> routed, DeviceRows& x) = 0;

  // Final norm and logits of the given rows (at most logit_rows_max): logits [row_ids.size(),
  // vocab] f32 in host memory.
  virtual void Logits(const DeviceRows& x, std::span<const int64_t> row_ids,
                      std::vector<float>* logits) = 0;
};

}  // namespace tandem::gpu_worker
