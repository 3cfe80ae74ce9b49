// Filters and tests of chat templates.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/text/jinja_library.h"
#include "lib/model/text/regex.h"
#include "lib/model/text/utf8.h"

namespace tandem::text {
namespace {

using FilterFunction = absl::StatusOr<Value> (*)(const Value&, const CallArgs&, Budget*);
using TestFunction = absl::StatusOr<bool> (*)(const Value&, const CallArgs&);

absl::StatusOr<int64_t> LengthOf(const Value& v) {
  if (v.IsUndefined()) return 0;
  if (v.IsString()) return static_cast<int64_t>(CountCodePoints(v.str()));
  if (v.IsList()) return static_cast<int64_t>(v.list().items.size());
  if (v.IsDict()) return static_cast<int64_t>(v.dict().entries().size());
  return TemplateError(
      absl::StrCat("object of type '", base::ToAbsl(TypeName(v)), "' has no length"));
}

absl::StatusOr<Value> LengthFilter(const Value& v, const CallArgs&, Budget*) {
  TANDEM_ASSIGN_OR_RETURN(const int64_t length, LengthOf(v));
  return Value(length);
}

absl::StatusOr<Value> TrimFilter(const Value& v, const CallArgs& args, Budget* budget) {
  TANDEM_ASSIGN_OR_RETURN(const std::string text, TextOf(v, budget));
  TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(text.size() * 4));
  return Value(StripText(text, args.Get(0, "chars"), true, true));
}

absl::StatusOr<Value> CaseFilter(const Value& v, bool upper, Budget* budget) {
  TANDEM_ASSIGN_OR_RETURN(const std::string given, TextOf(v, budget));
  TANDEM_ASSIGN_OR_RETURN(std::string text, ChangeCase(given, upper));
  return Value(std::move(text));
}

absl::StatusOr<Value> CapitalizeFilter(const Value& v, const CallArgs&, Budget* budget) {
  TANDEM_ASSIGN_OR_RETURN(const std::string given, TextOf(v, budget));
  TANDEM_ASSIGN_OR_RETURN(std::string text, ChangeCase(given, false));
  if (!text.empty()) text[0] = absl::ascii_toupper(static_cast<unsigned char>(text[0]));
  return Value(std::move(text));
}

absl::StatusOr<Value> DefaultFilter(const Value& v, const CallArgs& args, Budget*) {
  const Value* preset = args.Get(0, "default_value");
  const Value* boolean = args.Get(1, "boolean");
  const bool replace = v.IsUndefined() || (boolean != nullptr && Truthy(*boolean) && !Truthy(v));
  if (!replace) return v;
  return preset != nullptr ? *preset : Value(std::string());
}

// The attribute an argument names: a key of a dict, dots going deeper ("function.name").
absl::StatusOr<Value> ByPath(const Value& v, const Value& path) {
  if (!path.IsString()) return GetItem(v, path);
  Value at = v;
  std::string_view rest = path.str();
  while (true) {
    const size_t dot = rest.find('.');
    TANDEM_ASSIGN_OR_RETURN(at, GetItem(at, Value(std::string(rest.substr(0, dot)))));
    if (dot == std::string_view::npos) return at;
    rest.remove_prefix(dot + 1);
  }
}

absl::StatusOr<Value> JoinFilter(const Value& v, const CallArgs& args, Budget* budget) {
  TANDEM_ASSIGN_OR_RETURN(std::shared_ptr<const List> items, Iterate(v, budget));
  const Value* separator = args.Get(0, "d");
  const Value* attribute = args.Get(1, "attribute");
  if (attribute != nullptr) {
    List picked;
    for (const Value& item : items->items) {
      TANDEM_ASSIGN_OR_RETURN(Value value, ByPath(item, *attribute));
      picked.items.push_back(std::move(value));
    }
    items = MakeList(std::move(picked));
  }
  std::string between;
  if (separator != nullptr) {
    TANDEM_ASSIGN_OR_RETURN(between, TextOf(*separator, budget));
  }
  TANDEM_ASSIGN_OR_RETURN(std::string joined, JoinValues(*items, between, budget));
  return Value(std::move(joined));
}

absl::StatusOr<Value> EndFilter(const Value& v, bool first, Budget* budget) {
  TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<const List> items, Iterate(v, budget));
  if (items->items.empty()) return Value(Undefined{"the sequence was empty"});
  return first ? items->items.front() : items->items.back();
}

