// Operators, attributes, items and slices of template values.
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/text/jinja_library.h"
#include "lib/model/text/utf8.h"

namespace tandem::text {
namespace {

absl::string_view NameOf(const Value& v) { return base::ToAbsl(TypeName(v)); }

absl::Status Mismatch(std::string_view op, const Value& a, const Value& b) {
  for (const Value* v : {&a, &b}) {
    if (v->IsUndefined()) return TemplateError(v->undefined().what);
  }
  return TemplateError(absl::StrCat("unsupported operand types for ", base::ToAbsl(op), ": ",
                                    NameOf(a), " and ", NameOf(b)));
}

absl::Status Overflow() { return TemplateError("integer result does not fit 64 bits"); }

absl::StatusOr<Value> IntPower(int64_t base, int64_t exponent) {
  int64_t result = 1;
  // Beyond 64 squarings only 0, 1 and -1 stay in range.
  if (exponent > 64 && std::abs(base) > 1) return Overflow();
  if (exponent > 64) exponent = 64 + (exponent & 1);
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) return Overflow();
  }
  return Value(result);
}

absl::StatusOr<Value> IntArithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t r = 0;
  if (op == "+")
    return __builtin_add_overflow(a, b, &r) ? absl::StatusOr<Value>(Overflow()) : Value(r);
  if (op == "-")
    return __builtin_sub_overflow(a, b, &r) ? absl::StatusOr<Value>(Overflow()) : Value(r);
  if (op == "*")
    return __builtin_mul_overflow(a, b, &r) ? absl::StatusOr<Value>(Overflow()) : Value(r);
  if (op == "**")
    return b >= 0 ? IntPower(a, b)
                  : Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
  if (b == 0) return TemplateError("division by zero");
  if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1)
    return op == "%" ? absl::StatusOr<Value>(Value(int64_t{0})) : IntArithmetic("-", 0, a);
  // Python floors; C++ truncates.
  const bool adjust = a % b != 0 && (a < 0) != (b < 0);
  return op == "//" ? Value(a / b - (adjust ? 1 : 0)) : Value(a % b + (adjust ? b : 0));
}

absl::StatusOr<Value> FloatArithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") return Value(std::pow(a, b));
  if (b == 0) return TemplateError("division by zero");
  if (op == "/") return Value(a / b);
  if (op == "//") return Value(std::floor(a / b));
  const double r = std::fmod(a, b);
  return Value(r != 0 && (r < 0) != (b < 0) ? r + b : r);
}

absl::StatusOr<Value> Repeat(const Value& v, int64_t count, Budget* budget) {
  const size_t times = count > 0 ? static_cast<size_t>(count) : 0;
  const size_t size = v.IsString() ? v.str().size() : v.list().items.size() * sizeof(Value);
  if (size != 0 && times > std::numeric_limits<size_t>::max() / size)
    return TemplateError("value is too large");
  TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(size * times));
  if (v.IsString()) {
    std::string out;
    for (size_t i = 0; size != 0 && i < times; ++i) out += v.str();
    return Value(std::move(out));
  }
  List out{{}, v.list().is_tuple};
  for (size_t i = 0; size != 0 && i < times; ++i) {
    out.items.insert(out.items.end(), v.list().items.begin(), v.list().items.end());
  }
  return Value(std::move(out));
}

absl::StatusOr<Value> Join(const Value& a, const Value& b, Budget* budget) {
  if (a.IsString()) {
    TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(a.str().size() + b.str().size()));
    return Value(a.str() + b.str());
  }
  TANDEM_RETURN_IF_ERROR(
      budget->ChargeBytes((a.list().items.size() + b.list().items.size()) * sizeof(Value)));
  List out = a.list();
  out.items.insert(out.items.end(), b.list().items.begin(), b.list().items.end());
  return Value(std::move(out));
}

// -1, 0, 1, as Python orders a and b; fails where Python does.
absl::StatusOr<int> Order(std::string_view op, const Value& a, const Value& b) {
  if (a.IsInt() && b.IsInt()) return a.integer() < b.integer() ? -1 : a.integer() > b.integer();
  if (a.IsNumber() && b.IsNumber()) return a.number() < b.number() ? -1 : a.number() > b.number();
  // UTF-8 bytes order as code points do.
  if (a.IsString() && b.IsString()) return a.str() < b.str() ? -1 : a.str() > b.str();
  if (a.IsList() && b.IsList() && a.list().is_tuple == b.list().is_tuple) {
    const ValueList &x = a.list().items, &y = b.list().items;
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!Equal(x[i], y[i])) return Order(op, x[i], y[i]);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  return Mismatch(op, a, b);
}

