// Methods of strings, dicts and lists, and the global functions of chat templates.
#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/text/jinja_library.h"
#include "lib/model/text/utf8.h"

namespace tandem::text {
namespace {

constexpr std::array<std::string_view, 19> kStringMethods = {
    "split",      "rsplit",       "strip",        "lstrip",  "rstrip", "startswith", "endswith",
    "upper",      "lower",        "capitalize",   "replace", "find",   "count",      "join",
    "splitlines", "removeprefix", "removesuffix", "isdigit", "format"};
constexpr std::array<std::string_view, 8> kDictMethods = {"items", "keys",   "values",     "get",
                                                          "pop",   "update", "setdefault", "clear"};
constexpr std::array<std::string_view, 9> kListMethods = {
    "count", "index", "append", "extend", "insert", "pop", "remove", "clear", "sort"};

template <size_t n>
bool Among(const std::array<std::string_view, n>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// str.isspace(): white space and the four information separators.
bool IsPythonSpace(char32_t c) { return IsUnicodeSpace(c) || (c >= 0x1C && c <= 0x1F); }

absl::StatusOr<std::string> TextArg(const CallArgs& args, size_t index, std::string_view name,
                                    std::string_view method) {
  const Value* v = args.Get(index, name);
  if (v == nullptr || !v->IsString()) {
    return TemplateError(absl::StrCat(base::ToAbsl(method), ": expected a string, found ",
                                      v == nullptr ? "nothing" : base::ToAbsl(TypeName(*v))));
  }
  return v->str();
}

absl::StatusOr<int64_t> IntArg(const CallArgs& args, size_t index, std::string_view name,
                               int64_t preset) {
  const Value* v = args.Get(index, name);
  if (v == nullptr) return preset;
  if (!v->IsInt())
    return TemplateError(absl::StrCat("argument '", base::ToAbsl(name), "' must be an integer"));
  return v->integer();
}

// split() without separator: runs of white space separate, none at the ends.
std::vector<std::string> SplitOnSpace(const std::string& s, int64_t max_splits) {
  const std::vector<char32_t> chars = CodePoints(s);
  std::vector<std::string> parts;
  size_t at = 0;
  while (true) {
    while (at < chars.size() && IsPythonSpace(chars[at])) ++at;
    if (at == chars.size()) return parts;
    size_t end = at;
    const bool rest = max_splits >= 0 && static_cast<int64_t>(parts.size()) >= max_splits;
    while (end < chars.size() && (rest || !IsPythonSpace(chars[end]))) ++end;
    parts.push_back(EncodeUtf8(chars, at, end));
    at = end;
  }
}

std::vector<std::string> SplitOn(const std::string& s, const std::string& separator,
                                 int64_t max_splits) {
  std::vector<std::string> parts;
  size_t at = 0;
  while (max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits) {
    const size_t found = s.find(separator, at);
    if (found == std::string::npos) break;
    parts.push_back(s.substr(at, found - at));
    at = found + separator.size();
  }
  parts.push_back(s.substr(at));
  return parts;
}

std::vector<std::string> SplitFromRight(const std::string& s, const std::string& separator,
                                        int64_t max_splits) {
  std::vector<std::string> parts;
  std::string rest = s;
  while (max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits) {
    const size_t found = rest.rfind(separator);
    if (found == std::string::npos) break;
    parts.push_back(rest.substr(found + separator.size()));
    rest.resize(found);
  }
  parts.push_back(rest);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

Value TextList(std::vector<std::string> parts) {
  List list;
  for (std::string& part : parts) list.items.emplace_back(std::move(part));
  return Value(std::move(list));
}

absl::StatusOr<Value> SplitMethod(const std::string& s, bool from_right, const CallArgs& args,
                                  Budget* budget) {
  TANDEM_RETURN_IF_ERROR(args.CheckCount("split", 0, 2));
  // The worst case is one piece per byte.
  TANDEM_RETURN_IF_ERROR(budget->Charge(1 + static_cast<int64_t>(s.size())));
  TANDEM_ASSIGN_OR_RETURN(const int64_t max_splits, IntArg(args, 1, "maxsplit", -1));
  const Value* separator = args.Get(0, "sep");
  if (separator == nullptr || separator->IsNone()) {
    if (from_right && max_splits >= 0)
      return TemplateError("rsplit by white space with a limit is not supported");
    return TextList(SplitOnSpace(s, max_splits));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::string by, TextArg(args, 0, "sep", "split"));
  if (by.empty()) return TemplateError("split: empty separator");
  return TextList(from_right ? SplitFromRight(s, by, max_splits) : SplitOn(s, by, max_splits));
}

absl::StatusOr<Value> SplitLines(const std::string& s) {
  std::vector<std::string> lines;
  const std::vector<char32_t> chars = CodePoints(s);
  size_t begin = 0;
  for (size_t i = 0; i < chars.size(); ++i) {
    const char32_t c = chars[i];
    const bool ends = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                      c == 0x2028 || c == 0x2029;
    if (!ends) continue;
    lines.push_back(EncodeUtf8(chars, begin, i));
    if (c == '\r' && i + 1 < chars.size() && chars[i + 1] == '\n') ++i;
    begin = i + 1;
  }
  if (begin < chars.size()) lines.push_back(EncodeUtf8(chars, begin, chars.size()));
  return TextList(std::move(lines));
}

// startswith and endswith take a string or a tuple of strings.
absl::StatusOr<Value> Borders(const std::string& s, const Value* argument, bool at_start,
                              std::string_view method) {
  ValueList options;
  if (argument != nullptr && argument->IsString()) options = {*argument};
  if (argument != nullptr && argument->IsList() && argument->list().is_tuple)
    options = argument->list().items;
  if (argument == nullptr || (!argument->IsString() && !argument->IsList())) {
    return TemplateError(
        absl::StrCat(base::ToAbsl(method), ": expected a string or a tuple of strings"));
  }
  for (const Value& option : options) {
    if (!option.IsString())
      return TemplateError(absl::StrCat(base::ToAbsl(method), ": expected strings"));
    const std::string& t = option.str();
    if (s.size() < t.size()) continue;
    if (s.compare(at_start ? 0 : s.size() - t.size(), t.size(), t) == 0) return Value(true);
  }
  return Value(false);
}

int64_t CountText(const std::string& s, const std::string& part) {
  if (part.empty()) return static_cast<int64_t>(CountCodePoints(s)) + 1;
  int64_t count = 0;
  for (size_t at = s.find(part); at != std::string::npos; at = s.find(part, at + part.size()))
    ++count;
  return count;
}

absl::StatusOr<Value> FindText(const std::string& s, const CallArgs& args) {
  TANDEM_RETURN_IF_ERROR(args.CheckCount("find", 1, 1));
  TANDEM_ASSIGN_OR_RETURN(const std::string part, TextArg(args, 0, "sub", "find"));
  const size_t at = s.find(part);
  if (at == std::string::npos) return Value(int64_t{-1});
  return Value(static_cast<int64_t>(CountCodePoints(std::string_view(s).substr(0, at))));
}

absl::StatusOr<Value> RemoveBorder(const std::string& s, const CallArgs& args, bool prefix) {
  TANDEM_ASSIGN_OR_RETURN(const std::string part, TextArg(args, 0, "prefix", "removeprefix"));
  TANDEM_ASSIGN_OR_RETURN(const Value has, Borders(s, args.Get(0, ""), prefix, "removeprefix"));
  if (!Truthy(has)) return Value(s);
  return Value(prefix ? s.substr(part.size()) : s.substr(0, s.size() - part.size()));
}

absl::StatusOr<Value> StringMethod(const std::string& s, const std::string& name,
                                   const CallArgs& args, Budget* budget) {
  TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(s.size()));
  if (name == "split" || name == "rsplit") return SplitMethod(s, name == "rsplit", args, budget);
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    TANDEM_RETURN_IF_ERROR(args.CheckCount(name, 0, 1));
    return Value(StripText(s, args.Get(0, "chars"), name != "rstrip", name != "lstrip"));
  }
  if (name == "startswith" || name == "endswith") {
    TANDEM_RETURN_IF_ERROR(args.CheckCount(name, 1, 1));
    return Borders(s, args.Get(0, "prefix"), name == "startswith", name);
  }
  if (name == "upper" || name == "lower") {
    TANDEM_ASSIGN_OR_RETURN(std::string changed, ChangeCase(s, name == "upper"));
    return Value(std::move(changed));
  }
  if (name == "replace") {
    TANDEM_RETURN_IF_ERROR(args.CheckCount(name, 2, 3));
    TANDEM_ASSIGN_OR_RETURN(const std::string from, TextArg(args, 0, "old", name));
    TANDEM_ASSIGN_OR_RETURN(const std::string to, TextArg(args, 1, "new", name));
    TANDEM_ASSIGN_OR_RETURN(const int64_t count, IntArg(args, 2, "count", -1));
    TANDEM_ASSIGN_OR_RETURN(std::string changed, ReplaceText(s, from, to, count, budget));
    return Value(std::move(changed));
  }
  if (name == "find") return FindText(s, args);
  if (name == "count") {
    TANDEM_ASSIGN_OR_RETURN(const std::string part, TextArg(args, 0, "sub", name));
    return Value(CountText(s, part));
  }
  if (name == "join") {
    TANDEM_RETURN_IF_ERROR(args.CheckCount(name, 1, 1));
    TANDEM_ASSIGN_OR_RETURN(const auto items, Iterate(*args.Get(0, "iterable"), budget));
    TANDEM_ASSIGN_OR_RETURN(std::string joined, JoinValues(*items, s, budget));
    return Value(std::move(joined));
  }
  if (name == "splitlines") return SplitLines(s);
  if (name == "removeprefix" || name == "removesuffix")
    return RemoveBorder(s, args, name == "removeprefix");
  if (name == "isdigit") {
    return Value(!s.empty() &&
                 std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; }));
  }
  if (name == "capitalize") return ApplyFilter("capitalize", Value(s), args, budget);
  return TemplateError(absl::StrCat("string method '", name, "' is not supported"));
}

