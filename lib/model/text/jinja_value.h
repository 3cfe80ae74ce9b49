// Values of the chat-template language, with Python's meaning: what jinja2 would hold while it
// renders the same template. Strings are UTF-8; lengths, indices and slices count code points.
// Everything is immutable except namespaces, as in the sandbox that transformers renders templates
// in.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem::text {

class Value;
struct Stmt;

using ValueList = std::vector<Value>;

// An undefined name, attribute or item: prints as nothing, is false and empty, and fails when used
// otherwise.
struct Undefined {
  std::string what;  // for the message, for example "'tools' is undefined"
};

struct None {};

// How large the tree below a value is, counted through shared parts: what printing or comparing it
// may cost.
struct Measure {
  uint64_t weight = 1;  // bytes of text and nodes; saturates
  int depth = 1;
  bool has_namespace = false;
};

struct List {
  ValueList items;
  bool is_tuple = false;  // only printing and equality see the difference
  Measure measure = {};   // set when a Value is made of the list
};

std::shared_ptr<const List> MakeList(List list);

// Insertion-ordered, as Python's dict.
class Dict {
 public:
  // Replaces the value of an equal key. False when the key is not hashable (a list, a dict).
  bool Set(const Value& key, Value value);
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  Measure measure = {};  // set when a Value is made of the dict

 private:
  std::vector<std::pair<Value, Value>> entries_;
  absl::flat_hash_map<std::string, size_t> index_;  // by kind and value of the key
};

struct Namespace {
  absl::flat_hash_map<std::string, Value> attributes;
};

// The `loop` object of a for loop.
struct Loop {
  std::shared_ptr<const List> items;
  size_t index0 = 0;
  int64_t depth0 = 0;
};

struct Macro {
  const Stmt* definition;  // owned by the template, which outlives every render
};

// A function of the language, or a method bound to a value.
struct Function {
  std::string name;
  std::shared_ptr<const Value> self;  // null for a plain function
};

class Value {
 public:
  using Data =
      std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const std::string>,
                   std::shared_ptr<const List>, std::shared_ptr<const Dict>,
                   std::shared_ptr<Namespace>, std::shared_ptr<const Loop>, Macro, Function>;

  Value() : data_(Undefined{"value is undefined"}) {}
  explicit Value(Undefined u) : data_(std::move(u)) {}
  explicit Value(None n) : data_(n) {}
  explicit Value(bool b) : data_(b) {}
  explicit Value(int64_t i) : data_(i) {}
  explicit Value(double d) : data_(d) {}
  explicit Value(std::string s) : data_(std::make_shared<const std::string>(std::move(s))) {}
  explicit Value(List l) : data_(MakeList(std::move(l))) {}
  explicit Value(std::shared_ptr<const List> l) : data_(std::move(l)) {}
  explicit Value(Dict d);
  explicit Value(std::shared_ptr<Namespace> n) : data_(std::move(n)) {}
  explicit Value(std::shared_ptr<const Loop> l) : data_(std::move(l)) {}
  explicit Value(Macro m) : data_(m) {}
  explicit Value(Function f) : data_(std::move(f)) {}

  template <typename T>
  bool Is() const {
    return std::holds_alternative<T>(data_);
  }
  bool IsUndefined() const { return Is<Undefined>(); }
  bool IsNone() const { return Is<None>(); }
  bool IsString() const { return Is<std::shared_ptr<const std::string>>(); }
  bool IsList() const { return Is<std::shared_ptr<const List>>(); }
  bool IsDict() const { return Is<std::shared_ptr<const Dict>>(); }
  // int, float and, as in Python, bool.
  bool IsNumber() const { return Is<bool>() || Is<int64_t>() || Is<double>(); }
  bool IsInt() const { return Is<bool>() || Is<int64_t>(); }

  // Each requires the matching Is..().
  const std::string& str() const { return *std::get<std::shared_ptr<const std::string>>(data_); }
  const List& list() const { return *std::get<std::shared_ptr<const List>>(data_); }
  std::shared_ptr<const List> list_ptr() const {
    return std::get<std::shared_ptr<const List>>(data_);
  }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  const Undefined& undefined() const { return std::get<Undefined>(data_); }
  int64_t integer() const { return Is<bool>() ? std::get<bool>(data_) : std::get<int64_t>(data_); }
  double number() const {
    return Is<double>() ? std::get<double>(data_) : static_cast<double>(integer());
  }
  const Data& data() const { return data_; }

 private:
  Data data_;
};

Measure MeasureOf(const Value& v);

// bool(v).
bool Truthy(const Value& v);
// Python's ==; never fails.
bool Equal(const Value& a, const Value& b);
// str(v): what {{ v }} prints.
std::string ToText(const Value& v);
// repr(v), as inside printed lists.
std::string ToRepr(const Value& v);
// type(v).__name__, for messages.
std::string_view TypeName(const Value& v);

// repr of a float: the shortest digits that read back, 1e+16 style exponents.
std::string FloatText(double d);

struct JsonStyle {
  int indent = -1;  // -1: one line
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// json.dumps(v). InvalidArgument for what JSON cannot hold (an undefined value, a macro).
absl::StatusOr<std::string> ToJson(const Value& v, const JsonStyle& style);

// InvalidArgument when nested deeper than 100 levels or for an integer beyond 64 bits.
absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json);

}  // namespace tandem::text