absl::StatusOr<Value> ReplaceFilter(const Value& v, const CallArgs& args, Budget* budget) {
  TANDEM_RETURN_IF_ERROR(args.CheckCount("replace", 2, 3));
  const Value *from = args.Get(0, "old"), *to = args.Get(1, "new"), *count = args.Get(2, "count");
  if (from == nullptr || to == nullptr) return TemplateError("replace: expected old and new");
  const int64_t times = count != nullptr && count->IsInt() ? count->integer() : -1;
  TANDEM_ASSIGN_OR_RETURN(const std::string given, TextOf(v, budget));
  TANDEM_ASSIGN_OR_RETURN(const std::string old_text, TextOf(*from, budget));
  TANDEM_ASSIGN_OR_RETURN(const std::string new_text, TextOf(*to, budget));
  TANDEM_ASSIGN_OR_RETURN(std::string text, ReplaceText(given, old_text, new_text, times, budget));
  return Value(std::move(text));
}

bool ParseFloat(const Value& v, double* out) {
  if (v.IsNumber()) {
    *out = v.number();
    return true;
  }
  return v.IsString() && absl::SimpleAtod(StripText(v.str(), nullptr, true, true), out);
}

absl::StatusOr<Value> IntFilter(const Value& v, const CallArgs& args, Budget*) {
  TANDEM_RETURN_IF_ERROR(args.CheckCount("int", 0, 1));
  int64_t integer = 0;
  double d = 0;
  if (v.IsInt()) return Value(v.integer());
  if (v.IsString() && absl::SimpleAtoi(StripText(v.str(), nullptr, true, true), &integer))
    return Value(integer);
  // 2^63 is the first double beyond the range.
  if (ParseFloat(v, &d) && std::abs(d) < 9223372036854775808.0)
    return Value(static_cast<int64_t>(d));
  const Value* preset = args.Get(0, "default");
  return preset != nullptr ? *preset : Value(int64_t{0});
}

absl::StatusOr<Value> FloatFilter(const Value& v, const CallArgs& args, Budget*) {
  double d = 0;
  if (ParseFloat(v, &d)) return Value(d);
  const Value* preset = args.Get(0, "default");
  return preset != nullptr ? *preset : Value(0.0);
}

absl::StatusOr<Value> ListFilter(const Value& v, const CallArgs&, Budget* budget) {
  TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<const List> items, Iterate(v, budget));
  TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(items->items.size() * sizeof(Value)));
  return Value(List{items->items, false});
}

absl::StatusOr<Value> ItemsFilter(const Value& v, const CallArgs&, Budget* budget) {
  if (v.IsUndefined()) return Value(List{});
  if (!v.IsDict()) return TemplateError("items: expected a dict");
  TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(v.dict().entries().size() * sizeof(Value)));
  return ItemsOf(v.dict());
}

