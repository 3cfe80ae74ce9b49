#include "lib/model/text/byte_level.h"

#include <array>
#include <cstdint>

#include "lib/model/text/utf8.h"

namespace tandem::text {
namespace {

// Latin-1's visible characters stand for themselves; the other 68 bytes, in order, take U+0100 to
// U+0143.
bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr char32_t kLastAlphabetChar = 0x143;

struct Alphabet {
  std::array<char32_t, 256> char_of_byte{};
  std::array<int16_t, kLastAlphabetChar + 1> byte_of_char{};

  Alphabet() {
    byte_of_char.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const char32_t c = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
      char_of_byte[byte] = c;
      byte_of_char[c] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

std::optional<std::string> ByteLevelToRaw(std::string_view written) {
  std::string raw;
  raw.reserve(written.size());
  while (!written.empty()) {
    const Utf8Step step = ScanUtf8(written);
    if (step.kind != Utf8Kind::kWhole || step.code_point > kLastAlphabetChar) return std::nullopt;
    const int16_t byte = TheAlphabet().byte_of_char[step.code_point];
    if (byte < 0) return std::nullopt;
    raw.push_back(static_cast<char>(byte));
    written.remove_prefix(step.byte_count);
  }
  return raw;
}

std::string RawToByteLevel(std::string_view raw) {
  std::string written;
  for (const char c : raw)
    AppendUtf8(TheAlphabet().char_of_byte[static_cast<uint8_t>(c)], &written);
  return written;
}

}  // namespace tandem::text
