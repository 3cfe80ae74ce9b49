// safetensors writing: tensor infos to the JSON header of a file, whose tensors WeightFileWriter
// then streams.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/model_weights_writer.h"

namespace tandem {

// Lays out one .safetensors file; tensors follow one another without gaps, as its readers demand,
// and the header is padded with spaces to a multiple of 8. INVALID_ARGUMENT for a type the
// container has no name for (the block formats).
absl::StatusOr<FileLayout> LayOutSafetensors(const std::map<std::string, std::string>& metadata,
                                             const std::vector<TensorPlan>& tensors);

}  // namespace tandem
