// Readers of the golden files in this folder (formats: MANIFEST.json), shared by the tests here.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace tandem::golden {

inline std::string SourceDir() {
  const char* dir = std::getenv("TANDEM_SOURCE_DIR");
  return dir != nullptr ? dir : ".";
}

inline std::string GoldenPath(const std::string& name) {
  return SourceDir() + "/tests/golden/text/" + name;
}

// Where the project's public data lies; it is not part of the repository.
inline std::string DataPath(const std::string& name) {
  const char* dir = std::getenv("TANDEM_DATA");
  return (dir != nullptr ? std::string(dir) : SourceDir() + "/../shared/data") + "/" + name;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << "cannot read " << path;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// The bytes of a zlib file.
inline std::string Unpack(const std::string& name) {
  const std::string packed = ReadFile(GoldenPath(name));
  std::string out;
  z_stream stream{};
  EXPECT_EQ(inflateInit(&stream), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  std::vector<char> block(1 << 16);
  int rc = Z_OK;
  while (rc == Z_OK) {
    stream.next_out = reinterpret_cast<Bytef*>(block.data());
    stream.avail_out = static_cast<uInt>(block.size());
    rc = inflate(&stream, Z_NO_FLUSH);
    out.append(block.data(), block.size() - stream.avail_out);
  }
  EXPECT_EQ(rc, Z_STREAM_END) << name;
  inflateEnd(&stream);
  return out;
}

// Little-endian u32 values one after another.
class U32Reader {
 public:
  explicit U32Reader(std::string bytes) : bytes_(std::move(bytes)) {}
  uint32_t Next() {
    uint32_t value = 0;
    if (at_ + 4 > bytes_.size()) {
      ADD_FAILURE() << "golden file ends early";
      return 0;
    }
    std::memcpy(&value, bytes_.data() + at_, 4);
    at_ += 4;
    return value;
  }
  std::string Bytes(size_t count) {
    at_ += count;
    return bytes_.substr(at_ - count, count);
  }
  size_t left() const { return bytes_.size() - at_; }

 private:
  std::string bytes_;
  size_t at_ = 0;
};

inline std::vector<uint32_t> UnpackU32(const std::string& name) {
  U32Reader reader(Unpack(name));
  std::vector<uint32_t> values(reader.left() / 4);
  for (uint32_t& v : values) v = reader.Next();
  return values;
}

inline std::vector<std::string> UnpackLines() {
  U32Reader reader(Unpack("lines.z"));
  std::vector<std::string> lines(reader.Next());
  for (std::string& line : lines) line = reader.Bytes(reader.Next());
  return lines;
}

inline uint32_t Crc(const std::string& text) {
  return static_cast<uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<uInt>(text.size())));
}

inline uint32_t Crc(const std::vector<int32_t>& ids) {
  return static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(ids.data()),
                                     static_cast<uInt>(ids.size() * sizeof(int32_t))));
}

}  // namespace tandem::golden
