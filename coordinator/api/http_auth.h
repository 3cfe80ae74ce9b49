// Who may ask: bearer tokens, compared without telling by the time it takes how much of one was
// right.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::coordinator {

class ApiKeys {
 public:
  // Nobody is asked for a key.
  ApiKeys() = default;

  // `key` and the lines of `file`, either may be empty. Blank lines and lines that begin with #
  // are skipped. INVALID_ARGUMENT for a file that cannot be read or holds no key.
  static absl::StatusOr<ApiKeys> Load(const std::string& key, const std::string& file);

  bool required() const { return !digests_.empty(); }
  // The value of the field Authorization: "Bearer <key>", the scheme in any case. True when no key
  // is required.
  bool Allows(const std::string& authorization) const;

 private:
  using Digest = std::array<unsigned char, 32>;  // SHA-256: equally long for every key
  static Digest DigestOf(const std::string& key);

  std::vector<Digest> digests_;
};

}  // namespace tandem::coordinator