absl::StatusOr<bool> Contains(const Value& container, const Value& item) {
  if (container.IsUndefined()) return false;
  if (container.IsString()) {
    if (!item.IsString()) return Mismatch("in", item, container);
    return container.str().find(item.str()) != std::string::npos;
  }
  if (container.IsDict()) {
    if (item.IsList() || item.IsDict()) return Mismatch("in", item, container);
    return container.dict().Find(item) != nullptr;
  }
  if (!container.IsList()) return Mismatch("in", item, container);
  const ValueList& items = container.list().items;
  return std::any_of(items.begin(), items.end(), [&](const Value& v) { return Equal(v, item); });
}

Value LoopAttribute(const Loop& loop, const std::string& name) {
  const int64_t index0 = static_cast<int64_t>(loop.index0),
                length = static_cast<int64_t>(loop.items->items.size());
  if (name == "index") return Value(index0 + 1);
  if (name == "index0") return Value(index0);
  if (name == "revindex") return Value(length - index0);
  if (name == "revindex0") return Value(length - index0 - 1);
  if (name == "first") return Value(index0 == 0);
  if (name == "last") return Value(index0 + 1 == length);
  if (name == "length") return Value(length);
  if (name == "depth") return Value(loop.depth0 + 1);
  if (name == "depth0") return Value(loop.depth0);
  if (name == "previtem" && index0 > 0) return loop.items->items[loop.index0 - 1];
  if (name == "nextitem" && index0 + 1 < length) return loop.items->items[loop.index0 + 1];
  return Value(Undefined{absl::StrCat("loop has no attribute '", name, "' here")});
}

// Python's slice.indices() for one bound.
int64_t ClampBound(int64_t bound, int64_t length, int64_t step) {
  if (bound < 0) bound += length;
  const int64_t low = step < 0 ? -1 : 0, high = step < 0 ? length - 1 : length;
  return std::clamp(bound, low, std::max(low, high));
}

// The indices a slice visits.
absl::StatusOr<std::vector<size_t>> SliceIndices(int64_t length, const Value* start,
                                                 const Value* stop, const Value* step) {
  for (const Value* bound : {start, stop, step}) {
    if (bound != nullptr && !bound->IsNone() && !bound->IsInt()) {
      if (bound->IsUndefined()) return TemplateError(bound->undefined().what);
      return TemplateError("slice bounds must be integers");
    }
  }
  const auto given = [](const Value* v) { return v != nullptr && !v->IsNone(); };
  // Larger steps visit the same single item; the clamp keeps the sums below in range.
  const int64_t by =
      given(step) ? std::clamp<int64_t>(step->integer(), -(int64_t{1} << 40), int64_t{1} << 40) : 1;
  if (by == 0) return TemplateError("slice step cannot be zero");
  const int64_t begin = given(start) ? ClampBound(start->integer(), length, by)
                        : by < 0     ? length - 1
                                     : 0;
  const int64_t end = given(stop) ? ClampBound(stop->integer(), length, by) : by < 0 ? -1 : length;
  std::vector<size_t> indices;
  for (int64_t i = begin; by > 0 ? i < end : i > end; i += by)
    indices.push_back(static_cast<size_t>(i));
  return indices;
}

}  // namespace

absl::Status TemplateError(const std::string& what) { return absl::InvalidArgumentError(what); }

absl::StatusOr<std::string> TextOf(const Value& v, Budget* budget) {
  TANDEM_RETURN_IF_ERROR(budget->ChargeWalk(v));
  return ToText(v);
}

absl::Status Budget::Charge(int64_t steps) {
  left_ -= steps;
  return left_ >= 0 ? absl::OkStatus()
                    : absl::ResourceExhaustedError("chat template takes too many steps");
}

absl::Status Budget::ChargeBytes(size_t bytes) {
  if (bytes > value_bytes_max_) {
    return absl::ResourceExhaustedError(absl::StrCat("chat template makes a value of ", bytes,
                                                     " bytes, at most ", value_bytes_max_,
                                                     " are allowed"));
  }
  return Charge(1 + static_cast<int64_t>(bytes / 16));
}

absl::StatusOr<Value> Arithmetic(std::string_view op, const Value& a, const Value& b,
                                 Budget* budget) {
  if (a.IsInt() && b.IsInt()) return IntArithmetic(op, a.integer(), b.integer());
  if (a.IsNumber() && b.IsNumber()) return FloatArithmetic(op, a.number(), b.number());
  if (op == "+" && a.IsString() && b.IsString()) return Join(a, b, budget);
  if (op == "+" && a.IsList() && b.IsList() && a.list().is_tuple == b.list().is_tuple)
    return Join(a, b, budget);
  if (op == "*" && (a.IsString() || a.IsList()) && b.IsInt()) return Repeat(a, b.integer(), budget);
  if (op == "*" && a.IsInt() && (b.IsString() || b.IsList())) return Repeat(b, a.integer(), budget);
  if (op == "%" && a.IsString()) return TemplateError("formatting with % is not supported");
  return Mismatch(op, a, b);
}