absl::StatusOr<Value> ToJsonFilter(const Value& v, const CallArgs& args, Budget* budget) {
  JsonStyle style;
  const Value *ensure_ascii = args.Get(0, "ensure_ascii"), *indent = args.Get(1, "indent"),
              *separators = args.Get(2, "separators"), *sort_keys = args.Get(3, "sort_keys");
  if (ensure_ascii != nullptr) style.ensure_ascii = Truthy(*ensure_ascii);
  if (sort_keys != nullptr) style.sort_keys = Truthy(*sort_keys);
  if (indent != nullptr && !indent->IsNone()) {
    // A hundred spaces are more than anyone's taste; the bound keeps hostile output small.
    if (!indent->IsInt() || indent->integer() < 0 || indent->integer() > 100) {
      return TemplateError("tojson: indent must be 0 to 100");
    }
    style.indent = static_cast<int>(indent->integer());
  }
  if (separators != nullptr && !separators->IsNone()) {
    if (!separators->IsList() || separators->list().items.size() != 2)
      return TemplateError("tojson: separators must be a pair");
    TANDEM_ASSIGN_OR_RETURN(style.item_separator, TextOf(separators->list().items[0], budget));
    TANDEM_ASSIGN_OR_RETURN(style.key_separator, TextOf(separators->list().items[1], budget));
    if (style.indent >= 0 && style.item_separator == ", ") {
      return TemplateError("tojson: separators with a space before a line break are not supported");
    }
  }
  // Each node may take an indented line and both separators.
  const uint64_t per_node =
      8 + style.item_separator.size() + style.key_separator.size() +
      static_cast<uint64_t>(std::max(style.indent, 0)) * static_cast<uint64_t>(MeasureOf(v).depth);
  TANDEM_RETURN_IF_ERROR(
      budget->ChargeBytes(MeasureOf(v).weight * std::min<uint64_t>(per_node, 1 << 20)));
  TANDEM_ASSIGN_OR_RETURN(std::string text, ToJson(v, style));
  TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(text.size()));
  return Value(std::move(text));
}

absl::StatusOr<Value> IndentFilter(const Value& v, const CallArgs& args, Budget* budget) {
  const Value *width = args.Get(0, "width"), *first = args.Get(1, "first"),
              *blank = args.Get(2, "blank");
  std::string pad(4, ' ');
  if (width != nullptr && width->IsString()) pad = width->str();
  if (width != nullptr && width->IsInt())
    pad.assign(static_cast<size_t>(std::clamp<int64_t>(width->integer(), 0, 1000)), ' ');
  TANDEM_ASSIGN_OR_RETURN(const std::string text, TextOf(v, budget));
  // jinja2 appends a newline, splits into lines and joins them again, so the text's own ending
  // stays.
  std::string out;
  size_t at = 0;
  for (bool is_first = true; at <= text.size(); is_first = false) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const bool empty = end == at;
    const bool pads = is_first ? first != nullptr && Truthy(*first)
                               : !empty || (blank != nullptr && Truthy(*blank));
    absl::StrAppend(&out, is_first ? "" : "\n", pads ? pad : "", text.substr(at, end - at));
    TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(pad.size() + end - at));
    at = end + 1;
  }
  return Value(std::move(out));
}

// select, reject, selectattr, rejectattr: the first argument names the attribute (…attr), the next
// the test.
absl::StatusOr<Value> Choose(const Value& v, const CallArgs& args, bool by_attribute, bool keep,
                             Budget* budget) {
  TANDEM_RETURN_IF_ERROR(budget->ChargeWalk(v));
  TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<const List> items, Iterate(v, budget));
  const size_t test_at = by_attribute ? 1 : 0;
  if (args.positional.size() < test_at)
    return TemplateError("selectattr: expected the name of an attribute");
  CallArgs rest;
  for (size_t i = test_at + 1; i < args.positional.size(); ++i)
    rest.positional.push_back(args.positional[i]);
  List out;
  for (const Value& item : items->items) {
    TANDEM_RETURN_IF_ERROR(budget->Charge(2));
    Value subject = item;
    if (by_attribute) {
      TANDEM_ASSIGN_OR_RETURN(subject, ByPath(item, args.positional[0]));
    }
    bool passed = Truthy(subject);
    if (args.positional.size() > test_at) {
      TANDEM_ASSIGN_OR_RETURN(passed, ApplyTest(ToText(args.positional[test_at]), subject, rest));
    }
    if (passed == keep) out.items.push_back(item);
  }
  return Value(std::move(out));
}

