#include "lib/model/tensor_source.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/gguf_reader.h"
#include "lib/model/printable_name.h"
#include "lib/model/safetensors_reader.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

// The files of `folder` that a model could be opened from: each GGUF model once (a split one by its
// first part), and the safetensors entry points.
absl::StatusOr<std::vector<std::string>> FindModels(const fs::path& folder) {
  std::set<std::string> models;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    SplitName split;
    if (SplitName::Parse(name, &split)) {
      models.insert(split.FileName(1));
    } else if (absl::EndsWith(name, ".gguf") || name == kSafetensorsFile ||
               name == kSafetensorsIndexFile) {
      models.insert(name);
    }
  }
  if (error) {
    return absl::UnavailableError(
        absl::StrCat(folder.string(), ": cannot list the folder: ", error.message()));
  }
  return std::vector<std::string>(models.begin(), models.end());
}

absl::StatusOr<std::shared_ptr<const TensorSource>> OpenFolder(const fs::path& folder) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> models, FindModels(folder));
  if (models.empty()) {
    return absl::NotFoundError(absl::StrCat(folder.string(), ": expected ", kSafetensorsFile, ", ",
                                            kSafetensorsIndexFile, " or a .gguf file, found none"));
  }
  if (models.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat(folder.string(), ": expected one model, found ",
                                                   models.size(), ": ",
                                                   absl::StrJoin(models, ", ")));
  }
  const std::string path = (folder / models.front()).string();
  if (models.front() == kSafetensorsIndexFile) return SafetensorsReader::OpenIndex(path);
  return TensorSource::Open(path);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TensorSource>> TensorSource::Open(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    return absl::NotFoundError(
        absl::StrCat(path, ": expected a model file or folder, found nothing"));
  }
  if (fs::is_directory(status)) return OpenFolder(path);
  if (absl::EndsWith(path, ".gguf")) return GgufReader::Open(path);
  if (absl::EndsWith(path, ".safetensors")) return SafetensorsReader::Open(path);
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": expected a .gguf or .safetensors file or a folder, found another kind of file"));
}

const TensorView* TensorSource::Find(std::string_view name) const {
  const auto it = index_by_name_.find(base::ToAbsl(name));
  return it == index_by_name_.end() ? nullptr : &tensors_[it->second];
}

FilePlace TensorSource::PlaceOf(const TensorView& view) const {
  const std::less_equal<> no_later;  // pointers into different mappings have no order of their own
  for (const base::MappedFile& map : maps_) {
    const std::byte* begin = map.bytes().data();
    const std::byte* end = begin + map.bytes().size();
    if (no_later(begin, view.data) && no_later(view.data + view.size_bytes, end)) {
      return {&map, view.data - begin};
    }
  }
  TANDEM_CHECK(false && "a tensor of another source");
  return {};
}

absl::Status TensorSource::Add(TensorView tensor) {
  const auto [it, inserted] = index_by_name_.try_emplace(tensor.name, tensors_.size());
  if (!inserted) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensor.file, ": expected distinct tensor names, found ",
                     PrintableName(tensor.name), " here and in ", tensors_[it->second].file));
  }
  tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

}  // namespace tandem
