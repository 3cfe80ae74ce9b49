// The byte-level alphabet of GPT-2 style vocabularies: each of the 256 bytes is written as one
// printable character (space as U+0120). tokenizer.json and GGUF store tokens this way; inside the
// project pieces are raw bytes.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tandem::text {

// The raw bytes that `written` stands for, or nothing when a character is outside the alphabet
// (then the token is an added one and stands for itself) or `written` is not UTF-8.
std::optional<std::string> ByteLevelToRaw(std::string_view written);

// The inverse; every byte string can be written.
std::string RawToByteLevel(std::string_view raw);

}  // namespace tandem::text
