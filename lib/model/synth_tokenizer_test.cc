// The synthetic vocabulary through the project's own tokenizer, in both containers' forms.
#include "lib/model/synth_tokenizer.h"

#include <map>

#include "gtest/gtest.h"
#include "lib/model/text/tokenizer.h"

namespace tandem {
namespace {

constexpr char kText[] = "the 12345 caf\u00e9s, \u65e5\u672c\n\ttabs";

ModelConfig SmallConfig(const std::string& model_type) {
  ModelConfig config;
  config.model_type = model_type;
  config.vocab_size = 300;
  config.max_position_embeddings = 128;
  config.bos_token_id = 0;
  config.eos_token_ids = {1, 299};
  return config;
}

void ExpectUsable(const Tokenizer& tokenizer) {
  const absl::StatusOr<std::vector<int32_t>> ids = tokenizer.Encode(kText, {.add_bos = true});
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(ids->front(), 0);
  EXPECT_EQ(tokenizer.Decode(*ids, /*skip_special=*/true).value(), kText);
  EXPECT_EQ(tokenizer.PieceToId("<\uff5cend\u2581of\u2581sentence\uff5c>"), 1);
  EXPECT_GT(tokenizer.PieceToId("<\uff5cUser\uff5c>"), 256);
  // The one merge works.
  EXPECT_EQ(tokenizer.Encode(" t")->size(), 1u);
}

TEST(SynthTokenizerForms, TokenizerJson) {
  const ModelConfig config = SmallConfig("deepseek_v3");
  const SynthVocabulary vocabulary = *MakeSynthVocabulary(config);
  const auto tokenizer = Tokenizer::FromTokenizerJsonBytes(
      TokenizerJson(vocabulary), TokenizerConfigJson(vocabulary, config), "synth");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectUsable(**tokenizer);
}

TEST(SynthTokenizerForms, GgufKeys) {
  for (const char* family : {"deepseek_v2", "deepseek_v3", "kimi_k2"}) {
    const ModelConfig config = SmallConfig(family);
    const GgufKeyValues list = *GgufTokenizerKeys(*MakeSynthVocabulary(config), config);
    std::map<std::string, GgufValue> keys(list.begin(), list.end());
    TokenizerFields fields;
    fields.model = std::get<std::string>(keys.at("tokenizer.ggml.model"));
    fields.pre = std::get<std::string>(keys.at("tokenizer.ggml.pre"));
    fields.tokens = std::get<std::vector<std::string>>(keys.at("tokenizer.ggml.tokens"));
    fields.token_types = std::get<std::vector<int32_t>>(keys.at("tokenizer.ggml.token_type"));
    fields.merges = std::get<std::vector<std::string>>(keys.at("tokenizer.ggml.merges"));
    fields.bos_id =
        static_cast<int32_t>(std::get<uint32_t>(keys.at("tokenizer.ggml.bos_token_id")));
    fields.eos_id =
        static_cast<int32_t>(std::get<uint32_t>(keys.at("tokenizer.ggml.eos_token_id")));
    fields.add_bos = std::get<bool>(keys.at("tokenizer.ggml.add_bos_token"));
    const auto tokenizer = Tokenizer::FromGgufFields(fields);
    ASSERT_TRUE(tokenizer.ok()) << family << ": " << tokenizer.status();
    ExpectUsable(**tokenizer);
  }
}

TEST(SynthTokenizerForms, MoreEndsThanGgufHasNamesFor) {
  ModelConfig config = SmallConfig("deepseek_v3");
  config.eos_token_ids = {1, 2, 3, 4};
  EXPECT_EQ(GgufTokenizerKeys(*MakeSynthVocabulary(config), config).status().code(),
            absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace tandem
