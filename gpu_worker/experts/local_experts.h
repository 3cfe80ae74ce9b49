// LocalExperts: routed experts that the GPU worker computes itself, in the expert workers' own
// format and with their own arithmetic, so that a term's bits do not depend on who computes it. To
// dispatch it is one more expert worker, which happens to need no network: WorkerPool puts it
// before all other replicas of the experts it holds, and everything behind that is as for any
// worker.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "gpu_worker/experts/worker_pool.h"
#include "lib/base/bounded_queue.h"
#include "lib/experts/expert_ffn.h"
#include "lib/experts/expert_store.h"
#include "lib/model/hot_experts.h"
#include "lib/rpc/transport.h"

namespace tandem::gpu_worker {

class LocalExperts {
 public:
  // No address of a socket, so none can be taken for it.
  static constexpr char kAddress[] = "this-gpu-worker";

  struct Options {
    ExpertStore::Options store;
    int threads = 1;
  };
  // Reads, packs and proves the experts of `hot`. FAILED_PRECONDITION when the list is of another
  // model; otherwise errors are those of ExpertStore::Open and Place.
  static absl::StatusOr<std::unique_ptr<LocalExperts>> Load(const Options& options,
                                                            const HotExperts& hot);
  // Answers what is queued first.
  ~LocalExperts();

  // What WorkerPool is told; this must outlive the pool.
  LocalReplicas replicas();
  int64_t weight_bytes() const { return held_->weight_bytes(); }
  int64_t experts() const { return static_cast<int64_t>(held_->experts().size()); }

 private:
  class Way;
  struct Job;

  LocalExperts(std::unique_ptr<ExpertStore> store, int threads);
  void ThreadMain();
  absl::StatusOr<rpc::Answer> Answer(const Job& job);
  FfnBatch BatchOf(const Job& job, std::byte* sums, uint8_t* flags) const;

  const std::unique_ptr<ExpertStore> store_;
  const std::shared_ptr<const HeldExperts> held_;
  base::ThreadPool pool_;
  ExpertFfn ffn_;
  base::BoundedQueue<Job> queue_;
  std::thread thread_;  // last: uses all of the above
};

}  // namespace tandem::gpu_worker
