#include "gpu_worker/engine/step_trace.h"

#include <utility>

#include "lib/base/check.h"
#include "lib/rpc/spin_wait.h"

namespace tandem::gpu_worker {

void StepTrace::BeginStep(uint64_t step_id) {
  TANDEM_CHECK(open_ == nullptr);
  open_ = std::make_shared<TracedStep>();
  open_->step_id = step_id;
  open_->begin_ns = rpc::MonotonicNanos();
}

void StepTrace::Add(const HostSpan& span) {
  TANDEM_CHECK(open_ != nullptr);
  open_->host.push_back(span);
}

void StepTrace::EndStep(int64_t rows, int halves, std::vector<DeviceSpan> device,
                        std::vector<FrameSpan> frames) {
  TANDEM_CHECK(open_ != nullptr);
  open_->rows = rows;
  open_->halves = halves;
  open_->device = std::move(device);
  open_->frames = std::move(frames);
  open_->end_ns = rpc::MonotonicNanos();
  absl::MutexLock lock(&mutex_);
  steps_.push_back(std::move(open_));
  open_ = nullptr;
  ++steps_seen_;
  if (static_cast<int64_t>(steps_.size()) > steps_max_) steps_.pop_front();
}

std::vector<std::shared_ptr<const TracedStep>> StepTrace::Steps() const {
  absl::MutexLock lock(&mutex_);
  return {steps_.begin(), steps_.end()};
}

int64_t StepTrace::steps_seen() const {
  absl::MutexLock lock(&mutex_);
  return steps_seen_;
}

int64_t TraceScope::Now() { return rpc::MonotonicNanos(); }

}  // namespace tandem::gpu_worker