absl::StatusOr<bool> CompareValues(std::string_view op, const Value& a, const Value& b) {
  if (op == "==") return Equal(a, b);
  if (op == "!=") return !Equal(a, b);
  if (op == "in" || op == "notin") {
    TANDEM_ASSIGN_OR_RETURN(const bool inside, Contains(b, a));
    return inside == (op == "in");
  }
  TANDEM_ASSIGN_OR_RETURN(const int order, Order(op, a, b));
  if (op == "<") return order < 0;
  if (op == "<=") return order <= 0;
  return op == ">" ? order > 0 : order >= 0;
}

absl::StatusOr<Value> GetAttribute(const Value& object, const std::string& name) {
  if (object.IsUndefined()) return TemplateError(object.undefined().what);
  if (HasMethod(object, name)) return Value(Function{name, std::make_shared<const Value>(object)});
  if (object.IsDict()) {
    const Value* found = object.dict().Find(name);
    if (found != nullptr) return *found;
  }
  if (object.Is<std::shared_ptr<Namespace>>()) {
    const auto& attributes = std::get<std::shared_ptr<Namespace>>(object.data())->attributes;
    const auto it = attributes.find(name);
    if (it != attributes.end()) return it->second;
  }
  if (object.Is<std::shared_ptr<const Loop>>()) {
    return LoopAttribute(*std::get<std::shared_ptr<const Loop>>(object.data()), name);
  }
  return Value(
      Undefined{absl::StrCat("'", NameOf(object), "' object has no attribute '", name, "'")});
}

absl::StatusOr<Value> GetItem(const Value& object, const Value& key) {
  if (object.IsUndefined()) return TemplateError(object.undefined().what);
  if (object.IsDict()) {
    const Value* found = object.dict().Find(key);
    if (found != nullptr) return *found;
  }
  if (object.IsList() && key.IsInt()) {
    const int64_t size = static_cast<int64_t>(object.list().items.size());
    const int64_t at = key.integer() < 0 ? key.integer() + size : key.integer();
    if (at >= 0 && at < size) return object.list().items[static_cast<size_t>(at)];
  }
  if (object.IsString() && key.IsInt()) {
    const std::vector<char32_t> chars = CodePoints(object.str());
    const int64_t size = static_cast<int64_t>(chars.size());
    const int64_t at = key.integer() < 0 ? key.integer() + size : key.integer();
    if (at >= 0 && at < size)
      return Value(EncodeUtf8(chars, static_cast<size_t>(at), static_cast<size_t>(at) + 1));
  }
  if (key.IsString()) return GetAttribute(object, key.str());
  return Value(Undefined{absl::StrCat(NameOf(object), " has no element ", ToRepr(key))});
}

absl::StatusOr<Value> Slice(const Value& object, const Value* start, const Value* stop,
                            const Value* step, Budget* budget) {
  if (object.IsUndefined()) return TemplateError(object.undefined().what);
  if (object.IsString()) {
    TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(object.str().size() * 4));
    const std::vector<char32_t> chars = CodePoints(object.str());
    TANDEM_ASSIGN_OR_RETURN(const auto indices,
                            SliceIndices(static_cast<int64_t>(chars.size()), start, stop, step));
    std::string out;
    for (const size_t i : indices) AppendUtf8(chars[i], &out);
    return Value(std::move(out));
  }
  if (!object.IsList()) return TemplateError(absl::StrCat(NameOf(object), " cannot be sliced"));
  const List& list = object.list();
  TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(list.items.size() * sizeof(Value)));
  TANDEM_ASSIGN_OR_RETURN(const auto indices,
                          SliceIndices(static_cast<int64_t>(list.items.size()), start, stop, step));
  List out{{}, list.is_tuple};
  for (const size_t i : indices) out.items.push_back(list.items[i]);
  return Value(std::move(out));
}

absl::StatusOr<std::shared_ptr<const List>> Iterate(const Value& v, Budget* budget) {
  if (v.IsList()) return v.list_ptr();
  List out;
  if (v.IsString()) {
    TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(v.str().size() * sizeof(Value)));
    const std::vector<char32_t> chars = CodePoints(v.str());
    for (size_t i = 0; i < chars.size(); ++i) out.items.emplace_back(EncodeUtf8(chars, i, i + 1));
  } else if (v.IsDict()) {
    TANDEM_RETURN_IF_ERROR(budget->ChargeBytes(v.dict().entries().size() * sizeof(Value)));
    for (const auto& [key, value] : v.dict().entries()) out.items.push_back(key);
  } else if (!v.IsUndefined()) {
    return TemplateError(absl::StrCat("'", NameOf(v), "' object is not iterable"));
  }
  return MakeList(std::move(out));
}

}  // namespace tandem::text
