#include "lib/experts/expert_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/experts/expert_loader.h"
#include "lib/experts/self_test.h"
#include "lib/kernels/weights.h"

namespace tandem {
namespace {

std::vector<const Matrix*> MatricesOf(const FfnWeights& expert) {
  return {&expert.gate, &expert.up, &expert.down};
}

absl::Status CheckMatrix(const Matrix& matrix) {
  const absl::Status status =
      kernels::CheckWeightType(matrix.view.dtype, matrix.cols(), matrix.fp8_block_cols);
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(matrix.view.file, ": tensor ", matrix.view.name,
                                                  ": ", std::string(status.message())));
}

absl::Status CheckModel(const ModelWeights& model, const std::string& path) {
  bool any = false;
  for (const LayerWeights& layer : model.layers) {
    for (const FfnWeights& expert : layer.experts) {
      any = true;
      for (const Matrix* matrix : MatricesOf(expert)) TANDEM_RETURN_IF_ERROR(CheckMatrix(*matrix));
    }
  }
  if (any) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(path, ": expected a model with routed experts, found none"));
}

}  // namespace

HeldExperts::HeldExperts(std::shared_ptr<const ModelWeights> model, Experts experts)
    : model_(std::move(model)), experts_(std::move(experts)) {
  for (const LayerWeights& layer : model_->layers) {
    held_.emplace_back(layer.experts.size(), nullptr);
  }
  for (const auto& [key, expert] : experts_) {
    held_[key.layer][key.expert] = &expert->packed();
    weight_bytes_ += expert->packed().bytes();
    stored_bytes_ += PlacedBytes(model_->layers[key.layer].experts[key.expert]);
  }
}

const PackedExpert* HeldExperts::Find(uint32_t layer, uint32_t expert) const {
  if (layer >= held_.size() || expert >= held_[layer].size()) return nullptr;
  return held_[layer][expert];
}

const FfnWeights* HeldExperts::FindSource(uint32_t layer, uint32_t expert) const {
  return Find(layer, expert) == nullptr ? nullptr : &model_->layers[layer].experts[expert];
}

std::set<ExpertKey> HeldExperts::keys() const {
  std::set<ExpertKey> keys;
  for (const auto& [key, expert] : experts_) keys.insert(keys.end(), key);
  return keys;
}

ExpertStore::ExpertStore(std::shared_ptr<const ModelWeights> model, const Options& options,
                         const kernels::KernelTable& table)
    : model_(std::move(model)),
      memory_bytes_max_(options.memory_bytes_max),
      table_(table),
      memory_nodes_(options.memory_nodes),
      pool_(options.load_places),
      held_(std::make_shared<HeldExperts>(model_, HeldExperts::Experts())) {
  if (!memory_nodes_.empty()) {
    TANDEM_CHECK_EQ(memory_nodes_.size(), static_cast<size_t>(pool_.nodes()));
  }
}

absl::StatusOr<std::unique_ptr<ExpertStore>> ExpertStore::Open(const Options& options,
                                                               const kernels::KernelTable& table) {
  const std::string& dense = options.dense_path.empty() ? options.model_path : options.dense_path;
  TANDEM_ASSIGN_OR_RETURN(ModelWeights model,
                          LoadModel(ModelSources{dense, options.model_path}, options.load));
  TANDEM_RETURN_IF_ERROR(CheckModel(model, options.model_path));
  return std::unique_ptr<ExpertStore>(
      new ExpertStore(std::make_shared<const ModelWeights>(std::move(model)), options, table));
}

std::vector<uint32_t> ExpertStore::MoeLayers() const {
  std::vector<uint32_t> layers;
  for (size_t layer = 0; layer < model_->layers.size(); ++layer) {
    if (!model_->layers[layer].experts.empty()) layers.push_back(static_cast<uint32_t>(layer));
  }
  return layers;
}

int64_t ExpertStore::ExpertBytesMax() const {
  int64_t largest = 0;
  for (const LayerWeights& layer : model_->layers) {
    for (const FfnWeights& expert : layer.experts) largest = std::max(largest, PackedBytes(expert));
  }
  return largest;
}

std::shared_ptr<const HeldExperts> ExpertStore::held() const {
  absl::MutexLock lock(&mutex_);
  return held_;
}

absl::StatusOr<int64_t> ExpertStore::BytesOf(const std::set<ExpertKey>& wanted) const {
  int64_t bytes = 0;
  for (const ExpertKey& key : wanted) {
    if (key.layer >= model_->layers.size() ||
        key.expert >= model_->layers[key.layer].experts.size()) {
      return absl::OutOfRangeError(absl::StrCat("placement names expert ", key.expert, " of layer ",
                                                key.layer, ", which this model does not have"));
    }
    bytes += PackedBytes(WeightsOf(key));
  }
  if (memory_bytes_max_ == 0 || bytes <= memory_bytes_max_) return bytes;
  return absl::ResourceExhaustedError(absl::StrCat("placement needs ", base::HumanBytes(bytes),
                                                   " for packed experts, the limit is ",
                                                   base::HumanBytes(memory_bytes_max_)));
}

