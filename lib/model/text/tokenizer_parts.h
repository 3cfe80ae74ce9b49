// What the three readers (tokenizer.json, GGUF fields, tiktoken.model) have in common: they fill
// these parts, and one place checks them and makes the tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lib/model/text/added_tokens.h"
#include "lib/model/text/bpe.h"
#include "lib/model/text/pre_tokenizer.h"
#include "lib/model/text/tokenizer.h"

namespace tandem::text {

// Kimi-K2 has 163,840 ids, the largest vocabularies about a million; the bound keeps a lying id
// from allocating much.
inline constexpr int64_t kVocabIdsMax = int64_t{1} << 22;

inline constexpr uint8_t kPresent = 1;  // the vocabulary has the id
inline constexpr uint8_t kUsable = 2;   // BPE may produce it
inline constexpr uint8_t kAdded = 4;
inline constexpr uint8_t kSpecial = 8;

struct TokenizerParts {
  std::string source;  // file name, for messages
  std::vector<std::string> pieces;
  std::vector<uint8_t> flags;
  std::vector<MergeRule> merges;
  bool whole_first = false;
  std::vector<AddedToken> added;
  PreTokenizer pre;
  int32_t bos_id = -1, eos_id = -1, pad_id = -1;
  bool add_bos = false;
  std::string chat_template;

  // Puts raw `piece` at `id`. InvalidArgument when the id is out of range or taken.
  absl::Status Place(int64_t id, std::string piece, uint8_t piece_flags);
  // Puts an added token, on top of the vocabulary's own entry when the two agree.
  absl::Status PlaceAdded(AddedToken token);
  // The id of the added or vocabulary token spelled `content`; InvalidArgument naming `field` when
  // there is none.
  absl::StatusOr<int32_t> IdOf(std::string_view content, std::string_view field) const;
  // Reads bos_token, eos_token, pad_token, add_bos_token and chat_template of a
  // tokenizer_config.json.
  absl::Status ApplyConfig(std::string_view config_json);

  absl::StatusOr<std::unique_ptr<Tokenizer>> Build() &&;
};

// "source: what", the form of every message of the readers.
absl::Status Lie(const std::string& source, const std::string& what);

// The whole file, or a NOT_FOUND status. Refuses files above 256 MiB: no tokenizer is that large.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);
// The same, but empty when the file does not exist.
absl::StatusOr<std::string> ReadOptionalTextFile(const std::string& path);

// The folder of `path` joined with `name`.
std::string Beside(const std::string& path, const std::string& name);

}  // namespace tandem::text