absl::StatusOr<Value> MapFilter(const Value& v, const CallArgs& args, Budget* budget) {
  TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<const List> items, Iterate(v, budget));
  const Value* attribute = args.positional.empty() ? args.Get(0, "attribute") : nullptr;
  const Value* preset = args.positional.empty() ? args.Get(1, "default") : nullptr;
  if (args.positional.empty() && attribute == nullptr)
    return TemplateError("map: expected a filter or attribute=");
  CallArgs rest;
  for (size_t i = 1; i < args.positional.size(); ++i) rest.positional.push_back(args.positional[i]);
  List out;
  for (const Value& item : items->items) {
    TANDEM_RETURN_IF_ERROR(budget->Charge(2));
    absl::StatusOr<Value> mapped =
        attribute != nullptr ? ByPath(item, *attribute)
                             : ApplyFilter(ToText(args.positional[0]), item, rest, budget);
    if (!mapped.ok()) return mapped.status();
    out.items.push_back(mapped->IsUndefined() && preset != nullptr ? *preset : *mapped);
  }
  return Value(std::move(out));
}

// jinja2 sorts and compares text without regard to case unless told otherwise.
Value SortKey(const Value& v, bool case_sensitive) {
  return v.IsString() && !case_sensitive ? Value(absl::AsciiStrToLower(v.str())) : v;
}

absl::StatusOr<Value> SortFilter(const Value& v, const CallArgs& args, Budget* budget) {
  TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<const List> items, Iterate(v, budget));
  const Value *reverse = args.Get(0, "reverse"), *sensitive = args.Get(1, "case_sensitive"),
              *attribute = args.Get(2, "attribute");
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items->items) {
    TANDEM_RETURN_IF_ERROR(budget->Charge(20));
    TANDEM_RETURN_IF_ERROR(budget->ChargeWalk(item));
    Value key = item;
    if (attribute != nullptr) {
      TANDEM_ASSIGN_OR_RETURN(key, ByPath(item, *attribute));
    }
    keyed.emplace_back(SortKey(key, sensitive != nullptr && Truthy(*sensitive)), item);
    // Checked before sorting, so that the comparison below cannot fail in the middle.
    TANDEM_RETURN_IF_ERROR(CompareValues("<", keyed.front().first, keyed.back().first).status());
  }
  const bool down = reverse != nullptr && Truthy(*reverse);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    const auto less = CompareValues("<", down ? b.first : a.first, down ? a.first : b.first);
    return less.ok() && *less;
  });
  List out;
  for (auto& [key, item] : keyed) out.items.push_back(std::move(item));
  return Value(std::move(out));
}

absl::StatusOr<Value> ReverseFilter(const Value& v, const CallArgs&, Budget* budget) {
  if (v.IsString()) {
    const Value step(int64_t{-1});
    return Slice(v, nullptr, nullptr, &step, budget);
  }
  TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<const List> items, Iterate(v, budget));
  return Value(List{{items->items.rbegin(), items->items.rend()}, false});
}

absl::StatusOr<Value> UniqueFilter(const Value& v, const CallArgs&, Budget* budget) {
  TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<const List> items, Iterate(v, budget));
  Dict seen;
  List out;
  for (const Value& item : items->items) {
    TANDEM_RETURN_IF_ERROR(budget->Charge(2));
    const Value key = SortKey(item, false);
    if (seen.Find(key) != nullptr) continue;
    if (!seen.Set(key, Value(true))) return TemplateError("unique: expected texts or numbers");
    out.items.push_back(item);
  }
  return Value(std::move(out));
}

absl::StatusOr<Value> SafeFilter(const Value& v, const CallArgs&, Budget* budget) {
  TANDEM_ASSIGN_OR_RETURN(std::string text, TextOf(v, budget));
  return Value(std::move(text));
}

absl::StatusOr<Value> AbsFilter(const Value& v, const CallArgs&, Budget* budget) {
  if (!v.IsNumber()) return TemplateError("abs: expected a number");
  return v.number() < 0 ? Arithmetic("-", Value(int64_t{0}), v, budget) : v;
}

