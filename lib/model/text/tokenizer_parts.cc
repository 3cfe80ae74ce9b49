#include "lib/model/text/tokenizer_parts.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/mapped_file.h"
#include "lib/base/status_macros.h"
#include "simdjson.h"

namespace tandem::text {
namespace {

constexpr size_t kFileBytesMax = 256u << 20;

using simdjson::dom::element;

// A token in tokenizer_config.json is a string, an object with "content", or null. Returns "" for
// null and absent.
absl::StatusOr<std::string> TokenText(const std::string& source,
                                      const simdjson::dom::object& config, const char* field) {
  element value;
  if (config[field].get(value) != simdjson::SUCCESS || value.is_null()) return std::string();
  std::string_view text;
  if (value.get(text) == simdjson::SUCCESS) return std::string(text);
  if (value["content"].get(text) == simdjson::SUCCESS) return std::string(text);
  return Lie(source,
             absl::StrCat("field ", field, ": expected a string or an object with content"));
}

// The template is a string, or a list of {name, template} of which "default" counts.
absl::StatusOr<std::string> TemplateText(const std::string& source,
                                         const simdjson::dom::object& config) {
  element value;
  if (config["chat_template"].get(value) != simdjson::SUCCESS || value.is_null())
    return std::string();
  std::string_view text;
  if (value.get(text) == simdjson::SUCCESS) return std::string(text);
  simdjson::dom::array list;
  if (value.get(list) == simdjson::SUCCESS) {
    for (element entry : list) {
      std::string_view name;
      if (entry["name"].get(name) == simdjson::SUCCESS && name == "default" &&
          entry["template"].get(text) == simdjson::SUCCESS) {
        return std::string(text);
      }
    }
  }
  return Lie(source,
             "field chat_template: expected a string or a list with an entry named default");
}

}  // namespace

absl::Status Lie(const std::string& source, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(source, ": ", what));
}

absl::Status TokenizerParts::Place(int64_t id, std::string piece, uint8_t piece_flags) {
  if (id < 0 || id >= kVocabIdsMax) {
    return Lie(source, absl::StrCat("token id: expected 0 to ", kVocabIdsMax - 1, ", found ", id));
  }
  const size_t at = static_cast<size_t>(id);
  if (at >= pieces.size()) {
    pieces.resize(at + 1);
    flags.resize(at + 1);
  }
  if ((flags[at] & kPresent) != 0) {
    return Lie(source, absl::StrCat("token id ", id, ": expected one token, found two"));
  }
  pieces[at] = std::move(piece);
  flags[at] = piece_flags | kPresent;
  return absl::OkStatus();
}

absl::Status TokenizerParts::PlaceAdded(AddedToken token) {
  const uint8_t marks = kAdded | (token.special ? kSpecial : 0);
  const size_t at = static_cast<size_t>(token.id);
  if (token.id >= 0 && at < flags.size() && (flags[at] & kPresent) != 0) {
    if (pieces[at] != token.content) {
      return Lie(source, absl::StrCat("added token ", token.id, ": expected the vocabulary's '",
                                      pieces[at], "', found '", token.content, "'"));
    }
    flags[at] |= marks;
  } else {
    TANDEM_RETURN_IF_ERROR(Place(token.id, token.content, marks));
  }
  added.push_back(std::move(token));
  return absl::OkStatus();
}

absl::StatusOr<int32_t> TokenizerParts::IdOf(std::string_view content,
                                             std::string_view field) const {
  for (const AddedToken& token : added) {
    if (token.content == content) return token.id;
  }
  for (size_t id = 0; id < pieces.size(); ++id) {
    if ((flags[id] & kPresent) != 0 && pieces[id] == content) return static_cast<int32_t>(id);
  }
  return Lie(source, absl::StrCat("field ", std::string(field),
                                  ": expected a token of the vocabulary, found '",
                                  std::string(content), "'"));
}

absl::Status TokenizerParts::ApplyConfig(std::string_view config_json) {
  if (config_json.empty()) return absl::OkStatus();
  const std::string name = absl::StrCat(source, " (tokenizer_config.json)");
  simdjson::dom::parser parser;
  simdjson::dom::object config;
  const auto error = parser.parse(config_json.data(), config_json.size()).get(config);
  if (error != simdjson::SUCCESS) {
    return Lie(name,
               absl::StrCat("expected a JSON object, found: ", simdjson::error_message(error)));
  }
  const std::pair<const char*, int32_t*> tokens[] = {
      {"bos_token", &bos_id}, {"eos_token", &eos_id}, {"pad_token", &pad_id}};
  for (const auto& [field, id] : tokens) {
    TANDEM_ASSIGN_OR_RETURN(const std::string content, TokenText(name, config, field));
    if (content.empty()) continue;
    TANDEM_ASSIGN_OR_RETURN(*id, IdOf(content, field));
  }
  bool adds = false;
  if (config["add_bos_token"].get(adds) == simdjson::SUCCESS) add_bos = adds;
  TANDEM_ASSIGN_OR_RETURN(chat_template, TemplateText(name, config));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerParts::Build() && {
  auto made = std::unique_ptr<Tokenizer>(new Tokenizer());
  made->pieces_ = std::move(pieces);
  made->flags_ = std::move(flags);
  for (AddedToken& token : added) {
    const absl::Status status = made->added_.Add(std::move(token));
    if (!status.ok()) return Lie(source, std::string(status.message()));
  }
  std::vector<bool> usable(made->pieces_.size());
  for (size_t id = 0; id < usable.size(); ++id) usable[id] = (made->flags_[id] & kUsable) != 0;
  absl::StatusOr<Bpe> bpe = Bpe::Make(made->pieces_, usable, merges, whole_first);
  if (!bpe.ok()) return Lie(source, std::string(bpe.status().message()));
  made->bpe_ = *std::move(bpe);
  made->pre_ = std::move(pre);
  for (const int32_t id : {bos_id, eos_id, pad_id}) {
    if (id != -1 && !made->HasId(id)) {
      return Lie(source,
                 absl::StrCat("special id: expected an id of the vocabulary or -1, found ", id));
    }
  }
  made->bos_id_ = bos_id;
  made->eos_id_ = eos_id;
  made->pad_id_ = pad_id;
  made->add_bos_ = add_bos;
  made->chat_template_ = std::move(chat_template);
  return made;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const base::MappedFile file, base::MappedFile::Open(path));
  const auto bytes = file.bytes();
  if (bytes.size() > kFileBytesMax) {
    return Lie(path,
               absl::StrCat("expected at most ", kFileBytesMax, " bytes, found ", bytes.size()));
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::StatusOr<std::string> ReadOptionalTextFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::string();
  return ReadTextFile(path);
}

std::string Beside(const std::string& path, const std::string& name) {
  return (std::filesystem::path(path).parent_path() / name).string();
}

}  // namespace tandem::text
