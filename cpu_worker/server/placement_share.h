// This worker's share of a placement table.
#pragma once

#include <optional>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "lib/experts/expert_store.h"
#include "proto/membership.pb.h"

namespace tandem::cpu_worker {

// The experts that `placement` gives to `worker_id`, whether as first replica or later; nothing
// when the table does not know the worker (it was made before the worker came). FAILED_PRECONDITION
// for a table of another model, INVALID_ARGUMENT for one with an index out of range.
absl::StatusOr<std::optional<std::set<ExpertKey>>> ShareOf(
    const membership::v1::Placement& placement, const std::string& worker_id,
    const std::string& model_digest);

}  // namespace tandem::cpu_worker