const absl::flat_hash_map<std::string, FilterFunction>& Filters() {
  static const absl::flat_hash_map<std::string, FilterFunction> filters = {
      {"length", LengthFilter},
      {"count", LengthFilter},
      {"trim", TrimFilter},
      {"default", DefaultFilter},
      {"d", DefaultFilter},
      {"join", JoinFilter},
      {"replace", ReplaceFilter},
      {"int", IntFilter},
      {"float", FloatFilter},
      {"list", ListFilter},
      {"items", ItemsFilter},
      {"tojson", ToJsonFilter},
      {"indent", IndentFilter},
      {"map", MapFilter},
      {"sort", SortFilter},
      {"reverse", ReverseFilter},
      {"unique", UniqueFilter},
      {"safe", SafeFilter},
      {"string", SafeFilter},
      {"abs", AbsFilter},
      {"capitalize", CapitalizeFilter},
      {"upper", [](const Value& v, const CallArgs&, Budget* b) { return CaseFilter(v, true, b); }},
      {"lower", [](const Value& v, const CallArgs&, Budget* b) { return CaseFilter(v, false, b); }},
      {"first", [](const Value& v, const CallArgs&, Budget* b) { return EndFilter(v, true, b); }},
      {"last", [](const Value& v, const CallArgs&, Budget* b) { return EndFilter(v, false, b); }},
      {"select",
       [](const Value& v, const CallArgs& a, Budget* b) { return Choose(v, a, false, true, b); }},
      {"reject",
       [](const Value& v, const CallArgs& a, Budget* b) { return Choose(v, a, false, false, b); }},
      {"selectattr",
       [](const Value& v, const CallArgs& a, Budget* b) { return Choose(v, a, true, true, b); }},
      {"rejectattr",
       [](const Value& v, const CallArgs& a, Budget* b) { return Choose(v, a, true, false, b); }},
  };
  return filters;
}

bool IsPlainInt(const Value& v) { return v.Is<int64_t>(); }

// odd, even, divisibleby: a modulo test on an integer.
absl::StatusOr<bool> Remainder(const Value& v, const Value& by, int64_t wanted) {
  if (!v.IsInt() || !by.IsInt() || by.integer() == 0)
    return TemplateError("test expects integers, not dividing by zero");
  return by.integer() == -1 ? wanted == 0
                            : (v.integer() % by.integer() + by.integer()) % by.integer() == wanted;
}

// lower, upper: text with cased letters, all of one case.
absl::StatusOr<bool> HasCase(const Value& v, bool upper) {
  const std::string text = ToText(v);
  TANDEM_ASSIGN_OR_RETURN(const std::string lowered, ChangeCase(text, false));
  TANDEM_ASSIGN_OR_RETURN(const std::string raised, ChangeCase(text, true));
  return lowered != raised && text == (upper ? raised : lowered);
}

