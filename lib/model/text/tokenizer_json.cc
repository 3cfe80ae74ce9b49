// The reader of Hugging Face's tokenizer.json.
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
#include "simdjson.h"

namespace tandem {
namespace text {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

// GPT-2's own split, which a ByteLevel pre-tokenizer with use_regex applies.
constexpr char kGpt2Split[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
constexpr int kSequenceDepthMax = 8;

class JsonReader {
 public:
  explicit JsonReader(const std::string& source) { parts_.source = source; }

  absl::StatusOr<TokenizerParts> Read(std::string_view json) {
    simdjson::dom::parser parser;
    object root;
    const auto error = parser.parse(json.data(), json.size()).get(root);
    if (error != simdjson::SUCCESS) {
      return Wrong("the file", "a JSON object", simdjson::error_message(error));
    }
    TANDEM_RETURN_IF_ERROR(Normalizer(root));
    TANDEM_RETURN_IF_ERROR(PostProcessor(root));
    TANDEM_RETURN_IF_ERROR(Decoder(root));
    element pre;
    if (root["pre_tokenizer"].get(pre) != simdjson::SUCCESS || pre.is_null()) {
      return Wrong("pre_tokenizer", "one with ByteLevel", "none");
    }
    TANDEM_RETURN_IF_ERROR(Pre(pre, 0));
    if (!byte_level_) return Wrong("pre_tokenizer", "a ByteLevel at its end", "none");
    object model;
    if (root["model"].get(model) != simdjson::SUCCESS) return Wrong("model", "an object", "none");
    TANDEM_RETURN_IF_ERROR(Model(model));
    TANDEM_RETURN_IF_ERROR(Added(root));
    return std::move(parts_);
  }

 private:
  absl::Status Wrong(const std::string& field, const std::string& expected,
                     std::string_view found) const {
    return Lie(parts_.source, absl::StrCat("field ", field, ": expected ", expected, ", found ",
                                           std::string(found)));
  }
  static std::string TypeOf(const element& e) {
    std::string_view type;
    return e["type"].get(type) == simdjson::SUCCESS ? std::string(type) : "an object without type";
  }
  static bool Present(const object& o, const char* field, element* out) {
    return o[field].get(*out) == simdjson::SUCCESS && !out->is_null();
  }

  // Leaves `value` as it is when the field is absent.
  template <typename Node>
  absl::Status Flag(const Node& in, const char* field, bool* value) const {
    element found;
    if (in[field].get(found) != simdjson::SUCCESS || found.is_null()) return absl::OkStatus();
    if (found.get(*value) == simdjson::SUCCESS) return absl::OkStatus();
    return Wrong(field, "true or false", "something else");
  }

  absl::Status Normalizer(const object& root) {
    element normalizer;
    if (!Present(root, "normalizer", &normalizer)) return absl::OkStatus();
    array list;
    if (TypeOf(normalizer) != "Sequence" ||
        normalizer["normalizers"].get(list) != simdjson::SUCCESS) {
      return Wrong("normalizer", "none", TypeOf(normalizer));
    }
    for (element inner : list) return Wrong("normalizer", "none", TypeOf(inner));
    return absl::OkStatus();
  }

  // Post-processors add bos or move offsets; which bos to add is the caller's option here.
  absl::Status PostProcessor(const object& root) {
    element post;
    if (!Present(root, "post_processor", &post)) return absl::OkStatus();
    const std::string type = TypeOf(post);
    if (type == "ByteLevel" || type == "TemplateProcessing") return absl::OkStatus();
    array list;
    if (type != "Sequence" || post["processors"].get(list) != simdjson::SUCCESS) {
      return Wrong("post_processor", "ByteLevel or TemplateProcessing", type);
    }
    for (element inner : list) {
      const std::string inner_type = TypeOf(inner);
      if (inner_type != "ByteLevel" && inner_type != "TemplateProcessing") {
        return Wrong("post_processor", "ByteLevel or TemplateProcessing", inner_type);
      }
    }
    return absl::OkStatus();
  }

  absl::Status Decoder(const object& root) {
    element decoder;
    if (!Present(root, "decoder", &decoder)) return Wrong("decoder", "ByteLevel", "none");
    if (TypeOf(decoder) != "ByteLevel") return Wrong("decoder", "ByteLevel", TypeOf(decoder));
    return absl::OkStatus();
  }

  absl::Status Pre(const element& pre, int depth) {
    if (depth > kSequenceDepthMax)
      return Wrong("pre_tokenizer", "at most 8 nested sequences", "more");
    if (byte_level_) return Wrong("pre_tokenizer", "nothing after ByteLevel", TypeOf(pre));
    const std::string type = TypeOf(pre);
    if (type == "Sequence") return Sequence(pre, depth);
    if (type == "Split") return Split(pre);
    if (type == "Digits") return Digits(pre);
    if (type == "ByteLevel") return ByteLevel(pre);
    return Wrong("pre_tokenizer", "Sequence, Split, Digits or ByteLevel", type);
  }

  absl::Status Sequence(const element& pre, int depth) {
    array list;
    if (pre["pretokenizers"].get(list) != simdjson::SUCCESS) {
      return Wrong("pre_tokenizer.pretokenizers", "a list", "none");
    }
    for (element inner : list) TANDEM_RETURN_IF_ERROR(Pre(inner, depth + 1));
    return absl::OkStatus();
  }

  absl::Status AddSplit(std::string_view pattern) {
    const absl::Status status = parts_.pre.AddSplit(pattern, RegexDialect::kOniguruma);
    if (status.ok()) return status;
    return Lie(parts_.source, absl::StrCat("field pre_tokenizer: ", std::string(status.message())));
  }

  absl::Status Split(const element& pre) {
    std::string_view pattern, behavior;
    if (pre["pattern"]["Regex"].get(pattern) != simdjson::SUCCESS) {
      return Wrong("pre_tokenizer.pattern", "a Regex", "none");
    }
    if (pre["behavior"].get(behavior) != simdjson::SUCCESS || behavior != "Isolated") {
      return Wrong("pre_tokenizer.behavior", "Isolated", behavior);
    }
    bool invert = false;
    TANDEM_RETURN_IF_ERROR(Flag(pre, "invert", &invert));
    if (invert) return Wrong("pre_tokenizer.invert", "false", "true");
    return AddSplit(pattern);
  }

  absl::Status Digits(const element& pre) {
    bool individual = false;  // the format's default
    TANDEM_RETURN_IF_ERROR(Flag(pre, "individual_digits", &individual));
    // Rust's char::is_numeric is the category N.
    return AddSplit(individual ? "\\p{N}" : "\\p{N}+");
  }

  absl::Status ByteLevel(const element& pre) {
    bool prefix_space = true, use_regex = true;  // the format's defaults
    TANDEM_RETURN_IF_ERROR(Flag(pre, "add_prefix_space", &prefix_space));
    TANDEM_RETURN_IF_ERROR(Flag(pre, "use_regex", &use_regex));
    if (prefix_space) return Wrong("pre_tokenizer.add_prefix_space", "false", "true");
    if (use_regex) TANDEM_RETURN_IF_ERROR(AddSplit(kGpt2Split));
    byte_level_ = true;
    return absl::OkStatus();
  }

  absl::Status Model(const object& model) {
    std::string_view type;
    if (model["type"].get(type) == simdjson::SUCCESS && type != "BPE")
      return Wrong("model.type", "BPE", type);
    for (const char* field : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      element value;
      std::string_view text;
      if (!Present(model, field, &value)) continue;
      if (value.get(text) == simdjson::SUCCESS && text.empty()) continue;
      return Wrong(absl::StrCat("model.", field), "none", "one");
    }
    TANDEM_RETURN_IF_ERROR(Flag(model, "ignore_merges", &parts_.whole_first));
    TANDEM_RETURN_IF_ERROR(Vocab(model));
    return Merges(model);
  }

  absl::Status Vocab(const object& model) {
    object vocab;
    if (model["vocab"].get(vocab) != simdjson::SUCCESS)
      return Wrong("model.vocab", "an object", "none");
    for (const auto [written, value] : vocab) {
      int64_t id = -1;
      if (value.get(id) != simdjson::SUCCESS) {
        return Wrong("model.vocab", "an integer id",
                     absl::StrCat("something else for '", std::string(written), "'"));
      }
      std::optional<std::string> raw = ByteLevelToRaw(written);
      // A token with characters outside the byte alphabet is never produced from text; it decodes
      // to itself.
      const uint8_t flags = raw.has_value() && !raw->empty() ? kUsable : 0;
      TANDEM_RETURN_IF_ERROR(parts_.Place(id, raw ? std::move(*raw) : std::string(written), flags));
      id_of_.emplace(base::ToAbsl(written), static_cast<int32_t>(id));
    }
    return absl::OkStatus();
  }

  // A merge is "left right" or ["left", "right"].
  static bool Halves(const element& merge, std::string_view* left, std::string_view* right) {
    std::string_view both;
    if (merge.get(both) == simdjson::SUCCESS) {
      const size_t space = both.find(' ');
      if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos)
        return false;
      *left = both.substr(0, space);
      *right = both.substr(space + 1);
      return true;
    }
    array pair;
    return merge.get(pair) == simdjson::SUCCESS && pair.size() == 2 &&
           pair.at(0).get(*left) == simdjson::SUCCESS &&
           pair.at(1).get(*right) == simdjson::SUCCESS;
  }

  absl::Status Merges(const object& model) {
    array merges;
    if (model["merges"].get(merges) != simdjson::SUCCESS)
      return Wrong("model.merges", "a list", "none");
    uint32_t rank = 0;
    std::string joined;
    for (element merge : merges) {
      std::string_view left, right;
      const std::string field = absl::StrCat("model.merges[", rank, "]");
      if (!Halves(merge, &left, &right)) return Wrong(field, "two tokens", "something else");
      joined.assign(left).append(right);
      const auto l = id_of_.find(base::ToAbsl(left)), r = id_of_.find(base::ToAbsl(right)),
                 both = id_of_.find(joined);
      if (l == id_of_.end() || r == id_of_.end() || both == id_of_.end()) {
        return Wrong(field, "tokens of the vocabulary",
                     absl::StrCat("'", std::string(left), "' and '", std::string(right), "'"));
      }
      parts_.merges.push_back({l->second, r->second, rank++, both->second});
    }
    return absl::OkStatus();
  }

  absl::Status Added(const object& root) {
    array list;
    if (root["added_tokens"].get(list) != simdjson::SUCCESS) return absl::OkStatus();
    for (element entry : list) {
      int64_t id = -1;
      std::string_view content;
      if (entry["id"].get(id) != simdjson::SUCCESS ||
          entry["content"].get(content) != simdjson::SUCCESS || id < 0 || id >= kVocabIdsMax) {
        return Wrong("added_tokens", "entries with content and an id in range", "something else");
      }
      AddedToken token{static_cast<int32_t>(id), std::string(content)};
      bool single_word = false;
      TANDEM_RETURN_IF_ERROR(Flag(entry, "special", &token.special));
      TANDEM_RETURN_IF_ERROR(Flag(entry, "normalized", &token.normalized));
      TANDEM_RETURN_IF_ERROR(Flag(entry, "lstrip", &token.lstrip));
      TANDEM_RETURN_IF_ERROR(Flag(entry, "rstrip", &token.rstrip));
      TANDEM_RETURN_IF_ERROR(Flag(entry, "single_word", &single_word));
      if (single_word) {
        return Wrong("added_tokens.single_word", "false",
                     absl::StrCat("true for '", token.content, "'"));
      }
      TANDEM_RETURN_IF_ERROR(parts_.PlaceAdded(std::move(token)));
    }
    return absl::OkStatus();
  }

  TokenizerParts parts_;
  bool byte_level_ = false;
  absl::flat_hash_map<std::string, int32_t> id_of_;  // by byte-level spelling
};

}  // namespace
}  // namespace text

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromTokenizerJsonBytes(
    std::string_view tokenizer_json, std::string_view config_json, const std::string& source) {
  TANDEM_ASSIGN_OR_RETURN(text::TokenizerParts parts,
                          text::JsonReader(source).Read(tokenizer_json));
  TANDEM_RETURN_IF_ERROR(parts.ApplyConfig(config_json));
  return std::move(parts).Build();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromTokenizerJson(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const std::string json, text::ReadTextFile(path));
  TANDEM_ASSIGN_OR_RETURN(const std::string config,
                          text::ReadOptionalTextFile(text::Beside(path, "tokenizer_config.json")));
  TANDEM_ASSIGN_OR_RETURN(std::string chat_template,
                          text::ReadOptionalTextFile(text::Beside(path, "chat_template.jinja")));
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> made,
                          FromTokenizerJsonBytes(json, config, path));
  if (!chat_template.empty()) made->chat_template_ = std::move(chat_template);
  return made;
}

}  // namespace tandem
