// StrictMap: a YAML mapping with a closed set of keys. A recipe's typo must be an error with a line
// number, because a setting that is silently ignored changes results without a trace.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "yaml-cpp/yaml.h"

namespace tandem {

// "<file> line <n>: <what>", lines counted from 1.
absl::Status RecipeError(const std::string& file, int line, const std::string& what);
int LineOf(const YAML::Node& node);

class StrictMap {
 public:
  // `what` names the mapping in messages, for example "sources". INVALID_ARGUMENT when `node` is no
  // mapping, holds a key that is not in `keys`, or one twice.
  static absl::StatusOr<StrictMap> Make(const YAML::Node& node, const std::string& file,
                                        const std::string& what,
                                        const std::vector<std::string>& keys);

  bool Has(const std::string& key) const { return values_.count(key) > 0; }
  // The value; only of a key that Has.
  const YAML::Node& At(const std::string& key) const { return values_.at(key); }
  // The line of the key's value, of the mapping when the key is absent.
  int Line(const std::string& key) const;
  // In the order of the file.
  const std::vector<std::string>& keys() const { return order_; }

  // A scalar that is not empty and prints; INVALID_ARGUMENT when absent or something else.
  absl::StatusOr<std::string> Text(const std::string& key) const;
  absl::StatusOr<std::string> TextOr(const std::string& key, const std::string& otherwise) const;
  // One of `allowed`.
  absl::StatusOr<std::string> Choice(const std::string& key,
                                     const std::vector<std::string>& allowed,
                                     const std::string& otherwise) const;
  absl::StatusOr<int64_t> Integer(const std::string& key, int64_t min, int64_t max) const;

  absl::Status Error(const std::string& key, const std::string& what) const;

 private:
  std::string file_, what_;
  int line_ = 0;
  std::map<std::string, YAML::Node> values_;
  std::vector<std::string> order_;
};

}  // namespace tandem