const absl::flat_hash_map<std::string, TestFunction>& Tests() {
  static const absl::flat_hash_map<std::string, TestFunction> tests = {
      {"defined",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> { return !v.IsUndefined(); }},
      {"undefined",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> { return v.IsUndefined(); }},
      {"none", [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> { return v.IsNone(); }},
      {"boolean",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> { return v.Is<bool>(); }},
      {"true",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> {
         return v.Is<bool>() && Truthy(v);
       }},
      {"false",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> {
         return v.Is<bool>() && !Truthy(v);
       }},
      {"integer",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> { return IsPlainInt(v); }},
      {"float",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> { return v.Is<double>(); }},
      {"number",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> { return v.IsNumber(); }},
      {"string",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> { return v.IsString(); }},
      {"mapping",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> { return v.IsDict(); }},
      // An undefined value has a length and can be iterated, so jinja2 counts it here too.
      {"sequence",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> {
         return v.IsString() || v.IsList() || v.IsDict() || v.IsUndefined();
       }},
      {"iterable",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> {
         return v.IsString() || v.IsList() || v.IsDict() || v.IsUndefined();
       }},
      {"callable",
       [](const Value& v, const CallArgs&) -> absl::StatusOr<bool> {
         return v.Is<Macro>() || v.Is<Function>();
       }},
      {"odd", [](const Value& v, const CallArgs&) { return Remainder(v, Value(int64_t{2}), 1); }},
      {"even", [](const Value& v, const CallArgs&) { return Remainder(v, Value(int64_t{2}), 0); }},
      {"lower", [](const Value& v, const CallArgs&) { return HasCase(v, false); }},
      {"upper", [](const Value& v, const CallArgs&) { return HasCase(v, true); }},
  };
  return tests;
}

// Tests that compare with an argument, by the operator they stand for.
const absl::flat_hash_map<std::string, std::string>& ComparingTests() {
  static const absl::flat_hash_map<std::string, std::string> tests = {
      {"==", "=="},      {"eq", "=="}, {"equalto", "=="}, {"!=", "!="},
      {"ne", "!="},      {">", ">"},   {"gt", ">"},       {"greaterthan", ">"},
      {"ge", ">="},      {">=", ">="}, {"<", "<"},        {"lt", "<"},
      {"lessthan", "<"}, {"<=", "<="}, {"le", "<="},      {"in", "in"}};
  return tests;
}

// Letters beyond ASCII that have another case: \p{L&}, and the Roman and circled ones.
const Regex& ForeignCased() {
  static const Regex* regex = [] {
    absl::StatusOr<Regex> made =
        Regex::Compile("(?![\\x00-\\x7f])[\\p{L&}\\x{2160}-\\x{217f}\\x{24b6}-\\x{24e9}\\x{345}]");
    return new Regex(*std::move(made));
  }();
  return *regex;
}

}  // namespace

absl::StatusOr<std::string> ChangeCase(const std::string& s, bool upper) {
  std::vector<std::pair<size_t, size_t>> foreign;
  TANDEM_RETURN_IF_ERROR(ForeignCased().FindAll(s, &foreign));
  if (!foreign.empty())
    return TemplateError("upper and lower are supported for ASCII letters only");
  return upper ? absl::AsciiStrToUpper(s) : absl::AsciiStrToLower(s);
}

absl::StatusOr<std::string> ReplaceText(const std::string& s, const std::string& from,
                                        const std::string& to, int64_t count, Budget* budget) {
  if (from.empty())
    return TemplateError("replace: the text to replace is empty, which is not supported");
  std::string out;
  size_t at = 0;
  for (int64_t done = 0; count < 0 || done < count; ++done) {
    const size_t found = s.find(from, at);
    if (found == std::string::npos) break;
    out.append(s, at, found - at);
    out += to;
    TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(found - at + to.size()));
    at = found + from.size();
  }
  out.append(s, at);
  TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(out.size()));
  return out;
}

absl::StatusOr<std::string> JoinValues(const List& items, const std::string& separator,
                                       Budget* budget) {
  std::string out;
  for (size_t i = 0; i < items.items.size(); ++i) {
    if (i > 0) out += separator;
    TANDEM_ASSIGN_OR_RETURN(const std::string text, TextOf(items.items[i], budget));
    out += text;
    TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(separator.size()));
  }
  TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(out.size()));
  return out;
}

absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& self, const CallArgs& args,
                                  Budget* budget) {
  const auto it = Filters().find(name);
  if (it == Filters().end())
    return TemplateError(absl::StrCat("filter '", name, "' is unknown or not supported"));
  return it->second(self, args, budget);
}

absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& self, const CallArgs& args) {
  const auto plain = Tests().find(name);
  if (plain != Tests().end()) {
    TANDEM_RETURN_IF_ERROR(args.CheckCount(name, 0, 0));
    return plain->second(self, args);
  }
  const Value* other = args.Get(0, "other");
  const auto comparing = ComparingTests().find(name);
  if (other != nullptr && comparing != ComparingTests().end())
    return CompareValues(comparing->second, self, *other);
  if (other != nullptr && name == "divisibleby") return Remainder(self, *other, 0);
  if (other != nullptr && name == "sameas")
    return self.data().index() == other->data().index() && Equal(self, *other);
  return TemplateError(
      absl::StrCat("test '", name, "' is unknown, not supported or lacks its argument"));
}

}  // namespace tandem::text
