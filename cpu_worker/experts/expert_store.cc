#include "cpu_worker/experts/expert_store.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cpu_worker/experts/self_test.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/kernels/weights.h"
#include "lib/tensor/codec.h"

namespace tandem::cpu_worker {
namespace {

// The tensors of one matrix: its values and, for fp8, its block scales.
std::vector<const TensorView*> ViewsOf(const Matrix& matrix) {
  std::vector<const TensorView*> views = {&matrix.view};
  if (matrix.scale_inv.has_value()) views.push_back(&*matrix.scale_inv);
  return views;
}

std::vector<const Matrix*> MatricesOf(const FfnWeights& expert) {
  return {&expert.gate, &expert.up, &expert.down};
}

// Reads one byte of every page, so that a file that cannot be read fails now and not in a user's
// token.
void TouchPages(const TensorView& view) {
  static const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  const volatile std::byte* data = view.data;
  for (int64_t at = 0; at < view.size_bytes; at += page_bytes) (void)data[at];
  if (view.size_bytes > 0) (void)data[view.size_bytes - 1];
}

absl::Status ProveView(const TensorView& view) {
  TouchPages(view);
  for (int64_t row = 0; row < view.rows(); ++row) {
    const absl::Status status =
        ValidateRow(view.dtype, view.data + row * view.row_bytes(), view.cols());
    if (!status.ok()) {
      return absl::DataLossError(absl::StrCat(view.file, ": tensor ", view.name, ", row ", row,
                                              ": ", std::string(status.message())));
    }
  }
  return absl::OkStatus();
}

absl::Status ProveExpert(const FfnWeights& expert) {
  for (const Matrix* matrix : MatricesOf(expert)) {
    for (const TensorView* view : ViewsOf(*matrix)) TANDEM_RETURN_IF_ERROR(ProveView(*view));
  }
  return absl::OkStatus();
}

// Gives back the pages that lie wholly inside the tensor; those at its ends may hold a neighbour. A
// page that is read again afterwards comes from the file again, so this is never wrong, only slow.
void ReleaseView(const TensorView& view) {
  static const uintptr_t page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(view.data);
  const uintptr_t first = (begin + page_bytes - 1) / page_bytes * page_bytes;
  const uintptr_t last =
      (begin + static_cast<uintptr_t>(view.size_bytes)) / page_bytes * page_bytes;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

absl::Status CheckMatrix(const Matrix& matrix) {
  const absl::Status status = kernels::CheckWeightType(matrix.view.dtype, matrix.cols());
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(matrix.view.file, ": tensor ", matrix.view.name,
                                                    ": ", std::string(status.message())));
  }
  if (kernels::IsIntegerForm(matrix.view.dtype) &&
      reinterpret_cast<uintptr_t>(matrix.view.data) % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(matrix.view.file, ": tensor ", matrix.view.name,
                     ": block-quantized data must begin at an even offset"));
  }
  return absl::OkStatus();
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

int64_t ExpertBytes(const FfnWeights& expert) {
  int64_t bytes = 0;
  for (const Matrix* matrix : MatricesOf(expert)) {
    for (const TensorView* view : ViewsOf(*matrix)) bytes += view->size_bytes;
  }
  return bytes;
}

HeldExperts::HeldExperts(std::shared_ptr<const ModelWeights> model, std::set<ExpertKey> keys)
    : model_(std::move(model)), keys_(std::move(keys)) {
  for (const LayerWeights& layer : model_->layers) held_.emplace_back(layer.experts.size(), false);
  for (const ExpertKey& key : keys_) {
    held_[key.layer][key.expert] = true;
    weight_bytes_ += ExpertBytes(model_->layers[key.layer].experts[key.expert]);
  }
}

const FfnWeights* HeldExperts::Find(uint32_t layer, uint32_t expert) const {
  if (layer >= held_.size() || expert >= held_[layer].size() || !held_[layer][expert]) {
    return nullptr;
  }
  return &model_->layers[layer].experts[expert];
}

ExpertStore::ExpertStore(std::shared_ptr<const ModelWeights> model, const Options& options,
                         const kernels::KernelTable& table)
    : model_(std::move(model)),
      memory_bytes_max_(options.memory_bytes_max),
      table_(table),
      pool_(options.load_threads),
      held_(std::make_shared<HeldExperts>(model_, std::set<ExpertKey>{})) {}

absl::StatusOr<std::unique_ptr<ExpertStore>> ExpertStore::Open(const Options& options,
                                                               const kernels::KernelTable& table) {
  TANDEM_ASSIGN_OR_RETURN(ModelWeights model, LoadModel(options.model_path, options.load));
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
    for (const FfnWeights& expert : layer.experts) largest = std::max(largest, ExpertBytes(expert));
  }
  return largest;
}

std::shared_ptr<const HeldExperts> ExpertStore::held() const {
  absl::MutexLock lock(&mutex_);
  return held_;
}

absl::Status ExpertStore::CheckWanted(const std::set<ExpertKey>& wanted) const {
  int64_t bytes = 0;
  for (const ExpertKey& key : wanted) {
    if (key.layer >= model_->layers.size() ||
        key.expert >= model_->layers[key.layer].experts.size()) {
      return absl::OutOfRangeError(absl::StrCat("placement names expert ", key.expert, " of layer ",
                                                key.layer, ", which this model does not have"));
    }
    bytes += ExpertBytes(WeightsOf(key));
  }
  if (memory_bytes_max_ == 0 || bytes <= memory_bytes_max_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("placement needs ", base::HumanBytes(bytes),
                                                   " of experts, the limit is ",
                                                   base::HumanBytes(memory_bytes_max_)));
}

absl::Status ExpertStore::ProveAll(const std::vector<ExpertKey>& added,
                                   const std::function<bool()>& keep_going) {
  absl::Mutex mutex;
  absl::Status first_error;
  std::atomic<bool> stop{false};
  std::atomic<int64_t> done{0};
  const int64_t count = static_cast<int64_t>(added.size());
  pool_.ParallelFor(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end && !stop.load(); ++i) {
      absl::Status status = keep_going() ? ProveExpert(WeightsOf(added[i]))
                                         : absl::CancelledError("loading was given up");
      if (!status.ok()) {
        stop.store(true);
        absl::MutexLock lock(&mutex);
        if (first_error.ok()) first_error = std::move(status);
      }
      load_fraction_.store(static_cast<double>(done.fetch_add(1) + 1) / static_cast<double>(count));
    }
  });
  return first_error;
}

absl::Status ExpertStore::SelfTestNewTypes(const std::vector<ExpertKey>& added) {
  for (const ExpertKey& key : added) {
    const FfnWeights& expert = WeightsOf(key);
    const std::vector<DType> types = {expert.gate.view.dtype, expert.up.view.dtype,
                                      expert.down.view.dtype};
    if (tested_types_.contains(types)) continue;
    TANDEM_RETURN_IF_ERROR(SelfTestExpert(table_, expert));
    tested_types_.insert(types);
  }
  return absl::OkStatus();
}

absl::Status ExpertStore::Place(const std::set<ExpertKey>& wanted,
                                const std::function<bool()>& keep_going) {
  TANDEM_RETURN_IF_ERROR(CheckWanted(wanted));
  const std::shared_ptr<const HeldExperts> before = held();
  std::vector<ExpertKey> added, removed;
  std::set_difference(wanted.begin(), wanted.end(), before->keys().begin(), before->keys().end(),
                      std::back_inserter(added));
  std::set_difference(before->keys().begin(), before->keys().end(), wanted.begin(), wanted.end(),
                      std::back_inserter(removed));
  load_fraction_.store(added.empty() ? 1.0 : 0.0);
  absl::Status status = ProveAll(added, keep_going);
  if (status.ok()) status = SelfTestNewTypes(added);
  load_fraction_.store(1.0);
  if (status.ok()) {
    auto after = std::make_shared<const HeldExperts>(model_, wanted);
    absl::MutexLock lock(&mutex_);
    held_ = std::move(after);
  }
  // After an error it is the new ones that are not wanted.
  for (const ExpertKey& key : status.ok() ? removed : added) {
    for (const Matrix* matrix : MatricesOf(WeightsOf(key))) {
      for (const TensorView* view : ViewsOf(*matrix)) ReleaseView(*view);
    }
  }
  return status;
}

}  // namespace tandem::cpu_worker
