// Metadata: the typed key-value pairs of a GGUF header.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

namespace tandem {

// Integers of every width widen to (u)int64, floats to double, so that readers ask for a meaning,
// not a width.
using MetadataValue =
    std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<int64_t>,
                 std::vector<double>, std::vector<bool>, std::vector<std::string>>;

class Metadata {
 public:
  void Set(std::string key, MetadataValue value);
  bool Has(std::string_view key) const;
  const MetadataValue* Find(std::string_view key) const;
  std::vector<std::string> SortedKeys() const;

  // NOT_FOUND names the missing key, INVALID_ARGUMENT a key of another type (expected and found).
  absl::StatusOr<int64_t> GetInt(std::string_view key) const;
  absl::StatusOr<double> GetDouble(std::string_view key) const;  // integers convert
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::string> GetString(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const;
  absl::StatusOr<std::vector<std::string>> GetStrings(std::string_view key) const;

 private:
  absl::flat_hash_map<std::string, MetadataValue> values_;
};

}  // namespace tandem
