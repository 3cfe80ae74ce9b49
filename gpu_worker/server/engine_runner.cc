#include "gpu_worker/server/engine_runner.h"

#include <utility>

#include "absl/time/clock.h"

namespace tandem::gpu_worker {
namespace {

// Plans are answered one by one and a coordinator waits for each; a longer queue means a peer that
// does not.
constexpr size_t kPlansQueuedMax = 16;

// How long the idle thread sleeps between looks at a closed queue.
constexpr absl::Duration kIdleWait = absl::Seconds(1);

}  // namespace

EngineRunner::EngineRunner(Engine& engine, const ExpertLink* experts, EngineMetrics& metrics)
    : engine_(engine),
      experts_(experts),
      metrics_(metrics),
      queue_(kPlansQueuedMax),
      thread_([this] { Loop(); }) {}

EngineRunner::~EngineRunner() {
  stream_ = UINT64_MAX;  // what is queued is dropped
  queue_.Close();
  thread_.join();
}

uint64_t EngineRunner::OpenStream() { return ++stream_; }

void EngineRunner::CloseStream(uint64_t stream) {
  // When the queue is full the next plan of another stream resets the engine anyway.
  queue_.TryPush(Task{stream, {}, absl::Now(), nullptr});
}

bool EngineRunner::Submit(uint64_t stream, engine::v1::StepPlan plan, Done done) {
  return queue_.TryPush(Task{stream, std::move(plan), absl::Now(), std::move(done)});
}

void EngineRunner::Loop() {
  while (true) {
    const std::optional<Task> task = queue_.PopFor(kIdleWait);
    if (task.has_value()) {
      Execute(*task);
    } else if (queue_.closed()) {
      return;
    }
  }
}

void EngineRunner::Execute(const Task& task) {
  if (task.stream != stream_) return;
  if (task.stream != engine_stream_ || task.done == nullptr) engine_.Reset();
  engine_stream_ = task.stream;
  if (task.done != nullptr) {
    engine::v1::StepResult result = engine_.Run(task.plan, task.received);
    metrics_.Observe(task.plan, result, engine_, experts_);
    live_sequences_ = static_cast<int64_t>(engine_.sequences().size());
    task.done(std::move(result));
    return;
  }
  live_sequences_ = 0;
  metrics_.ObserveReset();
}

}  // namespace tandem::gpu_worker
