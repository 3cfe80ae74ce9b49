#include "gpu_worker/backend/cuda/step_clock.h"

#include <utility>

#include "absl/time/time.h"
#include "lib/base/clock.h"

namespace tandem::gpu_worker::cuda {

void StepClock::Turn(bool on) {
  on_ = on;
  spans_.clear();
  if (!on) return;
  if (base_ == nullptr) base_ = NewEvent();
  Record(base_.get(), stream_);
  Synchronize(base_.get());
  base_ns_ = absl::ToInt64Nanoseconds(base::RealClock().Monotonic());
}

OwnedEvent StepClock::TakeEvent() {
  if (spare_.empty()) return NewEvent();
  OwnedEvent event = std::move(spare_.back());
  spare_.pop_back();
  return event;
}

StepClock::Noted StepClock::Span(const char* name, int slot, int64_t layer) {
  if (!on_) return {nullptr, 0};
  Open open{{name, slot, layer, 0, 0}, TakeEvent(), TakeEvent()};
  Record(open.begin.get(), stream_);
  spans_.push_back(std::move(open));
  return {this, spans_.size() - 1};
}

StepClock::Noted::~Noted() {
  if (clock_ != nullptr) Record(clock_->spans_[index_].end.get(), clock_->stream_);
}

std::vector<DeviceSpan> StepClock::Take() {
  std::vector<DeviceSpan> spans;
  if (spans_.empty()) return spans;
  Synchronize(stream_);
  for (Open& open : spans_) {
    const auto at = [this](const OwnedEvent& event) {
      return base_ns_ + static_cast<int64_t>(1e6 * MillisecondsBetween(base_.get(), event.get()));
    };
    open.span.begin_ns = at(open.begin);
    open.span.end_ns = at(open.end);
    spans.push_back(open.span);
    spare_.push_back(std::move(open.begin));
    spare_.push_back(std::move(open.end));
  }
  spans_.clear();
  return spans;
}

}  // namespace tandem::gpu_worker::cuda
