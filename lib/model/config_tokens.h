// The end-of-sequence ids of config.json and generation_config.json, which are one number or a list
// of them.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/config_json.h"

namespace tandem {

// The ids of the field eos_token_id, in order, without repeats; empty when absent or null.
absl::StatusOr<std::vector<int64_t>> ReadEosTokenIds(const JsonFields& json);

}  // namespace tandem