absl::StatusOr<ExpertMemory> ExpertStore::AllocateFor(const std::vector<ExpertKey>& added,
                                                      const HeldExperts& kept) const {
  // A token's experts of one layer are computed together, so it is each layer that must be even.
  std::map<uint32_t, std::vector<int64_t>> bytes_on_nodes;  // by layer
  const auto nodes_of = [&](uint32_t layer) -> std::vector<int64_t>& {
    return bytes_on_nodes.try_emplace(layer, pool_.nodes(), 0).first->second;
  };
  for (const auto& [key, expert] : kept.experts()) {
    nodes_of(key.layer)[expert->packed().node] += expert->packed().bytes();
  }
  std::vector<PackedExpert> layouts;
  layouts.reserve(added.size());
  for (const ExpertKey& key : added) {
    PackedExpert& layout = layouts.emplace_back(LayoutOfExpert(WeightsOf(key)));
    std::vector<int64_t>& bytes = nodes_of(key.layer);
    const auto emptiest = std::min_element(bytes.begin(), bytes.end());
    layout.node = static_cast<int>(emptiest - bytes.begin());
    *emptiest += layout.bytes();
  }
  TANDEM_ASSIGN_OR_RETURN(ExpertMemory memory, AllocateExperts(layouts, memory_nodes_));
  for (const std::shared_ptr<base::HugeMemory>& region : memory.regions) {
    if (region->bound_to_node()) continue;
    base::LogWarning("memory_node_not_chosen",
                     {{"reason", "the system forbids mbind; pages lie where they are packed"}});
    break;
  }
  return memory;
}

absl::StatusOr<HeldExperts::Experts> ExpertStore::LoadAdded(
    const std::vector<ExpertKey>& added, const HeldExperts& before,
    const std::function<bool()>& keep_going) {
  TANDEM_ASSIGN_OR_RETURN(const ExpertMemory memory, AllocateFor(added, before));
  std::vector<LoadOrder> orders;
  HeldExperts::Experts experts;
  orders.reserve(added.size());
  for (size_t i = 0; i < added.size(); ++i) {
    orders.push_back({&WeightsOf(added[i]), memory.experts[i].get()});
    experts.emplace(added[i], memory.experts[i]);
  }
  TANDEM_RETURN_IF_ERROR(
      LoadExperts(*model_->experts_source, orders, &pool_, keep_going, &load_fraction_));
  for (const std::shared_ptr<base::HugeMemory>& region : memory.regions) region->Collapse();
  TANDEM_RETURN_IF_ERROR(SelfTestNewTypes(experts));
  return experts;
}

absl::Status ExpertStore::SelfTestNewTypes(const HeldExperts::Experts& added) {
  for (const auto& [key, packed] : added) {
    const FfnWeights& expert = WeightsOf(key);
    const std::vector<DType> types = {expert.gate.view.dtype, expert.up.view.dtype,
                                      expert.down.view.dtype};
    if (tested_types_.contains(types)) continue;
    // A copy: through the mapping a file that shrinks now would kill the worker.
    TANDEM_ASSIGN_OR_RETURN(const ExpertCopy source, CopyExpert(*model_->experts_source, expert));
    TANDEM_RETURN_IF_ERROR(SelfTestExpert(table_, source.weights, packed->packed()));
    tested_types_.insert(types);
  }
  return absl::OkStatus();
}

absl::Status ExpertStore::Place(const std::set<ExpertKey>& wanted,
                                const std::function<bool()>& keep_going) {
  TANDEM_RETURN_IF_ERROR(BytesOf(wanted).status());
  const std::shared_ptr<const HeldExperts> before = held();
  HeldExperts::Experts experts;
  std::vector<ExpertKey> added;
  for (const ExpertKey& key : wanted) {
    const auto found = before->experts().find(key);
    if (found == before->experts().end()) {
      added.push_back(key);
    } else {
      experts.insert(*found);
    }
  }
  if (!added.empty()) {
    load_fraction_.store(0.0);
    absl::StatusOr<HeldExperts::Experts> loaded = LoadAdded(added, *before, keep_going);
    load_fraction_.store(1.0);
    TANDEM_RETURN_IF_ERROR(loaded.status());
    experts.merge(*loaded);
  }
  auto after = std::make_shared<const HeldExperts>(model_, std::move(experts));
  absl::MutexLock lock(&mutex_);
  held_.swap(after);
  return absl::OkStatus();  // the old set goes when its last user lets go of it
}

int64_t ExpertStore::BytesOnHugePages() const {
  std::set<const base::HugeMemory*> regions;
  const std::shared_ptr<const HeldExperts> now = held();
  for (const auto& [key, expert] : now->experts()) regions.insert(&expert->region());
  int64_t bytes = 0;
  for (const base::HugeMemory* region : regions) bytes += region->BytesOnHugePages();
  return bytes;
}

}  // namespace tandem
