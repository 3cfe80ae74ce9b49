#include "coordinator/api/openai_fields.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tandem::coordinator {
namespace {

// Tool schemas and template arguments nest a dozen levels. Printing is recursive, so there is a
// bound.
constexpr int kDepthMax = 64;
// Of a wrong value or of the library's complaint, in an error message.
constexpr size_t kQuotedBytesMax = 200;

std::string Quoted(const InputJson& value) {
  if (value.is_array()) return absl::StrCat("a list of ", value.size());
  if (value.is_object()) return "an object";
  std::string text = value.dump(-1, ' ', true, InputJson::error_handler_t::replace);
  if (text.size() > kQuotedBytesMax) text = text.substr(0, kQuotedBytesMax) + "...";
  return text;
}

}  // namespace

std::variant<InputJson, ApiError> ParseJsonObject(const std::string& body) {
  bool too_deep = false;
  const InputJson::parser_callback_t bound = [&too_deep](int depth, InputJson::parse_event_t,
                                                         InputJson&) {
    too_deep = too_deep || depth > kDepthMax;
    return !too_deep;
  };
  InputJson json;
  try {
    json = InputJson::parse(body, bound);
  } catch (const InputJson::exception& error) {
    return BadRequest(absl::StrCat("the body is not valid JSON: ",
                                   std::string(error.what()).substr(0, kQuotedBytesMax)));
  }
  if (too_deep)
    return BadRequest(absl::StrCat("the body nests deeper than ", kDepthMax, " levels"));
  if (!json.is_object()) return BadRequest("expected the body to be a JSON object");
  return json;
}

std::optional<int64_t> IntegerOf(const InputJson& value, int64_t low, int64_t high) {
  int64_t number = 0;
  if (value.is_number_unsigned()) {
    const uint64_t large = value.get<uint64_t>();
    if (large > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    number = static_cast<int64_t>(large);
  } else if (value.is_number_integer()) {
    number = value.get<int64_t>();
  } else if (value.is_number_float()) {
    const double real = value.get<double>();
    // Beyond 2^53 a double no longer tells neighbours apart.
    if (std::trunc(real) != real || std::abs(real) > 9007199254740992.0) return std::nullopt;
    number = static_cast<int64_t>(real);
  } else {
    return std::nullopt;
  }
  if (number < low || number > high) return std::nullopt;
  return number;
}

const InputJson* FieldReader::Find(const std::string& name) const {
  const auto it = object_->find(name);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

void FieldReader::Expected(const std::string& name, const std::string& what,
                           const InputJson& found) {
  Fail(BadRequest(absl::StrCat("expected ", what, " for '", name, "', found ", Quoted(found)), name,
                  "invalid_value"));
}

bool FieldReader::Bool(const std::string& name, bool otherwise) {
  const InputJson* value = Find(name);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) {
    Expected(name, "true or false", *value);
    return otherwise;
  }
  return value->get<bool>();
}

double FieldReader::Number(const std::string& name, double otherwise, double low, double high) {
  const InputJson* value = Find(name);
  if (value == nullptr) return otherwise;
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (number >= low && number <= high) return number;
  Expected(name, absl::StrFormat("a number from %g to %g", low, high), *value);
  return otherwise;
}

int64_t FieldReader::Integer(const std::string& name, int64_t otherwise, int64_t low,
                             int64_t high) {
  const InputJson* value = Find(name);
  if (value == nullptr) return otherwise;
  const std::optional<int64_t> number = IntegerOf(*value, low, high);
  if (!number) Expected(name, absl::StrCat("an integer from ", low, " to ", high), *value);
  return number.value_or(otherwise);
}

std::string FieldReader::String(const std::string& name) {
  const InputJson* value = Find(name);
  if (value == nullptr) return "";
  if (!value->is_string()) {
    Expected(name, "a string", *value);
    return "";
  }
  return value->get<std::string>();
}

const InputJson* FieldReader::Object(const std::string& name) {
  const InputJson* value = Find(name);
  if (value == nullptr || value->is_object()) return value;
  Expected(name, "an object", *value);
  return nullptr;
}

}  // namespace tandem::coordinator