absl::StatusOr<Value> DictMethod(const Dict& dict, const std::string& name, const CallArgs& args,
                                 Budget* budget) {
  TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(dict.entries().size() * sizeof(Value)));
  if (name == "items") return ItemsOf(dict);
  if (name == "keys" || name == "values") {
    List list;
    for (const auto& [key, value] : dict.entries())
      list.items.push_back(name == "keys" ? key : value);
    return Value(std::move(list));
  }
  if (name == "get") {
    TANDEM_RETURN_IF_ERROR(args.CheckCount(name, 1, 2));
    const Value* key = args.Get(0, "key");
    const Value* found = key == nullptr ? nullptr : dict.Find(*key);
    const Value* preset = args.Get(1, "default");
    return found != nullptr ? *found : preset != nullptr ? *preset : Value(None{});
  }
  return TemplateError(
      absl::StrCat("'", name, "' would modify a dict, which chat templates may not do"));
}

absl::StatusOr<Value> ListMethod(const Value& self, const std::string& name, const CallArgs& args,
                                 Budget* budget) {
  const List& list = self.list();
  TANDEM_RETURN_IF_ERROR(budget->ChargeWalk(self));
  if (name != "count" && name != "index") {
    return TemplateError(
        absl::StrCat("'", name, "' would modify a list, which chat templates may not do"));
  }
  TANDEM_RETURN_IF_ERROR(args.CheckCount(name, 1, 1));
  const Value& wanted = *args.Get(0, "value");
  int64_t count = 0;
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (!Equal(list.items[i], wanted)) continue;
    if (name == "index") return Value(static_cast<int64_t>(i));
    ++count;
  }
  if (name == "index") return TemplateError("index: value is not in the list");
  return Value(count);
}

