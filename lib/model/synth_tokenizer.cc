#include "lib/model/synth_tokenizer.h"

#include "absl/strings/str_cat.h"
#include "lib/model/text/byte_level.h"
#include "nlohmann/json.hpp"

namespace tandem {
namespace {

using nlohmann::json;

// DeepSeek's own spellings, so that chat code written for its models works. U+FF5C is the bar,
// U+2581 the space.
constexpr char kBos[] = "<\uff5cbegin\u2581of\u2581sentence\uff5c>";
constexpr char kEos[] = "<\uff5cend\u2581of\u2581sentence\uff5c>";
constexpr char kUser[] = "<\uff5cUser\uff5c>";
constexpr char kAssistant[] = "<\uff5cAssistant\uff5c>";

std::string ChatTemplate(const SynthVocabulary& vocabulary) {
  const std::string end =
      vocabulary.eos_ids.empty() ? "" : vocabulary.tokens[vocabulary.eos_ids[0]];
  return absl::StrCat(
      vocabulary.bos_id >= 0 ? "{{ bos_token }}" : "",
      "{% for message in messages %}{% if message['role'] == 'user' %}", kUser,
      "{{ message['content'] }}{% elif message['role'] == 'assistant' %}", kAssistant,
      "{{ message['content'] }}", end,
      "{% else %}{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}",
      kAssistant, "{% endif %}");
}

class Builder {
 public:
  explicit Builder(int64_t vocab_size) {
    out_.tokens.resize(vocab_size);
    out_.special.resize(vocab_size);
  }
  void PutSpecial(int64_t id, const std::string& text) {
    if (!out_.tokens[id].empty()) return;  // an id may be begin and end at once
    out_.tokens[id] = text;
    out_.special[id] = true;
  }
  // False when the vocabulary is full.
  bool PutLowest(const std::string& text) {
    while (low_ < Size() && !out_.tokens[low_].empty()) ++low_;
    if (low_ == Size()) return false;
    out_.tokens[low_] = text;
    return true;
  }
  bool PutHighestSpecial(const std::string& text) {
    for (int64_t id = Size() - 1; id >= 0; --id) {
      if (!out_.tokens[id].empty()) continue;
      PutSpecial(id, text);
      return true;
    }
    return false;
  }
  void Fill() {
    for (int64_t id = low_; id < Size(); ++id)
      if (out_.tokens[id].empty()) out_.tokens[id] = absl::StrCat("[", id, "]");
  }
  SynthVocabulary& out() { return out_; }

 private:
  int64_t Size() const { return static_cast<int64_t>(out_.tokens.size()); }
  SynthVocabulary out_;
  int64_t low_ = 0;
};

std::string PreTokenizerName(const ModelConfig& config) {
  if (config.model_type == "kimi_k2") return "kimi-k2";
  return config.model_type == "deepseek_v2" ? "deepseek-llm" : "deepseek-v3";
}

}  // namespace

absl::StatusOr<SynthVocabulary> MakeSynthVocabulary(const ModelConfig& config) {
  Builder builder(config.vocab_size);
  builder.out().bos_id = config.bos_token_id;
  builder.out().eos_ids = config.eos_token_ids;
  if (config.bos_token_id >= 0) builder.PutSpecial(config.bos_token_id, kBos);
  for (size_t i = 0; i < config.eos_token_ids.size(); ++i)
    builder.PutSpecial(config.eos_token_ids[i],
                       i == 0 ? kEos : absl::StrCat("<\uff5cend", i, "\uff5c>"));
  bool room = builder.PutHighestSpecial(kAssistant) && builder.PutHighestSpecial(kUser);
  for (int byte = 0; byte < 256; ++byte)
    room = room && builder.PutLowest(text::RawToByteLevel(std::string(1, static_cast<char>(byte))));
  const std::string space = text::RawToByteLevel(" ");
  room = room && builder.PutLowest(absl::StrCat(space, "t"));
  if (!room)
    return absl::InvalidArgumentError(
        absl::StrCat("vocab_size must be at least 257 plus the special tokens for a "
                     "byte-level tokenizer, found ",
                     config.vocab_size));
  builder.out().merges = {absl::StrCat(space, " t")};
  builder.Fill();
  return std::move(builder.out());
}

absl::StatusOr<GgufKeyValues> GgufTokenizerKeys(const SynthVocabulary& vocabulary,
                                                const ModelConfig& config) {
  constexpr int32_t kNormal = 1, kControl = 3;  // llama.cpp's token types
  GgufKeyValues keys;
  keys.emplace_back("tokenizer.ggml.model", std::string("gpt2"));
  keys.emplace_back("tokenizer.ggml.pre", PreTokenizerName(config));
  keys.emplace_back("tokenizer.ggml.tokens", vocabulary.tokens);
  std::vector<int32_t> types;
  for (const bool special : vocabulary.special) types.push_back(special ? kControl : kNormal);
  keys.emplace_back("tokenizer.ggml.token_type", types);
  keys.emplace_back("tokenizer.ggml.merges", vocabulary.merges);
  if (vocabulary.bos_id >= 0)
    keys.emplace_back("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(vocabulary.bos_id));
  constexpr const char* kEnds[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                   "tokenizer.ggml.eom_token_id"};
  if (vocabulary.eos_ids.size() > std::size(kEnds))
    return absl::UnimplementedError(
        absl::StrCat("GGUF names at most 3 end tokens, found ", vocabulary.eos_ids.size()));
  for (size_t i = 0; i < vocabulary.eos_ids.size(); ++i)
    keys.emplace_back(kEnds[i], static_cast<uint32_t>(vocabulary.eos_ids[i]));
  keys.emplace_back("tokenizer.ggml.add_bos_token", vocabulary.bos_id >= 0);
  keys.emplace_back("tokenizer.chat_template", ChatTemplate(vocabulary));
  return keys;
}

std::string TokenizerJson(const SynthVocabulary& vocabulary) {
  json vocab = json::object();
  json added = json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (!vocabulary.special[id]) {
      vocab[vocabulary.tokens[id]] = id;
      continue;
    }
    added.push_back({{"id", id},
                     {"content", vocabulary.tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  const json digits = {{"type", "Split"},
                       {"pattern", {{"Regex", "\\p{N}{1,3}"}}},
                       {"behavior", "Isolated"},
                       {"invert", false}};
  const json out = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {digits, byte_level}}}},
      {"post_processor", nullptr},
      {"decoder",
       {{"type", "ByteLevel"},
        {"add_prefix_space", true},
        {"trim_offsets", true},
        {"use_regex", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"vocab", vocab},
        {"merges", vocabulary.merges}}}};
  return out.dump(1) + "\n";
}

std::string TokenizerConfigJson(const SynthVocabulary& vocabulary, const ModelConfig& config) {
  json out = {{"add_bos_token", vocabulary.bos_id >= 0},
              {"add_eos_token", false},
              {"clean_up_tokenization_spaces", false},
              {"model_max_length", config.max_position_embeddings},
              {"tokenizer_class", "PreTrainedTokenizerFast"},
              {"chat_template", ChatTemplate(vocabulary)}};
  if (vocabulary.bos_id >= 0) out["bos_token"] = vocabulary.tokens[vocabulary.bos_id];
  if (!vocabulary.eos_ids.empty()) out["eos_token"] = vocabulary.tokens[vocabulary.eos_ids[0]];
  return out.dump(2) + "\n";
}

}  // namespace tandem
