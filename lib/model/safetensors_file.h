// One safetensors file taken apart: its JSON header checked field by field, its tensors checked
// against the bytes at hand. It knows nothing of paths or of shards; safetensors_reader does.
//
// Layout: u64 header length, the header (a JSON object: tensor name -> dtype, shape, data_offsets;
// and "__metadata__" with strings), then the tensors' bytes, without gaps. Offsets count from the
// end of the header.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/metadata.h"
#include "lib/tensor/tensor_view.h"

namespace tandem {

struct SafetensorsFile {
  Metadata metadata;  // "__metadata__"
  std::vector<TensorView>
      tensors;  // in file order; data points into the bytes given to ParseSafetensors
};

// Takes `bytes` apart; `file` is used in messages and views only. Tensors start at multiples of
// their element size from the start of `bytes`. Errors are one sentence with file, tensor, expected
// and found: INVALID_ARGUMENT (not safetensors, or it contradicts itself), DATA_LOSS (cut off),
// UNIMPLEMENTED (a dtype that is not known).
absl::StatusOr<SafetensorsFile> ParseSafetensors(std::span<const std::byte> bytes,
                                                 const std::string& file);

}  // namespace tandem
