#include "lib/model/config_json.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tandem {
namespace {

// A value as shown in a message: never longer than a line.
std::string Shown(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

std::string IntRange(int64_t min, int64_t max) {
  return absl::StrFormat("an integer in [%d, %d]", min, max);
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJsonObject(const std::string& text, const std::string& file) {
  nlohmann::json parsed = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded())
    return absl::InvalidArgumentError(absl::StrCat(file, ": not valid JSON"));
  if (!parsed.is_object())
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": expected a JSON object, found ", parsed.type_name()));
  return parsed;
}

bool JsonFields::Has(const char* key) const {
  return object_.contains(key) && !object_[key].is_null();
}

absl::Status JsonFields::Missing(const char* key, const std::string& expected) const {
  return absl::InvalidArgumentError(absl::StrCat(file_, ": field ", prefix_, key, " must be ",
                                                 expected, ", found ",
                                                 HasKey(key) ? "null" : "no such field"));
}

absl::Status JsonFields::Wrong(const char* key, const std::string& expected) const {
  return absl::InvalidArgumentError(absl::StrCat(file_, ": field ", prefix_, key, " must be ",
                                                 expected, ", found ", Shown(object_[key])));
}

absl::Status JsonFields::Unsupported(const char* key, const std::string& found,
                                     const std::string& expected) const {
  return absl::UnimplementedError(absl::StrCat(file_, ": ", prefix_, key, " ", found,
                                               " is not supported, expected ", expected));
}

absl::StatusOr<int64_t> JsonFields::Int(const char* key, int64_t min, int64_t max) const {
  if (!Has(key)) return Missing(key, IntRange(min, max));
  const nlohmann::json& value = object_[key];
  if (!value.is_number_integer()) return Wrong(key, IntRange(min, max));
  constexpr uint64_t kInt64Max = std::numeric_limits<int64_t>::max();
  if (value.is_number_unsigned() && value.get<uint64_t>() > kInt64Max)
    return Wrong(key, IntRange(min, max));
  const int64_t number = value.get<int64_t>();
  if (number < min || number > max) return Wrong(key, IntRange(min, max));
  return number;
}

absl::StatusOr<int64_t> JsonFields::IntOr(const char* key, int64_t absent, int64_t min,
                                          int64_t max) const {
  if (!Has(key)) return absent;
  return Int(key, min, max);
}

absl::StatusOr<double> JsonFields::Number(const char* key) const {
  if (!Has(key)) return Missing(key, "a number");
  if (!object_[key].is_number()) return Wrong(key, "a number");
  return object_[key].get<double>();
}

absl::StatusOr<double> JsonFields::NumberOr(const char* key, double absent) const {
  if (!Has(key)) return absent;
  return Number(key);
}

absl::StatusOr<bool> JsonFields::BoolOr(const char* key, bool absent) const {
  if (!Has(key)) return absent;
  if (!object_[key].is_boolean()) return Wrong(key, "true or false");
  return object_[key].get<bool>();
}

absl::StatusOr<std::string> JsonFields::String(const char* key) const {
  if (!Has(key)) return Missing(key, "a string");
  if (!object_[key].is_string()) return Wrong(key, "a string");
  return object_[key].get<std::string>();
}

absl::StatusOr<std::string> JsonFields::StringOr(const char* key, const std::string& absent) const {
  if (!Has(key)) return absent;
  return String(key);
}

}  // namespace tandem
