// ExpertStore: the experts placed on this worker, packed for speed. It decides which (layer,
// expert) pairs are held, reads and packs what is new, proves it before it is used, and gives
// memory back when the last user of an expert that is no longer placed is done.
#pragma once

#include <atomic>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "lib/base/thread_pool.h"
#include "lib/experts/expert_memory.h"
#include "lib/experts/packed_expert.h"
#include "lib/kernels/kernel_table.h"
#include "lib/model/model_weights.h"

namespace tandem {

struct ExpertKey {
  uint32_t layer = 0;
  uint32_t expert = 0;
  auto operator<=>(const ExpertKey&) const = default;
};

// One moment's set of held experts; never changes, so a call computes on the set it was checked
// against.
class HeldExperts {
 public:
  using Experts = std::map<ExpertKey, std::shared_ptr<const StoredExpert>>;

  HeldExperts(std::shared_ptr<const ModelWeights> model, Experts experts);

  // Null when the expert is not held. Valid as long as this object.
  const PackedExpert* Find(uint32_t layer, uint32_t expert) const;
  // The same expert's tensors as the model's files hold them; null when it is not held.
  const FfnWeights* FindSource(uint32_t layer, uint32_t expert) const;
  const Experts& experts() const { return experts_; }
  std::set<ExpertKey> keys() const;
  int64_t weight_bytes() const { return weight_bytes_; }  // packed: the memory they take
  int64_t stored_bytes() const { return stored_bytes_; }  // in the model's files

 private:
  std::shared_ptr<const ModelWeights> model_;
  Experts experts_;
  std::vector<std::vector<const PackedExpert*>> held_;  // [layers][experts]
  int64_t weight_bytes_ = 0;
  int64_t stored_bytes_ = 0;
};

class ExpertStore {
 public:
  struct Options {
    std::string model_path;
    std::string dense_path = {};  // source of config and dense layers, where it is another one
    LoadOptions load;
    int64_t memory_bytes_max = 0;  // of held experts, packed; 0 is unlimited
    // Threads that read and pack; the placing thread is the first.
    std::vector<base::ThreadPlace> load_places = {{}};
    // The system's number of each memory node of `load_places`, which the experts are spread over;
    // empty: wherever the packing threads run.
    std::vector<int> memory_nodes = {};
  };
  // Reads headers only. UNIMPLEMENTED or INVALID_ARGUMENT names the tensor when some expert of the
  // model has a type or size no kernel takes; FAILED_PRECONDITION when the model has no routed
  // experts.
  static absl::StatusOr<std::unique_ptr<ExpertStore>> Open(const Options& options,
                                                           const kernels::KernelTable& table);

  const ModelConfig& config() const { return model_->config; }
  const std::string& digest() const { return model_->digest; }
  std::vector<uint32_t> MoeLayers() const;
  int64_t ExpertBytesMax() const;  // packed

  // Bytes of `wanted`, packed. OUT_OF_RANGE for an expert the model lacks, RESOURCE_EXHAUSTED above
  // the memory limit.
  absl::StatusOr<int64_t> BytesOf(const std::set<ExpertKey>& wanted) const;

  // Makes `wanted` the held set: reads, validates and packs what is new, self-tests one expert of
  // each new combination of types, then switches. An expert that is in both sets stays where it is;
  // until the switch the old set and what is new are both in memory. On an error the held set stays
  // as it was: OUT_OF_RANGE for an expert the model lacks, RESOURCE_EXHAUSTED above the memory
  // limit or when the system refuses memory, INTERNAL from the self-test, and what LoadExperts
  // gives. One call at a time; readers are never blocked.
  absl::Status Place(const std::set<ExpertKey>& wanted, const std::function<bool()>& keep_going);

  std::shared_ptr<const HeldExperts> held() const;
  // Bytes of held experts that lie on huge pages; walks page tables, so not for every call.
  int64_t BytesOnHugePages() const;
  // Share of the running Place that is done, 0..1; 1 when none runs.
  double load_fraction() const { return load_fraction_.load(std::memory_order_relaxed); }

 private:
  ExpertStore(std::shared_ptr<const ModelWeights> model, const Options& options,
              const kernels::KernelTable& table);

  // Memory for `added`, spread over the nodes so that each layer is even on them.
  absl::StatusOr<ExpertMemory> AllocateFor(const std::vector<ExpertKey>& added,
                                           const HeldExperts& kept) const;
  absl::StatusOr<HeldExperts::Experts> LoadAdded(const std::vector<ExpertKey>& added,
                                                 const HeldExperts& before,
                                                 const std::function<bool()>& keep_going);
  absl::Status SelfTestNewTypes(const HeldExperts::Experts& added);
  const FfnWeights& WeightsOf(const ExpertKey& key) const {
    return model_->layers[key.layer].experts[key.expert];
  }

  const std::shared_ptr<const ModelWeights> model_;
  const int64_t memory_bytes_max_;
  const kernels::KernelTable& table_;
  const std::vector<int> memory_nodes_;
  base::ThreadPool pool_;
  std::set<std::vector<DType>> tested_types_;  // gate, up, down; used by Place only
  std::atomic<double> load_fraction_{1.0};
  mutable absl::Mutex mutex_;
  std::shared_ptr<const HeldExperts> held_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem
