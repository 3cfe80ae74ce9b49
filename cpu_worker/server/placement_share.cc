#include "cpu_worker/server/placement_share.h"

#include "absl/strings/str_cat.h"

namespace tandem::cpu_worker {

absl::StatusOr<std::optional<std::set<ExpertKey>>> ShareOf(
    const membership::v1::Placement& placement, const std::string& worker_id,
    const std::string& model_digest) {
  if (placement.model_digest() != model_digest) {
    return absl::FailedPreconditionError(absl::StrCat("placement epoch ", placement.epoch(),
                                                      " is for model ", placement.model_digest(),
                                                      ", this worker has ", model_digest));
  }
  std::optional<uint32_t> own;
  for (int i = 0; i < placement.workers_size(); ++i) {
    if (placement.workers(i).worker_id() == worker_id) own = static_cast<uint32_t>(i);
  }
  if (!own.has_value()) return std::optional<std::set<ExpertKey>>();
  std::set<ExpertKey> share;
  for (const membership::v1::LayerPlacement& layer : placement.layers()) {
    for (int expert = 0; expert < layer.experts_size(); ++expert) {
      for (uint32_t worker : layer.experts(expert).workers()) {
        if (worker >= static_cast<uint32_t>(placement.workers_size())) {
          return absl::InvalidArgumentError(absl::StrCat("placement epoch ", placement.epoch(),
                                                         " names worker ", worker, " of ",
                                                         placement.workers_size()));
        }
        if (worker == *own) share.insert({layer.layer(), static_cast<uint32_t>(expert)});
      }
    }
  }
  return std::optional<std::set<ExpertKey>>(std::move(share));
}

}  // namespace tandem::cpu_worker
