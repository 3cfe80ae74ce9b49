// One GGUF file taken apart: header, metadata and tensors, every count and range checked against
// the bytes at hand. It knows nothing of paths or of split models; gguf_reader does.
//
// Layout (GGUF v2 and v3, little-endian): "GGUF", u32 version, u64 tensor count, u64 key count,
// keys with typed values, tensor infos, padding to general.alignment (default 32), then the
// tensors' bytes at their offsets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/metadata.h"
#include "lib/tensor/tensor_view.h"

namespace tandem {

struct GgufFile {
  uint32_t version = 0;
  Metadata metadata;
  std::vector<TensorView> tensors;  // in file order; data points into the bytes given to ParseGguf
};

// Takes `bytes` apart; `file` is used in messages and views only. The start of the tensors' bytes
// is a multiple of the file's alignment (8 at least) from the start of `bytes`. Errors are one
// sentence with file, tensor or key, expected and found: INVALID_ARGUMENT (not GGUF, or it
// contradicts itself), DATA_LOSS (cut off), UNIMPLEMENTED (a version, tensor type or nested array
// that is not supported).
absl::StatusOr<GgufFile> ParseGguf(std::span<const std::byte> bytes, const std::string& file);

}  // namespace tandem
