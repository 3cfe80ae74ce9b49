// JsonFields: typed reading of one JSON object of a config file. Every refusal is one sentence
// naming file, field, what was expected and what was found.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem {

// Parses text that must hold one JSON object. INVALID_ARGUMENT otherwise.
absl::StatusOr<nlohmann::json> ParseJsonObject(const std::string& text, const std::string& file);

class JsonFields {
 public:
  // `object` must outlive this and be a JSON object. `prefix` ("rope_scaling.") goes before field
  // names in messages.
  JsonFields(const nlohmann::json& object, std::string file, std::string prefix = "")
      : object_(object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  // True when the field is there and not null.
  bool Has(const char* key) const;
  bool HasKey(const char* key) const { return object_.contains(key); }
  const nlohmann::json& At(const char* key) const { return object_[key]; }

  absl::StatusOr<int64_t> Int(const char* key, int64_t min, int64_t max) const;
  absl::StatusOr<int64_t> IntOr(const char* key, int64_t absent, int64_t min, int64_t max) const;
  absl::StatusOr<double> Number(const char* key) const;
  absl::StatusOr<double> NumberOr(const char* key, double absent) const;
  absl::StatusOr<bool> BoolOr(const char* key, bool absent) const;
  absl::StatusOr<std::string> String(const char* key) const;
  absl::StatusOr<std::string> StringOr(const char* key, const std::string& absent) const;

  absl::Status Missing(const char* key, const std::string& expected) const;
  absl::Status Wrong(const char* key, const std::string& expected) const;
  // UNIMPLEMENTED: "<file>: <field> <found> is not supported, expected <expected>".
  absl::Status Unsupported(const char* key, const std::string& found,
                           const std::string& expected) const;

 private:
  const nlohmann::json& object_;
  std::string file_;
  std::string prefix_;
};

}  // namespace tandem
