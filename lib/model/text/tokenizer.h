// Text to token ids and back, with the ids the models were trained on. One class reads the three
// forms in which DeepSeek-class models ship their vocabulary; a wrong id here is a wrong answer
// everywhere, so whatever a file asks for that is not implemented exactly is refused by name when
// it is opened.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/text/added_tokens.h"
#include "lib/model/text/bpe.h"
#include "lib/model/text/pre_tokenizer.h"

namespace tandem {

namespace text {
struct TokenizerParts;
}

struct EncodeOptions {
  // Puts bos_id() first. Chat templates write the bos text themselves: leave this off for a
  // rendered template.
  bool add_bos = false;
  // Recognises added tokens (<｜User｜>, ...) in the text. Off: every character is ordinary text,
  // so that what a user types cannot forge a control token.
  bool parse_special = true;
};

// The `tokenizer.*` metadata of a GGUF file, as plain data.
struct TokenizerFields {
  std::string source = "gguf";       // file name, for messages
  std::string model;                 // tokenizer.ggml.model: "gpt2" (byte-level BPE) is supported
  std::string pre;                   // tokenizer.ggml.pre
  std::vector<std::string> tokens;   // byte-level spelling; control tokens as they are
  std::vector<int32_t> token_types;  // 1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte
  std::vector<std::string> merges;   // "left right", best first
  int32_t bos_id = -1, eos_id = -1, pad_id = -1;  // -1: the file has none
  bool add_bos = false;
  std::string chat_template;  // empty: the file has none
};

// Immutable after construction, hence thread-safe.
class Tokenizer {
 public:
  // Reads a Hugging Face tokenizer.json: BPE with byte-level Split/Digits/ByteLevel/Sequence
  // pre-tokenizers, no normalizer. When tokenizer_config.json lies beside it, bos, eos, pad,
  // add_bos and the chat template come from there (chat_template.jinja beside them wins).
  // `truncation`, `padding` and the post-processor are options of a call in that format and are not
  // applied; bos is added on request only. Errors name the file and the field, with what was
  // expected and found.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromTokenizerJson(const std::string& path);

  // The same from bytes in memory; `config_json` may be empty. `source` names them in messages.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromTokenizerJsonBytes(
      std::string_view tokenizer_json, std::string_view config_json, const std::string& source);

  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromGgufFields(const TokenizerFields& fields);

  // Reads Kimi-K2's or Moonlight's tiktoken.model ("base64 rank" lines) and the
  // tokenizer_config.json beside it, which names special tokens among the 256 ids behind the last
  // rank (the others become <|reserved_token_N|>). moonshotai's Python code cuts texts above
  // 400,000 characters, and runs above 25,000 without a space, before encoding; this does not, so
  // only there ids can differ.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromTiktokenModel(const std::string& path);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromTiktokenBytes(std::string_view model,
                                                                      std::string_view config_json,
                                                                      const std::string& source);

  // InvalidArgument when `text` is not well-formed UTF-8 (the byte position is named), above 1 GiB,
  // or when bos is asked for and the vocabulary has none.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              EncodeOptions options = {}) const;

  // Joins the pieces; bytes that are no UTF-8 become U+FFFD. `skip_special` leaves out tokens
  // marked special. InvalidArgument for an id the vocabulary does not have.
  absl::StatusOr<std::string> Decode(const std::vector<int32_t>& ids,
                                     bool skip_special = false) const;

  // Raw bytes of one token (perhaps part of a character); the view lives as long as the tokenizer.
  absl::StatusOr<std::string_view> IdToPiece(int32_t id) const;
  // The id of the added token or, failing that, the ordinary token with exactly these raw bytes; -1
  // for none.
  int32_t PieceToId(std::string_view piece) const;

  // False for negative ids, ids from vocab_size() on and the holes some vocabularies have. A model
  // may have more output rows than its vocabulary has ids.
  bool HasId(int32_t id) const;
  // True for added tokens marked special (control tokens).
  bool IsSpecial(int32_t id) const;
  // True for every added token, special or not (V3 marks <｜User｜> as not special).
  bool IsAdded(int32_t id) const;
  const std::vector<text::AddedToken>& added_tokens() const { return added_.all(); }

  int32_t vocab_size() const { return static_cast<int32_t>(pieces_.size()); }  // highest id + 1
  int32_t bos_id() const { return bos_id_; }                                   // -1: none
  int32_t eos_id() const { return eos_id_; }
  int32_t pad_id() const { return pad_id_; }
  bool adds_bos_by_default() const { return add_bos_; }
  const std::string& chat_template() const { return chat_template_; }  // empty: none

 private:
  friend struct text::TokenizerParts;
  Tokenizer() = default;

  std::vector<std::string> pieces_;  // raw bytes by id; never moved once bpe_ is made
  std::vector<uint8_t> flags_;       // by id
  text::AddedTokens added_;
  text::PreTokenizer pre_;
  text::Bpe bpe_;
  int32_t bos_id_ = -1, eos_id_ = -1, pad_id_ = -1;
  bool add_bos_ = false;
  std::string chat_template_;
};

}  // namespace tandem
