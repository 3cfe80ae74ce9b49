#include "coordinator/api/http_auth.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tandem::coordinator {
namespace {

constexpr char kScheme[] = "Bearer ";

}  // namespace

ApiKeys::Digest ApiKeys::DigestOf(const std::string& key) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

absl::StatusOr<ApiKeys> ApiKeys::Load(const std::string& key, const std::string& file) {
  ApiKeys keys;
  if (!key.empty()) keys.digests_.push_back(DigestOf(key));
  if (file.empty()) return keys;
  std::ifstream in(file);
  if (!in) return absl::InvalidArgumentError(absl::StrCat("cannot read the API keys in ", file));
  const size_t before = keys.digests_.size();
  for (std::string line; std::getline(in, line);) {
    absl::StripAsciiWhitespace(&line);
    if (!line.empty() && line[0] != '#') keys.digests_.push_back(DigestOf(line));
  }
  if (keys.digests_.size() == before)
    return absl::InvalidArgumentError(
        absl::StrCat("expected an API key in ", file, ", found none"));
  return keys;
}

bool ApiKeys::Allows(const std::string& authorization) const {
  if (!required()) return true;
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) return false;
  std::string key = authorization.substr(sizeof kScheme - 1);
  absl::StripAsciiWhitespace(&key);
  const Digest digest = DigestOf(key);
  bool found = false;
  for (const Digest& known : digests_)
    found |= CRYPTO_memcmp(known.data(), digest.data(), digest.size()) == 0;
  return found;
}

}  // namespace tandem::coordinator
