// What the readers refuse, and how they say it; tests/golden/text proves the ids.
#include "lib/model/text/tokenizer.h"

#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/model/text/byte_level.h"
#include "lib/model/text/detokenizer.h"
#include "lib/model/text/regex_dialect.h"
#include "nlohmann/json.hpp"

namespace tandem {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

// All 256 bytes, "ab", "abc" and one added token.
Json SmallFile() {
  Json vocab;
  for (int byte = 0; byte < 256; ++byte)
    vocab[text::RawToByteLevel(std::string(1, static_cast<char>(byte)))] = byte;
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  return {
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"added_tokens", {{{"id", 258}, {"content", "<end>"}, {"special", true}}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", "ab c"}}}}};
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Read(const Json& file, const std::string& config = "") {
  return Tokenizer::FromTokenizerJsonBytes(file.dump(), config, "t.json");
}

// Reads `file` with `value` at `pointer` and expects a refusal that says `what`.
void ExpectLie(const std::string& pointer, const Json& value, const std::string& what) {
  Json file = SmallFile();
  file[Json::json_pointer(pointer)] = value;
  const auto made = Read(file);
  ASSERT_FALSE(made.ok()) << pointer;
  EXPECT_THAT(std::string(made.status().message()), HasSubstr("t.json"));
  EXPECT_THAT(std::string(made.status().message()), HasSubstr(what));
}

TEST(Tokenizer, MergesAndFindsAddedTokens) {
  const auto t = Read(SmallFile());
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_EQ(*(*t)->Encode("abc<end>ab"), (std::vector<int32_t>{257, 258, 256}));
  EXPECT_EQ((*t)->Encode("<end>", {.parse_special = false})->size(), 5u);
  EXPECT_EQ(*(*t)->Decode({257, 258}), "abc<end>");
  EXPECT_EQ(*(*t)->Decode({257, 258}, /*skip_special=*/true), "abc");
  EXPECT_EQ((*t)->PieceToId("abc"), 257);
  EXPECT_EQ((*t)->PieceToId("<end>"), 258);
  EXPECT_EQ((*t)->PieceToId("zz"), -1);
  EXPECT_EQ((*t)->vocab_size(), 259);
  EXPECT_FALSE((*t)->HasId(259));
  EXPECT_FALSE((*t)->IdToPiece(-1).ok());
  EXPECT_FALSE((*t)->Decode({259}).ok());
}

TEST(Tokenizer, IgnoreMergesTakesWholeWords) {
  Json file = SmallFile();
  file["model"]["merges"] = Json::array();
  EXPECT_EQ((*Read(file))->Encode("abc")->size(), 3u);
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(*(*Read(file))->Encode("abc"), (std::vector<int32_t>{257}));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const auto t = Read(SmallFile());
  ASSERT_TRUE(t.ok());
  for (const std::string bad : {"ab\xff", "\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80"}) {
    const auto ids = (*t)->Encode(bad);
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument) << absl::CHexEscape(bad);
  }
  EXPECT_THAT(std::string((*t)->Encode("ab\xff").status().message()), HasSubstr("byte 2"));
}

TEST(Tokenizer, AddsBosOnlyWhenThereIsOne) {
  EXPECT_FALSE((*Read(SmallFile()))->Encode("a", {.add_bos = true}).ok());
  const auto t = Read(
      SmallFile(),
      R"({"bos_token": {"content": "<end>"}, "chat_template": [{"name": "default", "template": "T"}]})");
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_EQ(*(*t)->Encode("a", {.add_bos = true}), (std::vector<int32_t>{258, 97}));
  EXPECT_EQ((*t)->chat_template(), "T");
}

TEST(Tokenizer, RefusesWhatItDoesNotImplement) {
  ExpectLie("/normalizer", {{"type", "NFC"}}, "field normalizer: expected none, found NFC");
  ExpectLie("/pre_tokenizer", {{"type", "Metaspace"}}, "found Metaspace");
  ExpectLie("/pre_tokenizer", nullptr, "pre_tokenizer");
  ExpectLie("/pre_tokenizer/add_prefix_space", true, "add_prefix_space");
  ExpectLie("/pre_tokenizer",
            {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Removed"}},
            "found Removed");
  ExpectLie("/pre_tokenizer",
            {{"type", "Split"}, {"pattern", {{"Regex", "\\w+"}}}, {"behavior", "Isolated"}}, "\\w");
  ExpectLie("/pre_tokenizer",
            {{"type", "Split"}, {"pattern", {{"Regex", "a*"}}}, {"behavior", "Isolated"}}, "empty");
  ExpectLie("/decoder", {{"type", "Metaspace"}}, "found Metaspace");
  ExpectLie("/post_processor", {{"type", "BertProcessing"}}, "found BertProcessing");
  ExpectLie("/model/type", "Unigram", "found Unigram");
  ExpectLie("/model/dropout", 0.1, "model.dropout");
  ExpectLie("/added_tokens/0/single_word", true, "single_word");
}

TEST(Tokenizer, NamesTheLieInAFile) {
  ExpectLie("/model/vocab/ab", 257, "expected one token, found two");
  ExpectLie("/model/vocab/ab", -5, "token id");
  ExpectLie("/model/vocab/ab", "x", "model.vocab");
  ExpectLie("/model/merges/0", "a", "model.merges[0]");
  ExpectLie("/model/merges/0", "a zz", "model.merges[0]");
  ExpectLie("/model/merges", 5, "model.merges");
  ExpectLie("/added_tokens/0/id", 97, "added token 97");
  ExpectLie("/added_tokens/0/id", -1, "added_tokens");
  ExpectLie("/added_tokens/0/special", "yes", "special");
  Json file = SmallFile();
  file["model"]["vocab"].erase("a");
  file["model"]["merges"] = Json::array();
  EXPECT_THAT(std::string(Read(file).status().message()), HasSubstr("byte 0x61"));
  EXPECT_THAT(std::string(Tokenizer::FromTokenizerJsonBytes("{", "", "t.json").status().message()),
              HasSubstr("t.json"));
  EXPECT_THAT(std::string(Read(SmallFile(), R"({"bos_token": "nope"})").status().message()),
              HasSubstr("bos_token"));
  EXPECT_FALSE(Tokenizer::FromTokenizerJson("/nowhere/tokenizer.json").ok());
}

TEST(Tokenizer, GgufFieldsNameTheLie) {
  TokenizerFields fields;
  fields.source = "m.gguf";
  fields.model = "llama";
  fields.pre = "deepseek-v3";
  EXPECT_THAT(std::string(Tokenizer::FromGgufFields(fields).status().message()),
              HasSubstr("found 'llama'"));
  fields.model = "gpt2";
  fields.pre = "qwen2";
  EXPECT_THAT(std::string(Tokenizer::FromGgufFields(fields).status().message()),
              HasSubstr("'qwen2' is not supported"));
  fields.pre = "deepseek-v3";
  fields.tokens = {"a", "b"};
  fields.token_types = {1};
  EXPECT_THAT(std::string(Tokenizer::FromGgufFields(fields).status().message()),
              HasSubstr("expected 2 entries, found 1"));
  fields.token_types = {1, 6};
  EXPECT_THAT(std::string(Tokenizer::FromGgufFields(fields).status().message()),
              HasSubstr("token_type[1]"));
  fields.token_types = {1, 1};
  fields.merges = {"a c"};
  EXPECT_THAT(std::string(Tokenizer::FromGgufFields(fields).status().message()),
              HasSubstr("merges[0]"));
}

TEST(Tokenizer, TiktokenNamesTheLie) {
  const auto say = [](const std::string& model) {
    return std::string(Tokenizer::FromTiktokenBytes(model, "", "k.model").status().message());
  };
  EXPECT_THAT(say("YQ== 0\nnonsense\n"), HasSubstr("line 2"));
  EXPECT_THAT(say("YQ== 0\nYg== 2\n"), HasSubstr("rank 1: expected a token, found none"));
  EXPECT_THAT(say("YQ== 0\nYQ== 1\n"), HasSubstr("rank 1"));
  EXPECT_THAT(say("YQ== 99999999999\n"), HasSubstr("token id"));
  EXPECT_THAT(say("YQ== 0\n"), HasSubstr("no token for byte"));
}

TEST(Detokenizer, HoldsBackHalfACharacter) {
  const auto t = Read(SmallFile());
  ASSERT_TRUE(t.ok());
  Detokenizer stream(t->get());
  EXPECT_EQ(stream.Push(0xE4), "");
  EXPECT_EQ(stream.Push(0xB8), "");
  EXPECT_EQ(stream.Push(0xAD), "中");
  EXPECT_EQ(stream.Push(0xE4), "");
  EXPECT_EQ(stream.Push('x'), "\uFFFDx");
  EXPECT_EQ(stream.Push(0xF0), "");
  EXPECT_EQ(stream.Push(100000), "") << "an id the vocabulary does not have adds nothing";
  EXPECT_EQ(stream.Finish(), "\uFFFD");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(RegexDialect, RefusesByName) {
  for (const std::string bad :
       {"\\w", "\\h", "\\b", "[[:alpha:]]", "(?<name>a)", "(?R)", "(*UTF)", "a{1,2}+", "\\p{Greek}",
        "[a&&b]", "[a[b]]", "[a", "\\", "[]", "\\p{L", "\\x{110000000}"}) {
    EXPECT_FALSE(text::ToPcre2(bad, text::RegexDialect::kOniguruma).ok()) << bad;
  }
  EXPECT_EQ(*text::ToPcre2("\\p{Han}$", text::RegexDialect::kRust), "\\p{sc:Han}\\z");
}

}  // namespace
}  // namespace tandem
