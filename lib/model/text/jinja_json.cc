// JSON in and out of template values, in Python's json.dumps spelling.
#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/text/jinja_value.h"
#include "lib/model/text/utf8.h"

namespace tandem::text {
namespace {

constexpr int kJsonDepthMax = 200;

std::string JsonString(const std::string& s, bool ensure_ascii) {
  std::string out = "\"";
  for (const char32_t c : CodePoints(s)) {
    const uint32_t code = c;
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (code < 0x20 || (ensure_ascii && code >= 0x7F && code < 0x10000)) {
          if (code == 0x7F) {
            out += '\x7f';
          } else {
            out += absl::StrFormat("\\u%04x", code);
          }
        } else if (ensure_ascii && code >= 0x10000) {
          out += absl::StrFormat("\\u%04x\\u%04x", 0xD800 + ((code - 0x10000) >> 10),
                                 0xDC00 + (code & 0x3FF));
        } else {
          AppendUtf8(c, &out);
        }
    }
  }
  return out + "\"";
}

class Writer {
 public:
  explicit Writer(const JsonStyle& style) : style_(style) {}

  absl::Status Write(const Value& v, int depth) {
    if (depth > kJsonDepthMax)
      return absl::InvalidArgumentError("tojson: value is nested too deep");
    if (v.IsString()) {
      out_ += JsonString(v.str(), style_.ensure_ascii);
    } else if (v.IsList()) {
      return WriteList(v.list(), depth);
    } else if (v.IsDict()) {
      return WriteDict(v.dict(), depth);
    } else {
      TANDEM_ASSIGN_OR_RETURN(const std::string scalar, Scalar(v));
      out_ += scalar;
    }
    return absl::OkStatus();
  }

  std::string out_;

 private:
  static absl::StatusOr<std::string> Scalar(const Value& v) {
    if (v.IsNone()) return std::string("null");
    if (v.Is<bool>()) return std::string(v.integer() != 0 ? "true" : "false");
    if (v.Is<int64_t>()) return absl::StrCat(v.integer());
    if (v.Is<double>()) {
      const std::string text = FloatText(v.number());
      return text == "nan"    ? "NaN"
             : text == "inf"  ? "Infinity"
             : text == "-inf" ? "-Infinity"
                              : text;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("Object of type ", base::ToAbsl(TypeName(v)), " is not JSON serializable"));
  }

  // A line break and `depth` levels of indentation, when indenting.
  void Break(int depth) {
    if (style_.indent < 0) return;
    out_ += '\n';
    out_.append(static_cast<size_t>(style_.indent) * static_cast<size_t>(depth), ' ');
  }
  // With an indent, Python's default separator has no space before the line break.
  void Separate(int depth) {
    out_ += style_.indent >= 0 && style_.item_separator == ", " ? "," : style_.item_separator;
    Break(depth);
  }

  absl::Status WriteList(const List& list, int depth) {
    out_ += '[';
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i == 0) {
        Break(depth + 1);
      } else {
        Separate(depth + 1);
      }
      TANDEM_RETURN_IF_ERROR(Write(list.items[i], depth + 1));
    }
    if (!list.items.empty()) Break(depth);
    out_ += ']';
    return absl::OkStatus();
  }

  absl::Status WriteDict(const Dict& dict, int depth) {
    std::vector<std::pair<std::string, const Value*>> entries;
    for (const auto& [key, value] : dict.entries()) {
      std::string name;
      if (key.IsString()) {
        name = key.str();
      } else {
        TANDEM_ASSIGN_OR_RETURN(name, Scalar(key));
      }
      entries.emplace_back(std::move(name), &value);
    }
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    out_ += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i == 0) {
        Break(depth + 1);
      } else {
        Separate(depth + 1);
      }
      out_ += JsonString(entries[i].first, style_.ensure_ascii) + style_.key_separator;
      TANDEM_RETURN_IF_ERROR(Write(*entries[i].second, depth + 1));
    }
    if (!entries.empty()) Break(depth);
    out_ += '}';
    return absl::OkStatus();
  }

  const JsonStyle& style_;
};

// Everything behind this point may rely on well-formed text.
absl::StatusOr<Value> TextValue(const std::string& s) {
  if (!base::IsValidUtf8(s))
    return absl::InvalidArgumentError("template input holds text that is not valid UTF-8");
  return Value(s);
}

absl::StatusOr<Value> FromJsonAt(const nlohmann::ordered_json& json, int depth) {
  if (depth > kJsonDepthMax)
    return absl::InvalidArgumentError("template input is nested deeper than 200 levels");
  if (json.is_null()) return Value(None{});
  if (json.is_boolean()) return Value(json.get<bool>());
  if (json.is_number_unsigned() &&
      json.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return absl::InvalidArgumentError("template input holds an integer above 2^63 - 1");
  }
  if (json.is_number_integer()) return Value(json.get<int64_t>());
  if (json.is_number_float()) return Value(json.get<double>());
  if (json.is_string()) return TextValue(json.get_ref<const std::string&>());
  if (json.is_array()) {
    List list;
    list.items.reserve(json.size());
    for (const auto& item : json) {
      TANDEM_ASSIGN_OR_RETURN(Value value, FromJsonAt(item, depth + 1));
      list.items.push_back(std::move(value));
    }
    return Value(std::move(list));
  }
  if (!json.is_object())
    return absl::InvalidArgumentError("template input holds a value JSON does not have");
  Dict dict;
  for (const auto& [key, item] : json.items()) {
    TANDEM_ASSIGN_OR_RETURN(const Value name, TextValue(key));
    TANDEM_ASSIGN_OR_RETURN(Value value, FromJsonAt(item, depth + 1));
    dict.Set(name, std::move(value));
  }
  return Value(std::move(dict));
}

}  // namespace

absl::StatusOr<std::string> ToJson(const Value& v, const JsonStyle& style) {
  Writer writer(style);
  TANDEM_RETURN_IF_ERROR(writer.Write(v, 0));
  return std::move(writer.out_);
}

absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json) { return FromJsonAt(json, 0); }

}  // namespace tandem::text
