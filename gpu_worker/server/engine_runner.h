// EngineRunner: the one thread that owns the engine. Streams hand it plans through a bounded queue;
// a plan of another stream than the last one's makes the engine forget everything first, so that a
// coordinator and the worker never disagree.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

#include "absl/time/time.h"
#include "gpu_worker/engine/engine.h"
#include "gpu_worker/experts/link.h"
#include "gpu_worker/server/engine_metrics.h"
#include "lib/base/bounded_queue.h"
#include "proto/engine.pb.h"

namespace tandem::gpu_worker {

class EngineRunner {
 public:
  using Done = std::function<void(engine::v1::StepResult)>;

  // `engine`, `experts` (may be null) and `metrics` must outlive this. Starts the thread.
  EngineRunner(Engine& engine, const ExpertLink* experts, EngineMetrics& metrics);
  // Ends after the step that is running.
  ~EngineRunner();

  // A number for a new stream; plans of earlier ones are dropped unanswered from now on.
  uint64_t OpenStream();
  // The stream is over: its sequences are dropped.
  void CloseStream(uint64_t stream);
  // Queues a plan; `done` is called once on the engine's thread unless a newer stream was opened.
  // False when the queue is full.
  bool Submit(uint64_t stream, engine::v1::StepPlan plan, Done done);

  // Sequences that live; for draining.
  int64_t live_sequences() const { return live_sequences_; }

 private:
  struct Task {
    uint64_t stream = 0;
    engine::v1::StepPlan plan;
    absl::Time received;
    Done done;  // null: the stream was closed
  };

  void Loop();
  void Execute(const Task& task);

  Engine& engine_;
  const ExpertLink* experts_;
  EngineMetrics& metrics_;
  base::BoundedQueue<Task> queue_;
  std::atomic<uint64_t> stream_{0};  // the newest
  std::atomic<int64_t> live_sequences_{0};
  uint64_t engine_stream_ = 0;  // whose sequences the engine holds
  std::thread thread_;
};

}  // namespace tandem::gpu_worker
