// ByteCursor: reads little-endian fields from untrusted bytes. Every read is checked against what
// remains; the first one that does not fit fails and so does the caller, so no parser indexes
// memory by a count from a file.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace tandem {

static_assert(std::endian::native == std::endian::little,
              "fields are copied from little-endian files");

class ByteCursor {
 public:
  explicit ByteCursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  // False, and nothing read, when fewer bytes remain.
  template <typename T>
  [[nodiscard]] bool Read(T* value) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (remaining() < sizeof(T)) return false;
    std::memcpy(value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }

  // A view of the next `length` bytes, valid as long as the bytes are.
  [[nodiscard]] bool ReadBytes(uint64_t length, std::string_view* value) {
    if (remaining() < length) return false;
    *value = {reinterpret_cast<const char*>(bytes_.data()) + position_,
              static_cast<size_t>(length)};
    position_ += length;
    return true;
  }

 private:
  std::span<const std::byte> bytes_;
  uint64_t position_ = 0;
};

}  // namespace tandem
