#include "lib/model/metadata.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"

namespace tandem {
namespace {

// In the order of MetadataValue's alternatives.
constexpr std::array<const char*, std::variant_size_v<MetadataValue>> kKinds = {
    "an unsigned integer",
    "an integer",
    "a float",
    "a bool",
    "a string",
    "an array of integers",
    "an array of floats",
    "an array of bools",
    "an array of strings"};

absl::Status WrongKind(std::string_view key, const char* expected, const MetadataValue& found) {
  return absl::InvalidArgumentError(absl::StrCat("metadata key '", base::ToAbsl(key),
                                                 "': expected ", expected, ", found ",
                                                 kKinds[found.index()]));
}

absl::StatusOr<const MetadataValue*> FindOrError(const Metadata& metadata, std::string_view key) {
  const MetadataValue* value = metadata.Find(key);
  if (value != nullptr) return value;
  return absl::NotFoundError(
      absl::StrCat("expected metadata key '", base::ToAbsl(key), "', found none"));
}

// The value of `key` when it is a `T`, described by `expected`.
template <typename T>
absl::StatusOr<T> GetExactly(const Metadata& metadata, std::string_view key, const char* expected) {
  TANDEM_ASSIGN_OR_RETURN(const MetadataValue* value, FindOrError(metadata, key));
  if (const T* exact = std::get_if<T>(value)) return *exact;
  return WrongKind(key, expected, *value);
}

}  // namespace

void Metadata::Set(std::string key, MetadataValue value) {
  values_.insert_or_assign(std::move(key), std::move(value));
}

bool Metadata::Has(std::string_view key) const { return Find(key) != nullptr; }

const MetadataValue* Metadata::Find(std::string_view key) const {
  const auto it = values_.find(base::ToAbsl(key));
  return it == values_.end() ? nullptr : &it->second;
}

std::vector<std::string> Metadata::SortedKeys() const {
  std::vector<std::string> keys;
  keys.reserve(values_.size());
  for (const auto& [key, value] : values_) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  return keys;
}

absl::StatusOr<int64_t> Metadata::GetInt(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const MetadataValue* value, FindOrError(*this, key));
  if (const auto* exact = std::get_if<int64_t>(value)) return *exact;
  const auto* natural = std::get_if<uint64_t>(value);
  if (natural == nullptr) return WrongKind(key, "an integer", *value);
  if (*natural > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return absl::InvalidArgumentError(absl::StrCat("metadata key '", base::ToAbsl(key),
                                                   "': expected an integer below 2^63, found ",
                                                   *natural));
  }
  return static_cast<int64_t>(*natural);
}

absl::StatusOr<double> Metadata::GetDouble(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const MetadataValue* value, FindOrError(*this, key));
  if (const auto* exact = std::get_if<double>(value)) return *exact;
  if (const auto* integer = std::get_if<int64_t>(value)) return static_cast<double>(*integer);
  if (const auto* natural = std::get_if<uint64_t>(value)) return static_cast<double>(*natural);
  return WrongKind(key, "a number", *value);
}

absl::StatusOr<bool> Metadata::GetBool(std::string_view key) const {
  return GetExactly<bool>(*this, key, "a bool");
}

absl::StatusOr<std::string> Metadata::GetString(std::string_view key) const {
  return GetExactly<std::string>(*this, key, "a string");
}

absl::StatusOr<std::vector<int64_t>> Metadata::GetInts(std::string_view key) const {
  return GetExactly<std::vector<int64_t>>(*this, key, "an array of integers");
}

absl::StatusOr<std::vector<std::string>> Metadata::GetStrings(std::string_view key) const {
  return GetExactly<std::vector<std::string>>(*this, key, "an array of strings");
}

}  // namespace tandem
