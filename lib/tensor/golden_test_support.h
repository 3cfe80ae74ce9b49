// What the tests of lib/tensor share: the golden files of tests/golden/tensor, digests, and the
// random bytes that the script which made the goldens also used. Included by tests only.
#pragma once

#include <openssl/evp.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "lib/base/check.h"

namespace tandem {

inline std::string GoldenPath(const std::string& file) {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  return std::string(root == nullptr ? "." : root) + "/tests/golden/tensor/" + file;
}

inline std::vector<std::byte> ReadGolden(const std::string& file) {
  std::ifstream in(GoldenPath(file), std::ios::binary);
  TANDEM_CHECK(in.good());
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return {bytes, bytes + text.size()};
}

inline nlohmann::json ReadManifest() {
  const std::vector<std::byte> bytes = ReadGolden("MANIFEST.json");
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  return nlohmann::json::parse(text, text + bytes.size());
}

template <typename T>
std::string Sha256(std::span<const T> values) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  TANDEM_CHECK(
      EVP_Digest(values.data(), values.size_bytes(), digest, &size, EVP_sha256(), nullptr) == 1);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex += kDigits[digest[i] >> 4];
    hex += kDigits[digest[i] & 15];
  }
  return hex;
}

// SplitMix64 (Steele, Lea, Flood 2014).
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

inline std::vector<std::byte> RandomBytes(uint64_t seed, size_t count) {
  std::vector<std::byte> bytes(count);
  SplitMix64 random(seed);
  for (size_t i = 0; i < count; i += 8) {
    uint64_t word = random.Next();
    for (size_t k = i; k < count && k < i + 8; ++k, word >>= 8)
      bytes[k] = static_cast<std::byte>(word & 255);
  }
  return bytes;
}

}  // namespace tandem
