// GGUF v3 writing: typed key-values and tensor infos to the header of a file, whose tensors
// WeightFileWriter then streams. Used by the synthesizer and by tests that need a file with a given
// flaw.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/model_weights_writer.h"

namespace tandem {

// The widths llama.cpp insists on: counts and ids u32, reals f32.
using GgufValue = std::variant<uint32_t, int32_t, float, bool, std::string, std::vector<int32_t>,
                               std::vector<float>, std::vector<std::string>>;
using GgufKeyValues = std::vector<std::pair<std::string, GgufValue>>;  // in file order

// Lays out a single-file GGUF with the default alignment of 32. Shapes are outermost first and
// reversed in the file. INVALID_ARGUMENT for a name of 64 bytes or more, a shape of no or more than
// 4 dimensions, a row that is no multiple of the type's block, or a type GGUF has no id for
// (f8_e4m3).
absl::StatusOr<FileLayout> LayOutGguf(const GgufKeyValues& key_values,
                                      const std::vector<TensorPlan>& tensors);

}  // namespace tandem
