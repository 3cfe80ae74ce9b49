// What values of the template language can do: operators, attributes, filters, tests, methods and
// functions, with the meaning Python and jinja2 give them. Generators are plain lists here
// (jinja2's `select` and `map` without `list`), and methods that would modify a list or dict fail,
// as in the immutable sandbox.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lib/model/text/jinja_value.h"

namespace tandem::text {

// Counts work, so that a hostile template ends with an error instead of taking the process's time
// or memory. One unit is about one node evaluated or 16 bytes made.
class Budget {
 public:
  Budget(int64_t steps, size_t value_bytes_max) : left_(steps), value_bytes_max_(value_bytes_max) {}
  absl::Status Charge(int64_t steps);
  // Charges for a string or list of this size; also refuses one above value_bytes_max.
  absl::Status ChargeBytes(size_t bytes);
  // Charges for a walk over the whole tree of `v`.
  absl::Status ChargeWalk(const Value& v) { return ChargeBytes(MeasureOf(v).weight); }

 private:
  int64_t left_;
  size_t value_bytes_max_;
};

struct CallArgs {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at `index` or called `name`; null when absent.
  const Value* Get(size_t index, std::string_view name) const;
  // InvalidArgument unless there are `min` to `max` arguments altogether.
  absl::Status CheckCount(std::string_view what, size_t min, size_t max) const;
};

absl::Status TemplateError(const std::string& what);

// str(v), charged for.
absl::StatusOr<std::string> TextOf(const Value& v, Budget* budget);

// + - * / // % **
absl::StatusOr<Value> Arithmetic(std::string_view op, const Value& a, const Value& b,
                                 Budget* budget);
// == != < <= > >= in notin
absl::StatusOr<bool> CompareValues(std::string_view op, const Value& a, const Value& b);
absl::StatusOr<Value> GetAttribute(const Value& object, const std::string& name);
absl::StatusOr<Value> GetItem(const Value& object, const Value& key);
// Null bounds are left out.
absl::StatusOr<Value> Slice(const Value& object, const Value* start, const Value* stop,
                            const Value* step, Budget* budget);
// The items a for loop visits: characters of a string, keys of a dict, nothing for undefined.
absl::StatusOr<std::shared_ptr<const List>> Iterate(const Value& v, Budget* budget);

absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& self, const CallArgs& args,
                                  Budget* budget);
absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& self, const CallArgs& args);

// True when `name` is a method of the type of `self`.
bool HasMethod(const Value& self, std::string_view name);
absl::StatusOr<Value> CallMethod(const Value& self, const std::string& name, const CallArgs& args,
                                 Budget* budget);

// range, dict, namespace, raise_exception, strftime_now.
bool IsGlobalFunction(std::string_view name);
absl::StatusOr<Value> CallGlobal(const std::string& name, const CallArgs& args, Budget* budget);

// Pieces that filters and methods share.
std::string StripText(const std::string& s, const Value* chars, bool left, bool right);
absl::StatusOr<std::string> ChangeCase(const std::string& s, bool upper);
absl::StatusOr<std::string> ReplaceText(const std::string& s, const std::string& from,
                                        const std::string& to, int64_t count, Budget* budget);
absl::StatusOr<std::string> JoinValues(const List& items, const std::string& separator,
                                       Budget* budget);
Value ItemsOf(const Dict& dict);

}  // namespace tandem::text
