// InProcessWorker: an expert worker without a network: the real expert arithmetic behind the
// Transport seam. Tests put faults in front of it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "lib/experts/test_packing.h"
#include "lib/model/model_weights.h"
#include "lib/rpc/transport.h"
#include "proto/membership.pb.h"

namespace tandem::gpu_worker {

// The experts of a model, each packed when it is first asked for.
class PackedModel {
 public:
  explicit PackedModel(const ModelWeights& weights) : weights_(weights) {}
  const ModelWeights& weights() const { return weights_; }
  const PackedExpert* Find(uint32_t layer, uint32_t expert);

 private:
  const ModelWeights& weights_;
  std::map<std::pair<uint32_t, uint32_t>, std::unique_ptr<PackedCopy>> copies_;
};

// The workers of a test and the table that places experts on them: expert e of every layer on
// worker e % workers, or on all of them in turn with `replicas` > 1.
class InProcessCluster {
 public:
  // What a call meets before it is computed: not OK is what the caller gets.
  using Fault =
      std::function<absl::Status(const std::string& address, const experts::v1::ExpertRows&)>;

  InProcessCluster(const ModelWeights& weights, int workers, int replicas = 1);

  std::unique_ptr<rpc::Transport> Connect(const std::string& address);
  std::shared_ptr<const membership::v1::Placement> placement() const { return placement_; }
  // A copy of the present table with a higher epoch, for the caller to change and Publish.
  std::shared_ptr<membership::v1::Placement> NextPlacement() const;
  void Publish(std::shared_ptr<const membership::v1::Placement> placement) {
    placement_ = std::move(placement);
  }

  Fault fault;
  // Called after each answer is computed, and may spoil it.
  std::function<void(const experts::v1::ExpertRows&, experts::v1::ExpertSums*)> tamper;
  // Set: takes each answer (or fault) instead of its being given at once, and calls it once, from
  // any thread, now or later, also after everything else is gone.
  std::function<void(const std::string& address, std::function<void()> answer)> deliver;
  std::vector<experts::v1::ExpertRows> calls;  // all that were sent, in order

 private:
  friend class InProcessWorker;
  PackedModel model_;
  std::shared_ptr<const membership::v1::Placement> placement_;
};

}  // namespace tandem::gpu_worker
