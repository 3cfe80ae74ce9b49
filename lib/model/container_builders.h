// Builders of GGUF and safetensors files for tests: every field can be made to lie, which the
// writers of the real packages do not allow. Included by tests only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/check.h"

namespace tandem {

template <typename T>
std::string LittleEndian(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// A GGUF string: u64 length and bytes.
inline std::string GgufString(const std::string& text) {
  return LittleEndian<uint64_t>(text.size()) + text;
}

// Value types and ggml type ids used in tests, by their numbers in the format.
inline constexpr uint32_t kGgufUint8 = 0, kGgufUint16 = 2, kGgufUint32 = 4, kGgufInt32 = 5,
                          kGgufBool = 7, kGgufText = 8, kGgufArray = 9, kGgufUint64 = 10;
inline constexpr uint32_t kGgmlF32 = 0, kGgmlQ8_0 = 8, kGgmlQ4_K = 12;

struct GgufBuilder {
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;  // file order: the contiguous one first
    uint32_t type = kGgmlF32;
    uint64_t offset = 0;
  };

  std::string magic = "GGUF";
  uint32_t version = 3;
  std::vector<std::string> keys;  // encoded
  std::vector<Tensor> tensors;
  uint64_t alignment = 32;  // of the data section; says nothing in the file
  uint64_t data_bytes = 0;
  int64_t keys_lie = 0;     // added to the count of keys
  int64_t tensors_lie = 0;  // added to the count of tensors

  GgufBuilder& Key(const std::string& key, uint32_t type, const std::string& value) {
    keys.push_back(GgufString(key) + LittleEndian(type) + value);
    return *this;
  }
  GgufBuilder& Uint32(const std::string& key, uint32_t value) {
    return Key(key, kGgufUint32, LittleEndian(value));
  }
  GgufBuilder& Uint16(const std::string& key, uint16_t value) {
    return Key(key, kGgufUint16, LittleEndian(value));
  }
  GgufBuilder& Int32(const std::string& key, int32_t value) {
    return Key(key, kGgufInt32, LittleEndian(value));
  }
  GgufBuilder& Text(const std::string& key, const std::string& value) {
    return Key(key, kGgufText, GgufString(value));
  }
  GgufBuilder& Array(const std::string& key, uint32_t type, uint64_t count,
                     const std::string& elements) {
    return Key(key, kGgufArray, LittleEndian(type) + LittleEndian(count) + elements);
  }
  // Adds a tensor; the data section grows to hold `size_bytes` at `offset`.
  GgufBuilder& Add(const std::string& name, std::vector<uint64_t> dims, uint32_t type,
                   uint64_t offset, uint64_t size_bytes) {
    tensors.push_back({name, std::move(dims), type, offset});
    data_bytes = std::max(data_bytes, offset + size_bytes);
    return *this;
  }

  // Byte i of the data section is i % 251.
  std::string Build() const {
    std::string out = magic + LittleEndian(version) +
                      LittleEndian<uint64_t>(tensors.size() + tensors_lie) +
                      LittleEndian<uint64_t>(keys.size() + keys_lie);
    for (const std::string& key : keys) out += key;
    for (const Tensor& tensor : tensors) {
      out += GgufString(tensor.name) + LittleEndian(static_cast<uint32_t>(tensor.dims.size()));
      for (const uint64_t dim : tensor.dims) out += LittleEndian(dim);
      out += LittleEndian(tensor.type) + LittleEndian(tensor.offset);
    }
    if (data_bytes == 0) return out;
    while (out.size() % alignment != 0) out += '\0';
    for (uint64_t i = 0; i < data_bytes; ++i) out += static_cast<char>(i % 251);
    return out;
  }
};

// A safetensors file of `header` (JSON) and `data_bytes` bytes; `length_lie` is added to the header
// length. Headers are padded with blanks to a multiple of eight, as the safetensors package does.
inline std::string BuildSafetensors(std::string header, size_t data_bytes, int64_t length_lie = 0) {
  while (header.size() % 8 != 0) header += ' ';
  std::string out = LittleEndian<uint64_t>(header.size() + length_lie) + header;
  for (size_t i = 0; i < data_bytes; ++i) out += static_cast<char>(i % 251);
  return out;
}

// A folder of its own under the system's temporary one, removed with everything in it at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tandem-test-XXXXXX").string();
    TANDEM_CHECK(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string path() const { return path_.string(); }
  // Writes a file and returns its path.
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream out(path_ / name, std::ios::binary);
    out << bytes;
    TANDEM_CHECK(out.good());
    return (path_ / name).string();
  }

 private:
  std::filesystem::path path_;
};

}  // namespace tandem
