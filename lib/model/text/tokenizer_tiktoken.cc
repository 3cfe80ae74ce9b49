// The reader of Kimi-K2's and Moonlight's tiktoken.model.
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/text/tokenizer.h"
#include "lib/model/text/tokenizer_parts.h"
#include "simdjson.h"

namespace tandem {
namespace text {
namespace {

// moonshotai reserves 256 ids behind the ranks (its Python loop makes two more, for which the model
// has no rows).
constexpr int32_t kReservedIds = 256;
// The longest token known has 128 bytes; pair rules are made for every split of a token, so its
// length is bounded.
constexpr size_t kTokenBytesMax = 1024;

// Splits off the next line of `text`.
std::string_view NextLine(std::string_view* text) {
  const size_t end = text->find('\n');
  const std::string_view line = text->substr(0, end);
  text->remove_prefix(end == std::string_view::npos ? text->size() : end + 1);
  return line;
}

absl::Status PlaceRanks(std::string_view model, TokenizerParts* parts) {
  for (int64_t line_number = 1; !model.empty(); ++line_number) {
    const std::string_view line = NextLine(&model);
    if (line.empty()) continue;
    const size_t space = line.find(' ');
    std::string piece;
    int64_t rank = -1;
    if (space == std::string_view::npos ||
        !absl::Base64Unescape(base::ToAbsl(line.substr(0, space)), &piece) ||
        !absl::SimpleAtoi(base::ToAbsl(line.substr(space + 1)), &rank) || piece.empty() ||
        piece.size() > kTokenBytesMax) {
      return Lie(
          parts->source,
          absl::StrCat("line ", line_number, ": expected \"base64 rank\" of 1 to ", kTokenBytesMax,
                       " bytes, found '", std::string(line.substr(0, 80)), "'"));
    }
    TANDEM_RETURN_IF_ERROR(parts->Place(rank, std::move(piece), kUsable));
  }
  for (size_t rank = 0; rank < parts->flags.size(); ++rank) {
    if (parts->flags[rank] == 0) {
      return Lie(parts->source, absl::StrCat("rank ", rank, ": expected a token, found none"));
    }
  }
  return absl::OkStatus();
}

// tiktoken merges any two neighbours whose bytes join to a token, at the rank of that token.
absl::Status DeriveMerges(TokenizerParts* parts) {
  absl::flat_hash_map<absl::string_view, int32_t> id_of;
  for (size_t id = 0; id < parts->pieces.size(); ++id) {
    if (!id_of.emplace(parts->pieces[id], static_cast<int32_t>(id)).second) {
      return Lie(parts->source,
                 absl::StrCat("rank ", id, ": expected a new token, found a repeated one"));
    }
  }
  for (size_t id = 0; id < parts->pieces.size(); ++id) {
    const absl::string_view piece = parts->pieces[id];
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      const auto left = id_of.find(piece.substr(0, cut)), right = id_of.find(piece.substr(cut));
      if (left == id_of.end() || right == id_of.end()) continue;
      parts->merges.push_back(
          {left->second, right->second, static_cast<uint32_t>(id), static_cast<int32_t>(id)});
    }
  }
  return absl::OkStatus();
}

// Names of special ids from added_tokens_decoder: {"163584": {"content": "[BOS]", ...}, ...}.
absl::Status ReadNames(std::string_view config_json, const std::string& source,
                       absl::flat_hash_map<int64_t, std::string>* names) {
  if (config_json.empty()) return absl::OkStatus();
  simdjson::dom::parser parser;
  simdjson::dom::object config, decoder;
  const auto error = parser.parse(config_json.data(), config_json.size()).get(config);
  if (error != simdjson::SUCCESS) {
    return Lie(source, absl::StrCat("tokenizer_config.json: expected a JSON object, found: ",
                                    simdjson::error_message(error)));
  }
  if (config["added_tokens_decoder"].get(decoder) != simdjson::SUCCESS) return absl::OkStatus();
  for (const auto [key, value] : decoder) {
    int64_t id = -1;
    std::string_view content;
    if (!absl::SimpleAtoi(base::ToAbsl(key), &id) ||
        value["content"].get(content) != simdjson::SUCCESS) {
      return Lie(source,
                 absl::StrCat(
                     "tokenizer_config.json added_tokens_decoder: expected id and content, found '",
                     std::string(key), "'"));
    }
    (*names)[id] = std::string(content);
  }
  return absl::OkStatus();
}

absl::Status PlaceSpecials(std::string_view config_json, TokenizerParts* parts) {
  absl::flat_hash_map<int64_t, std::string> names;
  TANDEM_RETURN_IF_ERROR(ReadNames(config_json, parts->source, &names));
  const int32_t first = static_cast<int32_t>(parts->pieces.size());
  for (int32_t id = first; id < first + kReservedIds; ++id) {
    const auto name = names.find(id);
    const std::string content =
        name != names.end() ? name->second : absl::StrCat("<|reserved_token_", id, "|>");
    TANDEM_RETURN_IF_ERROR(parts->PlaceAdded({id, content, /*special=*/true}));
  }
  for (const auto& [id, name] : names) {
    if (id < first || id >= first + kReservedIds) {
      return Lie(parts->source,
                 absl::StrCat("tokenizer_config.json added_tokens_decoder: expected ids ", first,
                              " to ", first + kReservedIds - 1, ", found ", id));
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace text

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromTiktokenBytes(
    std::string_view model, std::string_view config_json, const std::string& source) {
  text::TokenizerParts parts;
  parts.source = source;
  parts.whole_first = true;
  TANDEM_ASSIGN_OR_RETURN(parts.pre, text::PreTokenizer::Named("kimi-k2"));
  TANDEM_RETURN_IF_ERROR(text::PlaceRanks(model, &parts));
  TANDEM_RETURN_IF_ERROR(text::DeriveMerges(&parts));
  TANDEM_RETURN_IF_ERROR(text::PlaceSpecials(config_json, &parts));
  TANDEM_RETURN_IF_ERROR(parts.ApplyConfig(config_json));
  return std::move(parts).Build();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromTiktokenModel(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const std::string model, text::ReadTextFile(path));
  TANDEM_ASSIGN_OR_RETURN(const std::string config,
                          text::ReadOptionalTextFile(text::Beside(path, "tokenizer_config.json")));
  TANDEM_ASSIGN_OR_RETURN(std::string chat_template,
                          text::ReadOptionalTextFile(text::Beside(path, "chat_template.jinja")));
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> made, FromTiktokenBytes(model, config, path));
  if (!chat_template.empty()) made->chat_template_ = std::move(chat_template);
  return made;
}

}  // namespace tandem
