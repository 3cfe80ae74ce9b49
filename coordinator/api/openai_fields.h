// Reads the fields of a JSON object that a stranger wrote: absent and null are the same, the first
// thing that is wrong is remembered with the field's name, and reading goes on with defaults. So a
// parser is a list of fields instead of a ladder of returns.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "coordinator/api/openai_error.h"
#include "nlohmann/json.hpp"

namespace tandem::coordinator {

// Sorted, not ordered_json: that one looks through all keys for each new one, and a stranger can
// write a million.
using InputJson = nlohmann::json;

// The object in `body`. 400 for what is no JSON, no object, or nested deeper than any request is.
std::variant<InputJson, ApiError> ParseJsonObject(const std::string& body);

class FieldReader {
 public:
  // `object` must outlive this.
  explicit FieldReader(const InputJson* object) : object_(object) {}

  // Null when the field is absent or null.
  const InputJson* Find(const std::string& name) const;
  bool Bool(const std::string& name, bool otherwise);
  double Number(const std::string& name, double otherwise, double low, double high);
  int64_t Integer(const std::string& name, int64_t otherwise, int64_t low, int64_t high);
  std::string String(const std::string& name);
  // Null when absent; an error when it is no object.
  const InputJson* Object(const std::string& name);

  // "expected <what> for '<name>', found <found>"
  void Expected(const std::string& name, const std::string& what, const InputJson& found);
  void Fail(ApiError error) {
    if (!error_) error_ = std::move(error);
  }
  const std::optional<ApiError>& error() const { return error_; }

 private:
  const InputJson* object_;
  std::optional<ApiError> error_;
};

// An integral number (1 and 1.0, not true or "1") from low to high.
std::optional<int64_t> IntegerOf(const InputJson& value, int64_t low, int64_t high);

}  // namespace tandem::coordinator
