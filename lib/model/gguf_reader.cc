#include "lib/model/gguf_reader.h"

#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/status_macros.h"
#include "lib/model/gguf_file.h"

namespace tandem {
namespace {

constexpr int64_t kPartsMax = 10000;

// What a part says about the whole; a file without the keys is a whole of its own.
struct SplitKeys {
  int64_t number = 0;  // from 0
  int64_t count = 1;
  int64_t tensors = -1;  // of all parts; -1: not said
};

absl::StatusOr<SplitKeys> ReadSplitKeys(const Metadata& metadata, const std::string& file) {
  SplitKeys keys;
  if (!metadata.Has("split.count")) return keys;
  const std::pair<const char*, int64_t*> fields[] = {{"split.no", &keys.number},
                                                     {"split.count", &keys.count},
                                                     {"split.tensors.count", &keys.tensors}};
  for (const auto& [key, field] : fields) {
    absl::StatusOr<int64_t> value = metadata.GetInt(key);
    if (!value.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": ", value.status().message()));
    }
    *field = *value;
  }
  if (keys.count < 1 || keys.count > kPartsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": expected split.count from 1 to ", kPartsMax, ", found ", keys.count));
  }
  return keys;
}

absl::Status Differs(const std::string& file, const char* key, int64_t expected, int64_t found) {
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": expected ", key, " = ", expected, ", found ", found));
}

// What the name of the first part and its keys must agree on. `name` is null for a file without a
// split name.
absl::Status CheckFirstPart(const std::string& file, const SplitName* name, const SplitKeys& keys) {
  if (name == nullptr) {
    if (keys.count == 1) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": expected a name like model-00001-of-", absl::StrFormat("%05d", keys.count),
        ".gguf, as it is one of ", keys.count, " parts"));
  }
  if (name->part != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": expected the first part of a split model, found part ", name->part,
                     " of ", name->parts));
  }
  if (keys.count != name->parts) return Differs(file, "split.count", name->parts, keys.count);
  if (keys.number != 0) return Differs(file, "split.no", 0, keys.number);
  return absl::OkStatus();
}

}  // namespace

bool SplitName::Parse(const std::string& file_name, SplitName* name) {
  // prefix, "-", 5 digits, "-of-", 5 digits, ".gguf"
  constexpr size_t kSuffixBytes = 1 + 5 + 4 + 5 + 5;
  if (file_name.size() <= kSuffixBytes) return false;
  const std::string suffix = file_name.substr(file_name.size() - kSuffixBytes);
  if (suffix[0] != '-' || suffix.substr(6, 4) != "-of-" || suffix.substr(15) != ".gguf")
    return false;
  const std::string part = suffix.substr(1, 5);
  const std::string parts = suffix.substr(10, 5);
  if ((part + parts).find_first_not_of("0123456789") != std::string::npos) return false;
  name->prefix = file_name.substr(0, file_name.size() - kSuffixBytes);
  return absl::SimpleAtoi(part, &name->part) && absl::SimpleAtoi(parts, &name->parts);
}

std::string SplitName::FileName(int part) const {
  return absl::StrFormat("%s-%05d-of-%05d.gguf", prefix, part, parts);
}

absl::StatusOr<std::shared_ptr<const TensorSource>> GgufReader::Open(const std::string& path) {
  std::shared_ptr<TensorSource> source(new TensorSource());
  source->kind_ = ContainerKind::kGguf;
  source->path_ = path;
  const auto add_file = [&](const std::string& file) -> absl::StatusOr<Metadata> {
    TANDEM_ASSIGN_OR_RETURN(base::MappedFile map, base::MappedFile::Open(file));
    TANDEM_ASSIGN_OR_RETURN(GgufFile parsed, ParseGguf(map.bytes(), file));
    for (TensorView& tensor : parsed.tensors)
      TANDEM_RETURN_IF_ERROR(source->Add(std::move(tensor)));
    source->maps_.push_back(std::move(map));
    source->files_.push_back(file);
    return std::move(parsed.metadata);
  };

  TANDEM_ASSIGN_OR_RETURN(source->metadata_, add_file(path));
  TANDEM_ASSIGN_OR_RETURN(const SplitKeys whole, ReadSplitKeys(source->metadata_, path));
  const std::filesystem::path first(path);
  SplitName name;
  const bool is_split_name = SplitName::Parse(first.filename().string(), &name);
  TANDEM_RETURN_IF_ERROR(CheckFirstPart(path, is_split_name ? &name : nullptr, whole));
  for (int64_t number = 1; number < whole.count; ++number) {
    const std::string file =
        (first.parent_path() / name.FileName(static_cast<int>(number) + 1)).string();
    TANDEM_ASSIGN_OR_RETURN(const Metadata metadata, add_file(file));
    TANDEM_ASSIGN_OR_RETURN(const SplitKeys keys, ReadSplitKeys(metadata, file));
    if (keys.count != whole.count) return Differs(file, "split.count", whole.count, keys.count);
    if (keys.number != number) return Differs(file, "split.no", number, keys.number);
  }
  const auto found = static_cast<int64_t>(source->tensors_.size());
  if (whole.tensors >= 0 && whole.tensors != found) {
    return Differs(path, "as many tensors in all parts as split.tensors.count says,", whole.tensors,
                   found);
  }
  return std::shared_ptr<const TensorSource>(std::move(source));
}

}  // namespace tandem
