#include "lib/model/text/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/text/utf8.h"

namespace tandem::text {
namespace {

// Equal keys get equal strings: True, 1 and 1.0 are one key in Python. Empty for what cannot be a
// key.
std::string KeyOf(const Value& v) {
  if (v.IsString()) return "s" + v.str();
  if (v.IsInt()) return absl::StrCat("n", v.integer());
  if (v.Is<double>()) {
    const double d = v.number();
    return d == std::floor(d) && std::abs(d) < 9e15 ? absl::StrCat("n", static_cast<int64_t>(d))
                                                    : "f" + FloatText(d);
  }
  return v.IsNone() ? "0" : "";
}

constexpr uint64_t kWeightMax = uint64_t{1} << 40;

void Include(const Value& kid, Measure* all) {
  const Measure m = MeasureOf(kid);
  all->weight = std::min(kWeightMax, all->weight + m.weight);
  all->depth = std::max(all->depth, m.depth + 1);
  all->has_namespace = all->has_namespace || m.has_namespace;
}

bool EqualLists(const List& a, const List& b) {
  if (&a == &b) return true;
  return a.is_tuple == b.is_tuple && a.items.size() == b.items.size() &&
         std::equal(a.items.begin(), a.items.end(), b.items.begin(), Equal);
}

bool EqualDicts(const Dict& a, const Dict& b) {
  if (&a == &b) return true;
  if (a.entries().size() != b.entries().size()) return false;
  return std::all_of(a.entries().begin(), a.entries().end(), [&](const auto& entry) {
    const Value* other = b.Find(entry.first);
    return other != nullptr && Equal(entry.second, *other);
  });
}

// Python prints these escaped: categories C and Z except the space. Beyond Latin-1 only the common
// ones are listed.
bool Printable(char32_t c) {
  if (c < 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD) return false;
  if (c == 0x20) return true;
  return !IsUnicodeSpace(c) && !(c >= 0x200B && c <= 0x200F) && !(c >= 0x202A && c <= 0x202E) &&
         !(c >= 0x2060 && c <= 0x206F) && !(c >= 0xE000 && c <= 0xF8FF) && c != 0xFEFF &&
         c < 0xE0000;
}

std::string StringRepr(const std::string& s) {
  const bool has_single = s.find('\'') != std::string::npos,
             has_double = s.find('"') != std::string::npos;
  const char32_t quote = has_single && !has_double ? '"' : '\'';
  std::string out(1, static_cast<char>(quote));
  for (const char32_t c : CodePoints(s)) {
    if (c == quote || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (Printable(c)) {
      AppendUtf8(c, &out);
    } else {
      const uint32_t code = c;
      out += code < 0x100     ? absl::StrFormat("\\x%02x", code)
             : code < 0x10000 ? absl::StrFormat("\\u%04x", code)
                              : absl::StrFormat("\\U%08x", code);
    }
  }
  out += static_cast<char>(quote);
  return out;
}

std::string ListRepr(const List& list) {
  std::string out = list.is_tuple ? "(" : "[";
  for (size_t i = 0; i < list.items.size(); ++i)
    absl::StrAppend(&out, i > 0 ? ", " : "", ToRepr(list.items[i]));
  if (list.is_tuple && list.items.size() == 1) out += ",";
  return out + (list.is_tuple ? ")" : "]");
}

std::string DictRepr(const Dict& dict) {
  std::string out = "{";
  for (const auto& [key, value] : dict.entries()) {
    absl::StrAppend(&out, out.size() > 1 ? ", " : "", ToRepr(key), ": ", ToRepr(value));
  }
  return out + "}";
}

}  // namespace

bool Dict::Set(const Value& key, Value value) {
  const std::string name = KeyOf(key);
  if (name.empty()) return false;
  const auto [it, fresh] = index_.emplace(name, entries_.size());
  if (fresh) {
    entries_.emplace_back(key, std::move(value));
  } else {
    entries_[it->second].second = std::move(value);
  }
  return true;
}

const Value* Dict::Find(const Value& key) const {
  const auto it = index_.find(KeyOf(key));
  return it == index_.end() ? nullptr : &entries_[it->second].second;
}

const Value* Dict::Find(std::string_view key) const {
  const auto it = index_.find("s" + std::string(key));
  return it == index_.end() ? nullptr : &entries_[it->second].second;
}

std::shared_ptr<const List> MakeList(List list) {
  list.measure = {};
  for (const Value& item : list.items) Include(item, &list.measure);
  return std::make_shared<const List>(std::move(list));
}

Value::Value(Dict d) {
  d.measure = {};
  for (const auto& [key, value] : d.entries()) {
    Include(key, &d.measure);
    Include(value, &d.measure);
  }
  data_ = std::make_shared<const Dict>(std::move(d));
}

Measure MeasureOf(const Value& v) {
  if (v.IsList()) return v.list().measure;
  if (v.IsDict()) return v.dict().measure;
  Measure m;
  if (v.IsString()) m.weight += v.str().size();
  m.has_namespace = v.Is<std::shared_ptr<Namespace>>();
  if (v.Is<Function>()) {
    const auto& self = std::get<Function>(v.data()).self;
    if (self != nullptr) Include(*self, &m);
  }
  if (v.Is<std::shared_ptr<const Loop>>()) {
    const Measure items = std::get<std::shared_ptr<const Loop>>(v.data())->items->measure;
    m.depth = items.depth + 1;
    m.has_namespace = items.has_namespace;
  }
  return m;
}

bool Truthy(const Value& v) {
  if (v.IsUndefined() || v.IsNone()) return false;
  if (v.IsInt()) return v.integer() != 0;
  if (v.Is<double>()) return v.number() != 0;
  if (v.IsString()) return !v.str().empty();
  if (v.IsList()) return !v.list().items.empty();
  if (v.IsDict()) return !v.dict().entries().empty();
  return true;
}

bool Equal(const Value& a, const Value& b) {
  if (a.IsInt() && b.IsInt()) return a.integer() == b.integer();
  if (a.IsNumber() && b.IsNumber()) return a.number() == b.number();
  if (a.data().index() != b.data().index()) return false;
  if (a.IsString()) return a.str() == b.str();
  if (a.IsList()) return EqualLists(a.list(), b.list());
  if (a.IsDict()) return EqualDicts(a.dict(), b.dict());
  if (a.Is<std::shared_ptr<Namespace>>()) {
    return std::get<std::shared_ptr<Namespace>>(a.data()) ==
           std::get<std::shared_ptr<Namespace>>(b.data());
  }
  return a.IsUndefined() || a.IsNone();
}

std::string FloatText(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  char buffer[64];
  const double size = std::abs(d);
  // Python switches to an exponent below 1e-4 and from 1e16 on.
  const bool scientific = d != 0 && (size < 1e-4 || size >= 1e16);
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), d,
                    scientific ? std::chars_format::scientific : std::chars_format::fixed);
  std::string out(buffer, end.ptr);
  if (!scientific && out.find('.') == std::string::npos) out += ".0";
  return out;
}

