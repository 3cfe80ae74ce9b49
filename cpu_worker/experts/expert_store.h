// ExpertStore: the experts placed on this worker. Weights stay in the mapped files; the store
// decides which (layer, expert) pairs are held, proves their bytes before they are, and gives
// memory back when they no longer are.
#pragma once

#include <atomic>
#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "lib/base/thread_pool.h"
#include "lib/kernels/kernel_table.h"
#include "lib/model/model_weights.h"

namespace tandem::cpu_worker {

struct ExpertKey {
  uint32_t layer = 0;
  uint32_t expert = 0;
  auto operator<=>(const ExpertKey&) const = default;
};

// One moment's set of held experts; never changes, so a call computes on the set it was checked
// against.
class HeldExperts {
 public:
  HeldExperts(std::shared_ptr<const ModelWeights> model, std::set<ExpertKey> keys);

  // Null when the expert is not held.
  const FfnWeights* Find(uint32_t layer, uint32_t expert) const;
  const std::set<ExpertKey>& keys() const { return keys_; }
  int64_t weight_bytes() const { return weight_bytes_; }

 private:
  std::shared_ptr<const ModelWeights> model_;
  std::set<ExpertKey> keys_;
  std::vector<std::vector<bool>> held_;  // [layers][experts]
  int64_t weight_bytes_ = 0;
};

// Bytes of one expert's tensors.
int64_t ExpertBytes(const FfnWeights& expert);

class ExpertStore {
 public:
  struct Options {
    std::string model_path;
    LoadOptions load;
    int64_t memory_bytes_max = 0;  // of held experts; 0 is unlimited
    int load_threads = 1;
  };
  // Reads headers only. UNIMPLEMENTED or INVALID_ARGUMENT names the tensor when some expert of the
  // model has a type or size no kernel takes; FAILED_PRECONDITION when the model has no routed
  // experts.
  static absl::StatusOr<std::unique_ptr<ExpertStore>> Open(const Options& options,
                                                           const kernels::KernelTable& table);

  const ModelConfig& config() const { return model_->config; }
  const std::string& digest() const { return model_->digest; }
  std::vector<uint32_t> MoeLayers() const;
  int64_t ExpertBytesMax() const;

  // Makes `wanted` the held set: reads and validates what is new, self-tests one expert of each new
  // combination of types, then switches, then releases what is gone. On an error the held set stays
  // as it was: OUT_OF_RANGE for an expert the model lacks, RESOURCE_EXHAUSTED above the memory
  // limit, DATA_LOSS naming tensor and row, INTERNAL from the self-test, CANCELLED when
  // `keep_going` returned false. One call at a time; readers are never blocked.
  absl::Status Place(const std::set<ExpertKey>& wanted, const std::function<bool()>& keep_going);

  std::shared_ptr<const HeldExperts> held() const;
  // Share of the running Place that is done, 0..1; 1 when none runs.
  double load_fraction() const { return load_fraction_.load(std::memory_order_relaxed); }

 private:
  ExpertStore(std::shared_ptr<const ModelWeights> model, const Options& options,
              const kernels::KernelTable& table);

  absl::Status CheckWanted(const std::set<ExpertKey>& wanted) const;
  absl::Status ProveAll(const std::vector<ExpertKey>& added,
                        const std::function<bool()>& keep_going);
  absl::Status SelfTestNewTypes(const std::vector<ExpertKey>& added);
  const FfnWeights& WeightsOf(const ExpertKey& key) const {
    return model_->layers[key.layer].experts[key.expert];
  }

  const std::shared_ptr<const ModelWeights> model_;
  const int64_t memory_bytes_max_;
  const kernels::KernelTable& table_;
  base::ThreadPool pool_;
  std::set<std::vector<DType>> tested_types_;  // gate, up, down; used by Place only
  std::atomic<double> load_fraction_{1.0};
  mutable absl::Mutex mutex_;
  std::shared_ptr<const HeldExperts> held_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::cpu_worker