absl::StatusOr<Value> Range(const CallArgs& args, Budget* budget) {
  TANDEM_RETURN_IF_ERROR(args.CheckCount("range", 1, 3));
  int64_t bounds[3] = {0, 0, 1};  // start, stop, step
  for (size_t i = 0; i < args.positional.size(); ++i) {
    if (!args.positional[i].IsInt()) return TemplateError("range: expected integers");
    bounds[args.positional.size() == 1 ? 1 : i] = args.positional[i].integer();
  }
  if (bounds[2] == 0) return TemplateError("range: step cannot be zero");
  // jinja2's sandbox has the same bound.
  constexpr size_t kRangeItemsMax = 100000;
  List list;
  for (int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1];) {
    if (list.items.size() >= kRangeItemsMax)
      return TemplateError("range: at most 100000 items are allowed");
    list.items.emplace_back(i);
    if (__builtin_add_overflow(i, bounds[2], &i)) break;
  }
  TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(list.items.size() * sizeof(Value)));
  return Value(std::move(list));
}

}  // namespace

const Value* CallArgs::Get(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

absl::Status CallArgs::CheckCount(std::string_view what, size_t min, size_t max) const {
  const size_t count = positional.size() + named.size();
  if (count >= min && count <= max) return absl::OkStatus();
  return TemplateError(absl::StrCat(base::ToAbsl(what), ": expected ", min, " to ", max,
                                    " arguments, found ", count));
}

Value ItemsOf(const Dict& dict) {
  List list;
  for (const auto& [key, value] : dict.entries())
    list.items.emplace_back(List{{key, value}, /*is_tuple=*/true});
  return Value(std::move(list));
}

std::string StripText(const std::string& s, const Value* chars, bool left, bool right) {
  const std::vector<char32_t> text = CodePoints(s);
  const bool given = chars != nullptr && chars->IsString();
  const std::vector<char32_t> set = given ? CodePoints(chars->str()) : std::vector<char32_t>();
  const auto strips = [&](char32_t c) {
    return given ? std::find(set.begin(), set.end(), c) != set.end() : IsPythonSpace(c);
  };
  size_t begin = 0, end = text.size();
  while (left && begin < end && strips(text[begin])) ++begin;
  while (right && end > begin && strips(text[end - 1])) --end;
  return EncodeUtf8(text, begin, end);
}

bool HasMethod(const Value& self, std::string_view name) {
  if (self.IsString()) return Among(kStringMethods, name);
  if (self.IsDict()) return Among(kDictMethods, name);
  if (self.IsList()) return Among(kListMethods, name);
  return self.Is<std::shared_ptr<const Loop>>() && name == "cycle";
}

absl::StatusOr<Value> CallMethod(const Value& self, const std::string& name, const CallArgs& args,
                                 Budget* budget) {
  if (self.IsString()) return StringMethod(self.str(), name, args, budget);
  if (self.IsDict()) return DictMethod(self.dict(), name, args, budget);
  if (self.IsList()) return ListMethod(self, name, args, budget);
  if (self.Is<std::shared_ptr<const Loop>>() && name == "cycle" && !args.positional.empty()) {
    const size_t index0 = std::get<std::shared_ptr<const Loop>>(self.data())->index0;
    return args.positional[index0 % args.positional.size()];
  }
  return TemplateError(absl::StrCat("method '", name, "' is not supported here"));
}

bool IsGlobalFunction(std::string_view name) {
  return name == "range" || name == "dict" || name == "namespace" || name == "raise_exception" ||
         name == "strftime_now";
}

absl::StatusOr<Value> CallGlobal(const std::string& name, const CallArgs& args, Budget* budget) {
  if (name == "range") return Range(args, budget);
  if (name == "raise_exception") {
    TANDEM_ASSIGN_OR_RETURN(
        const std::string why,
        TextOf(args.positional.empty() ? Value(std::string()) : args.positional[0], budget));
    return TemplateError(absl::StrCat("the template refuses these messages: ", why));
  }
  if (name == "strftime_now")
    return TemplateError("strftime_now is not supported: prompts must not depend on the clock");
  if (!args.positional.empty() && !(args.positional.size() == 1 && args.positional[0].IsDict())) {
    return TemplateError(absl::StrCat(name, ": expected a dict or keyword arguments"));
  }
  Dict dict;
  if (!args.positional.empty()) dict = args.positional[0].dict();
  for (const auto& [key, value] : args.named) dict.Set(Value(key), value);
  if (name == "dict") return Value(std::move(dict));
  auto made = std::make_shared<Namespace>();
  for (const auto& [key, value] : dict.entries()) made->attributes[ToText(key)] = value;
  return Value(std::move(made));
}

}  // namespace tandem::text
