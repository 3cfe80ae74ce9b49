// SafetensorsReader: opens a safetensors model, one file or shards listed by an index, as a
// TensorSource.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "lib/model/tensor_source.h"

namespace tandem {

inline constexpr char kSafetensorsFile[] = "model.safetensors";
inline constexpr char kSafetensorsIndexFile[] = "model.safetensors.index.json";

class SafetensorsReader {
 public:
  // `path`: one .safetensors file that is a whole model. Errors as TensorSource::Open.
  static absl::StatusOr<std::shared_ptr<const TensorSource>> Open(const std::string& path);

  // `path`: an index, whose "weight_map" maps tensor names to shard files beside it. Index and
  // shards must agree on every tensor. Metadata is that of the shards; where they differ, the first
  // in order of name counts.
  static absl::StatusOr<std::shared_ptr<const TensorSource>> OpenIndex(const std::string& path);
};

}  // namespace tandem
