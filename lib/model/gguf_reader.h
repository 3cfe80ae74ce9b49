// GgufReader: opens a GGUF model, single or split in parts, as a TensorSource.
//
// The parts of a split model are named prefix-00001-of-00005.gguf and so on; each is a GGUF file
// with its own tensors. Keys: split.no (from 0), split.count, split.tensors.count (of all parts).
// The first part holds the model's metadata.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "lib/model/tensor_source.h"

namespace tandem {

// "m-00001-of-00003.gguf" taken apart: prefix "m", part 1, parts 3.
struct SplitName {
  std::string prefix;
  int part = 0;
  int parts = 0;

  // False when `file_name` is not so named.
  static bool Parse(const std::string& file_name, SplitName* name);
  // The file name of part `part`.
  std::string FileName(int part) const;
};

class GgufReader {
 public:
  // `path`: a .gguf file; of a split model its first part. Errors as TensorSource::Open.
  static absl::StatusOr<std::shared_ptr<const TensorSource>> Open(const std::string& path);
};

}  // namespace tandem
