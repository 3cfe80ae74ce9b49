// StepTrace: when a step did what, for people who look at a time line (docs/trace.md). Keeps the
// last steps in bounded memory; the engine's thread fills it, any thread may read it. Nobody pays
// for it who has none: every place that notes something asks a pointer first.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/experts/frame_span.h"

namespace tandem::gpu_worker {

// The slot of spans that belong to no half.
inline constexpr int kNoSlot = -1;

// What the engine's thread did.
struct HostSpan {
  const char* name = "";  // a literal
  int slot = kNoSlot;
  int64_t layer = -1;    // -1: outside the layers
  int64_t begin_ns = 0;  // CLOCK_MONOTONIC
  int64_t end_ns = 0;
};

struct TracedStep {
  uint64_t step_id = 0;
  int64_t rows = 0;
  int halves = 0;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  std::vector<HostSpan> host;
  std::vector<DeviceSpan> device;
  std::vector<FrameSpan> frames;
};

class StepTrace {
 public:
  // Keeps the last `steps_max` steps.
  explicit StepTrace(int64_t steps_max) : steps_max_(steps_max) {}

  // The engine's thread. A step is open between BeginStep and EndStep; Add belongs in between.
  void BeginStep(uint64_t step_id);
  void Add(const HostSpan& span);
  void EndStep(int64_t rows, int halves, std::vector<DeviceSpan> device,
               std::vector<FrameSpan> frames);

  // Any thread. The steps that are kept, oldest first.
  std::vector<std::shared_ptr<const TracedStep>> Steps() const;
  // How many steps were ever traced.
  int64_t steps_seen() const;
  int64_t steps_max() const { return steps_max_; }

 private:
  const int64_t steps_max_;
  std::shared_ptr<TracedStep> open_;
  mutable absl::Mutex mutex_;
  std::deque<std::shared_ptr<const TracedStep>> steps_ ABSL_GUARDED_BY(mutex_);
  int64_t steps_seen_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Notes what happens during its life.
class TraceScope {
 public:
  // `trace` may be null; `name` is a literal.
  TraceScope(StepTrace* trace, const char* name, int slot = kNoSlot, int64_t layer = -1)
      : trace_(trace), span_{name, slot, layer, trace == nullptr ? 0 : Now(), 0} {}
  ~TraceScope() {
    if (trace_ == nullptr) return;
    span_.end_ns = Now();
    trace_->Add(span_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  static int64_t Now();

  StepTrace* const trace_;
  HostSpan span_;
};

}  // namespace tandem::gpu_worker
