// Tokenizer files and texts from outside: whatever the bytes, reading them ends with a tokenizer or
// a status, and a tokenizer that was made encodes any text without losing a byte of it. Input: one
// byte picks the reader; then the file, a zero byte, and the text to encode.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "lib/base/check.h"
#include "lib/base/text.h"
#include "lib/model/text/byte_level.h"
#include "lib/model/text/detokenizer.h"
#include "lib/model/text/tokenizer.h"

namespace {

using tandem::Tokenizer;

// A vocabulary of single bytes under a pre-tokenizer named by the input's first byte.
std::unique_ptr<Tokenizer> ByteTokenizer(uint8_t pick) {
  static constexpr const char* kNames[] = {"deepseek-v3", "deepseek-llm", "deepseek-coder",
                                           "kimi-k2"};
  tandem::TokenizerFields fields;
  fields.model = "gpt2";
  fields.pre = kNames[pick % 4];
  for (int byte = 0; byte < 256; ++byte) {
    fields.tokens.push_back(tandem::text::RawToByteLevel(std::string(1, static_cast<char>(byte))));
  }
  fields.tokens.push_back("<x>");
  fields.token_types.assign(257, 1);
  fields.token_types[256] = 3;
  auto made = Tokenizer::FromGgufFields(fields);
  TANDEM_CHECK(made.ok());
  return *std::move(made);
}

void EncodeAndBack(const Tokenizer& tokenizer, std::string_view text, bool keeps_spaces) {
  const auto ids = tokenizer.Encode(text);
  if (!ids.ok()) return;
  TANDEM_CHECK(tandem::base::IsValidUtf8(text));
  tandem::Detokenizer stream(&tokenizer);
  std::string back;
  for (const int32_t id : *ids) back += stream.Push(id);
  back += stream.Finish();
  const auto whole = tokenizer.Decode(*ids);
  TANDEM_CHECK(whole.ok());
  TANDEM_CHECK_EQ(back, *whole);
  if (keeps_spaces) TANDEM_CHECK(back == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const uint8_t pick = data[0];
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t zero = rest.find('\0');
  const std::string_view file = rest.substr(0, zero);
  const std::string_view text =
      zero == std::string_view::npos ? std::string_view() : rest.substr(zero + 1);
  if (pick % 3 == 0) {
    const auto made = Tokenizer::FromTokenizerJsonBytes(file, text, "fuzz");
    if (made.ok())
      EncodeAndBack(**made, text, /*keeps_spaces=*/false);  // lstrip tokens swallow some
    const auto plain = Tokenizer::FromTokenizerJsonBytes(file, "", "fuzz");
    if (plain.ok()) EncodeAndBack(**plain, text, false);
  } else if (pick % 3 == 1) {
    const auto made = Tokenizer::FromTiktokenBytes(file, "", "fuzz");
    if (made.ok()) EncodeAndBack(**made, text, true);
  } else {
    EncodeAndBack(*ByteTokenizer(pick / 3), rest, true);
  }
  return 0;
}
