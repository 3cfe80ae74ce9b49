// LocalExperts: routed experts that the GPU worker computes itself, on its GPU or, without one, on
// its processor: in the expert workers' own format and with their arithmetic, so that a term's bits
// do not depend on who computes it. To dispatch it is one more expert worker, which happens to need
// no network: WorkerPool puts it before all other replicas of the experts it holds, and everything
// behind that is as for any worker.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "gpu_worker/experts/expert_backend.h"
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

  // The device for experts of this model; asked once.
  using MakeBackend =
      std::function<absl::StatusOr<std::unique_ptr<ExpertBackend>>(const ModelConfig& config)>;
  struct Options {
    ExpertStore::Options store;
    int threads = 1;                     // of the processor
    MakeBackend make_backend = nullptr;  // null: the processor computes
  };
  // Reads, packs and proves the experts of `hot`, and gives them to the device, if there is one,
  // layer by layer: main memory never holds more than a layer of them then. FAILED_PRECONDITION
  // when the list is of another model; otherwise errors are those of ExpertStore::Open and Place,
  // and the device's.
  static absl::StatusOr<std::unique_ptr<LocalExperts>> Load(const Options& options,
                                                            const HotExperts& hot);
  // Answers what is queued first.
  ~LocalExperts();

  // What WorkerPool is told; this must outlive the pool.
  LocalReplicas replicas();
  int64_t weight_bytes() const { return weight_bytes_; }
  int64_t experts() const { return static_cast<int64_t>(keys_.size()); }

 private:
  class Way;
  struct Job;

  LocalExperts(std::unique_ptr<ExpertStore> store, std::unique_ptr<ExpertBackend> device,
               std::set<ExpertKey> keys, int64_t weight_bytes, int threads);
  void ThreadMain();
  absl::StatusOr<rpc::Answer> Answer(const Job& job);
  FfnBatch BatchOf(const Job& job, std::byte* sums, uint8_t* flags) const;

  const std::unique_ptr<ExpertStore> store_;
  const std::unique_ptr<ExpertBackend> device_;    // null: the processor computes
  const std::shared_ptr<const HeldExperts> held_;  // none with a device
  const std::set<ExpertKey> keys_;
  const int64_t weight_bytes_;
  base::ThreadPool pool_;
  ExpertFfn ffn_;
  base::BoundedQueue<Job> queue_;
  std::thread thread_;  // last: uses all of the above
};

}  // namespace tandem::gpu_worker