std::string ToText(const Value& v) {
  if (v.IsString()) return v.str();
  if (v.IsUndefined()) return "";
  return ToRepr(v);
}

std::string ToRepr(const Value& v) {
  if (v.IsString()) return StringRepr(v.str());
  if (v.IsNone()) return "None";
  if (v.Is<bool>()) return v.integer() != 0 ? "True" : "False";
  if (v.Is<int64_t>()) return absl::StrCat(v.integer());
  if (v.Is<double>()) return FloatText(v.number());
  if (v.IsList()) return ListRepr(v.list());
  if (v.IsDict()) return DictRepr(v.dict());
  if (v.IsUndefined()) return "Undefined";
  return absl::StrCat("<", base::ToAbsl(TypeName(v)), ">");
}

std::string_view TypeName(const Value& v) {
  if (v.IsString()) return "str";
  if (v.IsUndefined()) return "Undefined";
  if (v.IsNone()) return "NoneType";
  if (v.Is<bool>()) return "bool";
  if (v.Is<int64_t>()) return "int";
  if (v.Is<double>()) return "float";
  if (v.IsList()) return v.list().is_tuple ? "tuple" : "list";
  if (v.IsDict()) return "dict";
  if (v.Is<std::shared_ptr<Namespace>>()) return "Namespace";
  if (v.Is<std::shared_ptr<const Loop>>()) return "LoopContext";
  return v.Is<Macro>() ? "Macro" : "function";
}

}  // namespace tandem::text
