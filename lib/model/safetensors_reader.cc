#include "lib/model/safetensors_reader.h"

#include <simdjson.h>

#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/model/printable_name.h"
#include "lib/model/safetensors_file.h"

namespace tandem {
namespace {

// DeepSeek-V3 lists 91991 tensors in 9 MB.
constexpr size_t kIndexBytesMax = 100'000'000;
constexpr size_t kShardsMax = 10000;

// Tensor names by shard file name, both in order.
using Shards = std::map<std::string, std::set<std::string>>;

absl::Status Invalid(const std::string& file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", what));
}

// A shard is a file beside its index: names with folders in them could point anywhere.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

absl::StatusOr<Shards> ReadWeightMap(const std::string& path, simdjson::dom::object weight_map) {
  Shards shards;
  std::set<std::string_view> names;
  for (const auto [name, value] : weight_map) {
    std::string_view shard;
    if (value.get_string().get(shard) || !IsPlainFileName(shard)) {
      return Invalid(
          path,
          absl::StrCat("tensor ", PrintableName(name),
                       ": expected the name of a file in the same folder, found something else"));
    }
    if (!names.insert(name).second) {
      return Invalid(path, absl::StrCat("expected distinct tensor names, found ",
                                        PrintableName(name), " twice"));
    }
    shards[std::string(shard)].emplace(name);
  }
  if (shards.empty() || shards.size() > kShardsMax) {
    return Invalid(path, absl::StrCat("expected 1 to ", kShardsMax, " shards in weight_map, found ",
                                      shards.size()));
  }
  return shards;
}

absl::StatusOr<Shards> ReadIndex(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const base::MappedFile map, base::MappedFile::Open(path));
  if (map.bytes().size() > kIndexBytesMax) {
    return Invalid(path, absl::StrCat("expected an index of at most ", kIndexBytesMax,
                                      " bytes, found ", map.bytes().size()));
  }
  const simdjson::padded_string text(reinterpret_cast<const char*>(map.bytes().data()),
                                     map.bytes().size());
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (const auto error = parser.parse(text).get(root)) {
    return Invalid(path, absl::StrCat("expected JSON, found: ", simdjson::error_message(error)));
  }
  simdjson::dom::object weight_map;
  if (root["weight_map"].get_object().get(weight_map)) {
    return Invalid(path, "expected an object with an object 'weight_map', found none");
  }
  return ReadWeightMap(path, weight_map);
}

// Index and shard must list the same tensors.
absl::Status CheckShard(const std::string& index, const std::string& file,
                        const std::set<std::string>& expected,
                        const std::vector<TensorView>& tensors) {
  for (const TensorView& tensor : tensors) {
    if (expected.contains(tensor.name)) continue;
    return Invalid(file, absl::StrCat("expected only tensors that ", index, " places here, found ",
                                      PrintableName(tensor.name)));
  }
  if (tensors.size() == expected.size()) return absl::OkStatus();
  std::set<std::string> missing = expected;
  for (const TensorView& tensor : tensors) missing.erase(tensor.name);
  return Invalid(file, absl::StrCat("expected tensor ", PrintableName(*missing.begin()), ", which ",
                                    index, " places here, found none"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TensorSource>> SafetensorsReader::Open(
    const std::string& path) {
  std::shared_ptr<TensorSource> source(new TensorSource());
  source->kind_ = ContainerKind::kSafetensors;
  source->path_ = path;
  TANDEM_ASSIGN_OR_RETURN(base::MappedFile map, base::MappedFile::Open(path));
  TANDEM_ASSIGN_OR_RETURN(SafetensorsFile parsed, ParseSafetensors(map.bytes(), path));
  for (TensorView& tensor : parsed.tensors) TANDEM_RETURN_IF_ERROR(source->Add(std::move(tensor)));
  source->metadata_ = std::move(parsed.metadata);
  source->maps_.push_back(std::move(map));
  source->files_.push_back(path);
  return std::shared_ptr<const TensorSource>(std::move(source));
}

absl::StatusOr<std::shared_ptr<const TensorSource>> SafetensorsReader::OpenIndex(
    const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const Shards shards, ReadIndex(path));
  std::shared_ptr<TensorSource> source(new TensorSource());
  source->kind_ = ContainerKind::kSafetensors;
  source->path_ = std::filesystem::path(path).parent_path().string();
  for (const auto& [shard, expected] : shards) {
    const std::string file = (std::filesystem::path(path).parent_path() / shard).string();
    TANDEM_ASSIGN_OR_RETURN(base::MappedFile map, base::MappedFile::Open(file));
    TANDEM_ASSIGN_OR_RETURN(SafetensorsFile parsed, ParseSafetensors(map.bytes(), file));
    TANDEM_RETURN_IF_ERROR(CheckShard(path, file, expected, parsed.tensors));
    for (TensorView& tensor : parsed.tensors)
      TANDEM_RETURN_IF_ERROR(source->Add(std::move(tensor)));
    for (const std::string& key : parsed.metadata.SortedKeys()) {
      if (!source->metadata_.Has(key)) source->metadata_.Set(key, *parsed.metadata.Find(key));
    }
    source->maps_.push_back(std::move(map));
    source->files_.push_back(file);
  }
  return std::shared_ptr<const TensorSource>(std::move(source));
}

}  // namespace tandem
