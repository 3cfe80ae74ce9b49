#include "lib/model/recipe_yaml.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "lib/base/status_macros.h"
#include "lib/model/printable_name.h"

namespace tandem {
namespace {

// Longer than any path or sentence a recipe needs.
constexpr size_t kTextBytesMax = 1024;

bool Prints(const std::string& text) {
  return std::none_of(text.begin(), text.end(),
                      [](unsigned char c) { return c < ' ' || c == 0x7f; });
}

const char* KindOf(const YAML::Node& node) {
  if (node.IsMap()) return "a mapping";
  if (node.IsSequence()) return "a list";
  return node.IsScalar() && !node.Scalar().empty() ? "a word" : "nothing";
}

}  // namespace

absl::Status RecipeError(const std::string& file, int line, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(file, " line ", line, ": ", what));
}

// Nodes that no text stands for (an empty file) have no mark.
int LineOf(const YAML::Node& node) { return std::max(0, node.Mark().line) + 1; }

absl::StatusOr<StrictMap> StrictMap::Make(const YAML::Node& node, const std::string& file,
                                          const std::string& what,
                                          const std::vector<std::string>& keys) {
  StrictMap map;
  map.file_ = file;
  map.what_ = what;
  map.line_ = LineOf(node);
  if (!node.IsMap()) {
    return RecipeError(file, map.line_,
                       absl::StrCat("expected ", what, " to be a mapping of ",
                                    absl::StrJoin(keys, ", "), ", found ", KindOf(node)));
  }
  for (const auto& entry : node) {
    const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "";
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
      return RecipeError(file, LineOf(entry.first),
                         absl::StrCat("unknown key ", PrintableName(key), " in ", what,
                                      ", expected one of ", absl::StrJoin(keys, ", ")));
    }
    if (!map.values_.emplace(key, entry.second).second) {
      return RecipeError(file, LineOf(entry.first),
                         absl::StrCat("the key ", key, " stands twice in ", what));
    }
    map.order_.push_back(key);
  }
  return map;
}

int StrictMap::Line(const std::string& key) const { return Has(key) ? LineOf(At(key)) : line_; }

absl::Status StrictMap::Error(const std::string& key, const std::string& what) const {
  return RecipeError(file_, Line(key), absl::StrCat(what_, ".", key, ": ", what));
}

absl::StatusOr<std::string> StrictMap::Text(const std::string& key) const {
  if (!Has(key)) {
    return RecipeError(file_, line_, absl::StrCat("expected the key ", key, " in ", what_));
  }
  const YAML::Node& node = At(key);
  if (!node.IsScalar() || node.Scalar().empty())
    return Error(key, absl::StrCat("expected a word, found ", KindOf(node)));
  if (node.Scalar().size() > kTextBytesMax || !Prints(node.Scalar())) {
    return Error(key, absl::StrCat("expected one line of at most ", kTextBytesMax, " bytes, found ",
                                   node.Scalar().size(), " bytes or control characters"));
  }
  return node.Scalar();
}

absl::StatusOr<std::string> StrictMap::TextOr(const std::string& key,
                                              const std::string& otherwise) const {
  return Has(key) ? Text(key) : otherwise;
}

absl::StatusOr<std::string> StrictMap::Choice(const std::string& key,
                                              const std::vector<std::string>& allowed,
                                              const std::string& otherwise) const {
  TANDEM_ASSIGN_OR_RETURN(const std::string text, TextOr(key, otherwise));
  if (std::find(allowed.begin(), allowed.end(), text) != allowed.end()) return text;
  return Error(key, absl::StrCat("expected ", absl::StrJoin(allowed, " or "), ", found ", text));
}

absl::StatusOr<int64_t> StrictMap::Integer(const std::string& key, int64_t min, int64_t max) const {
  TANDEM_ASSIGN_OR_RETURN(const std::string text, Text(key));
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < min || value > max) {
    return Error(key, absl::StrCat("expected a number from ", min, " to ", max, ", found ", text));
  }
  return value;
}

}  // namespace tandem
