// TensorSource: the tensors and metadata of a model's weight files, whichever container they lie
// in. A GGUF file (single or split) and a folder of safetensors (single or sharded) open into the
// same struct; tensor bytes stay mapped, uncopied.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "lib/base/mapped_file.h"
#include "lib/model/metadata.h"
#include "lib/tensor/tensor_view.h"

namespace tandem {

enum class ContainerKind { kGguf, kSafetensors };

// Where a tensor's bytes lie, for who reads them instead of using the mapping.
struct FilePlace {
  const base::MappedFile* file = nullptr;
  int64_t offset = 0;
};

class TensorSource {
 public:
  // `path`: a .gguf file (for a split model its first part; the others are found by name beside
  // it), a .safetensors file, or a folder holding model.safetensors, model.safetensors.index.json
  // with its shards, or exactly one GGUF model. Errors are one sentence naming file, tensor,
  // expected and found: NOT_FOUND, INVALID_ARGUMENT, DATA_LOSS (truncated), UNIMPLEMENTED (a tensor
  // type or version that is not known, by name).
  static absl::StatusOr<std::shared_ptr<const TensorSource>> Open(const std::string& path);

  ContainerKind kind() const { return kind_; }
  const std::string& path() const { return path_; }
  const std::vector<std::string>& files() const { return files_; }
  // GGUF key-values; for safetensors __metadata__.
  const Metadata& metadata() const { return metadata_; }
  const std::vector<TensorView>& tensors() const { return tensors_; }  // in file order
  // Null when there is no such tensor. Valid as long as this object.
  const TensorView* Find(std::string_view name) const;
  // The place of `view`'s first byte. `view` is one of tensors(), a slice or a range of rows of one
  // (CHECKed). Valid as long as this object.
  FilePlace PlaceOf(const TensorView& view) const;

 private:
  friend class GgufReader;
  friend class SafetensorsReader;
  TensorSource() = default;

  // Takes over one tensor of a mapped file; INVALID_ARGUMENT when another one has its name.
  absl::Status Add(TensorView tensor);

  ContainerKind kind_ = ContainerKind::kGguf;
  std::string path_;
  std::vector<std::string> files_;
  std::vector<base::MappedFile> maps_;
  Metadata metadata_;
  std::vector<TensorView> tensors_;
  absl::flat_hash_map<std::string, size_t> index_by_name_;
};

}  // namespace tandem
