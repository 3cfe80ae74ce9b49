// Makes a tokenizer from the metadata of a GGUF file.
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/text/byte_level.h"
#include "lib/model/text/tokenizer.h"
#include "lib/model/text/tokenizer_parts.h"

namespace tandem {
namespace {

// Values of tokenizer.ggml.token_type.
enum GgufTokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5
};

using IdOfSpelling = absl::flat_hash_map<std::string, int32_t>;

absl::Status PlaceToken(const TokenizerFields& fields, int32_t id, text::TokenizerParts* parts) {
  const std::string& written = fields.tokens[static_cast<size_t>(id)];
  const int32_t type =
      fields.token_types.empty() ? kNormal : fields.token_types[static_cast<size_t>(id)];
  if (type == kControl || type == kUserDefined) {
    return parts->PlaceAdded({id, written, /*special=*/type == kControl});
  }
  if (type == kUnused || type == kUnknown) return parts->Place(id, written, 0);
  if (type != kNormal) {
    return text::Lie(parts->source, absl::StrCat("tokenizer.ggml.token_type[", id,
                                                 "]: expected 1 to 5, found ", type));
  }
  std::optional<std::string> raw = text::ByteLevelToRaw(written);
  const uint8_t flags = raw.has_value() && !raw->empty() ? text::kUsable : 0;
  return parts->Place(id, raw ? std::move(*raw) : written, flags);
}

absl::Status PlaceMerges(const TokenizerFields& fields, const IdOfSpelling& id_of,
                         text::TokenizerParts* parts) {
  parts->merges.reserve(fields.merges.size());
  for (size_t rank = 0; rank < fields.merges.size(); ++rank) {
    const std::string& merge = fields.merges[rank];
    const size_t space = merge.find(' ', 1);  // a half is never empty
    const std::string left = merge.substr(0, space);
    const std::string right = space == std::string::npos ? "" : merge.substr(space + 1);
    const auto l = id_of.find(left), r = id_of.find(right), both = id_of.find(left + right);
    if (l == id_of.end() || r == id_of.end() || both == id_of.end()) {
      return text::Lie(
          parts->source,
          absl::StrCat("tokenizer.ggml.merges[", rank,
                       "]: expected two tokens that join to a third, found '", merge, "'"));
    }
    parts->merges.push_back({l->second, r->second, static_cast<uint32_t>(rank), both->second});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGgufFields(
    const TokenizerFields& fields) {
  text::TokenizerParts parts;
  parts.source = fields.source;
  if (fields.model != "gpt2") {
    return text::Lie(fields.source,
                     absl::StrCat("tokenizer.ggml.model: expected gpt2 (byte-level BPE), found '",
                                  fields.model, "'"));
  }
  if (static_cast<int64_t>(fields.tokens.size()) > text::kVocabIdsMax) {
    return text::Lie(fields.source,
                     absl::StrCat("tokenizer.ggml.tokens: expected at most ", text::kVocabIdsMax,
                                  ", found ", fields.tokens.size()));
  }
  if (!fields.token_types.empty() && fields.token_types.size() != fields.tokens.size()) {
    return text::Lie(fields.source,
                     absl::StrCat("tokenizer.ggml.token_type: expected ", fields.tokens.size(),
                                  " entries, found ", fields.token_types.size()));
  }
  absl::StatusOr<text::PreTokenizer> pre = text::PreTokenizer::Named(fields.pre);
  if (!pre.ok()) {
    return absl::Status(
        pre.status().code(),
        absl::StrCat(fields.source, ": tokenizer.ggml.pre: ", std::string(pre.status().message())));
  }
  parts.pre = *std::move(pre);
  parts.whole_first =
      fields.pre == "kimi-k2";  // as tiktoken, where that vocabulary comes from, does
  IdOfSpelling id_of;
  id_of.reserve(fields.tokens.size());
  for (size_t id = 0; id < fields.tokens.size(); ++id) {
    TANDEM_RETURN_IF_ERROR(PlaceToken(fields, static_cast<int32_t>(id), &parts));
    id_of.emplace(fields.tokens[id], static_cast<int32_t>(id));
  }
  TANDEM_RETURN_IF_ERROR(PlaceMerges(fields, id_of, &parts));
  parts.bos_id = fields.bos_id;
  parts.eos_id = fields.eos_id;
  parts.pad_id = fields.pad_id;
  parts.add_bos = fields.add_bos;
  parts.chat_template = fields.chat_template;
  return std::move(parts).Build();
}

}  // namespace tandem
