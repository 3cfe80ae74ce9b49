// Ids and texts against the reference libraries (tokenizers, tiktoken), over 20,000 lines, every
// Unicode code point, id sequences no text gives and whole files.
#include <chrono>
#include <cstdio>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "lib/model/text/byte_level.h"
#include "lib/model/text/detokenizer.h"
#include "lib/model/text/tokenizer.h"
#include "lib/model/text/utf8.h"
#include "nlohmann/json.hpp"
#include "tests/golden/text/golden_files.h"

namespace tandem {
namespace {

using golden::Crc;

constexpr uint32_t kSweepBlocks = 0x110000 / 256;
constexpr EncodeOptions kPlain{.add_bos = false, .parse_special = false};

std::string V3Path() { return golden::DataPath("tokenizer_deepseek_v3/tokenizer.json"); }

std::unique_ptr<Tokenizer> Opened(absl::StatusOr<std::unique_ptr<Tokenizer>> made) {
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

std::unique_ptr<Tokenizer> Open(const std::string& prefix) {
  if (prefix == "deepseek_v3") return Opened(Tokenizer::FromTokenizerJson(V3Path()));
  if (prefix == "small_kimi")
    return Opened(Tokenizer::FromTiktokenModel(golden::GoldenPath("small_kimi/tiktoken.model")));
  return Opened(Tokenizer::FromTokenizerJson(golden::GoldenPath("small_v3/tokenizer.json")));
}

// The GGUF metadata that llama.cpp's converter would make of a tokenizer.json.
TokenizerFields FieldsOf(const std::string& path, const std::string& pre) {
  const auto json = nlohmann::json::parse(golden::ReadFile(path));
  TokenizerFields fields;
  fields.model = "gpt2";
  fields.pre = pre;
  const auto put = [&](size_t id, const std::string& token, int32_t type) {
    if (id >= fields.tokens.size()) {
      fields.tokens.resize(id + 1);
      fields.token_types.resize(id + 1, 5);
    }
    fields.tokens[id] = token;
    fields.token_types[id] = type;
  };
  for (const auto& [token, id] : json["model"]["vocab"].items()) put(id, token, 1);
  for (const auto& t : json["added_tokens"]) put(t["id"], t["content"], t["special"] ? 3 : 4);
  for (const auto& m : json["model"]["merges"]) {
    fields.merges.push_back(
        m.is_string() ? m.get<std::string>()
                      : absl::StrCat(m[0].get<std::string>(), " ", m[1].get<std::string>()));
  }
  return fields;
}

std::string SweepText(uint32_t block) {
  std::string bare, between;
  for (uint32_t c = block * 256; c < block * 256 + 256; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string one;
    text::AppendUtf8(c, &one);
    bare += one;
    between += absl::StrCat("a", one, "B ", one, "1");
  }
  return bare + between;
}

std::string Show(const std::vector<int32_t>& ids) {
  std::string out;
  for (const int32_t id : ids) absl::StrAppend(&out, id, " ");
  return out;
}

// Compares every line; stops after a few differences.
void ExpectLines(const Tokenizer& tokenizer, EncodeOptions options,
                 const std::vector<uint32_t>& crcs) {
  const std::vector<std::string> lines = golden::UnpackLines();
  ASSERT_EQ(lines.size(), crcs.size());
  ASSERT_GE(lines.size(), 20000u);
  int wrong = 0;
  for (size_t i = 0; i < lines.size() && wrong < 5; ++i) {
    const auto ids = tokenizer.Encode(lines[i], options);
    ASSERT_TRUE(ids.ok()) << ids.status();
    if (Crc(*ids) == crcs[i]) continue;
    ++wrong;
    ADD_FAILURE() << "line " << i << " (" << nlohmann::json(lines[i]).dump() << "): " << Show(*ids);
  }
}

void ExpectSweep(const Tokenizer& tokenizer, EncodeOptions options,
                 const std::vector<uint32_t>& crcs) {
  ASSERT_EQ(crcs.size(), kSweepBlocks);
  int wrong = 0;
  for (uint32_t block = 0; block < kSweepBlocks && wrong < 5; ++block) {
    const auto ids = tokenizer.Encode(SweepText(block), options);
    ASSERT_TRUE(ids.ok()) << ids.status();
    if (Crc(*ids) == crcs[block]) continue;
    ++wrong;
    ADD_FAILURE() << "code points from " << block * 256;
  }
}

std::vector<uint32_t> PlainCrcs(const std::string& prefix) {
  std::vector<uint32_t> crcs = golden::UnpackU32(prefix + ".lines.z");
  const std::vector<uint32_t> mask = golden::UnpackU32(prefix + ".plain.z");
  EXPECT_EQ(crcs.size(), mask.size());
  for (size_t i = 0; i < crcs.size(); ++i) crcs[i] ^= mask[i];
  return crcs;
}

class TokenizerGolden : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (prefix() == "deepseek_v3" && !std::filesystem::exists(V3Path())) {
      GTEST_SKIP() << "DeepSeek-V3's tokenizer is not at " << V3Path();
    }
    tokenizer_ = Open(prefix());
    ASSERT_NE(tokenizer_, nullptr);
  }
  std::string prefix() const { return GetParam(); }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(TokenizerGolden, LinesWithAddedTokens) {
  ExpectLines(*tokenizer_, {}, golden::UnpackU32(prefix() + ".lines.z"));
}

TEST_P(TokenizerGolden, LinesAsPlainText) { ExpectLines(*tokenizer_, kPlain, PlainCrcs(prefix())); }

TEST_P(TokenizerGolden, EveryCodePoint) {
  ExpectSweep(*tokenizer_, prefix() == "small_kimi" ? kPlain : EncodeOptions{},
              golden::UnpackU32(prefix() + ".sweep.z"));
}

TEST_P(TokenizerGolden, StreamedTextEqualsWholeText) {
  for (const std::string& line : golden::UnpackLines()) {
    const auto ids = tokenizer_->Encode(line);
    ASSERT_TRUE(ids.ok());
    Detokenizer stream(tokenizer_.get());
    std::string streamed;
    for (const int32_t id : *ids) streamed += stream.Push(id);
    ASSERT_EQ(stream.held_bytes(), 0u) << "a whole text ends on a character";
    const auto whole = tokenizer_->Decode(*ids);
    ASSERT_TRUE(whole.ok());
    ASSERT_EQ(streamed, *whole);
    if (prefix() == "small_v3") continue;  // its <mask> and <pad> swallow spaces
    ASSERT_EQ(*whole, line);
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden,
                         ::testing::Values("deepseek_v3", "small_v3", "small_kimi"));

class SequenceGolden : public TokenizerGolden {};

TEST_P(SequenceGolden, BrokenCharactersDecodeAsTheReference) {
  golden::U32Reader reader(golden::Unpack(prefix() + ".sequences.z"));
  const uint32_t count = reader.Next();
  ASSERT_GE(count, 2000u);
  int broken = 0;
  for (uint32_t i = 0; i < count; ++i) {
    std::vector<int32_t> ids(reader.Next());
    for (int32_t& id : ids) id = static_cast<int32_t>(reader.Next());
    for (const bool skip : {false, true}) {
      const auto whole = tokenizer_->Decode(ids, skip);
      ASSERT_TRUE(whole.ok());
      ASSERT_EQ(Crc(*whole), reader.Next()) << "sequence " << i << ": " << Show(ids);
      Detokenizer stream(tokenizer_.get(), skip);
      std::string streamed;
      for (const int32_t id : ids) streamed += stream.Push(id);
      streamed += stream.Finish();
      ASSERT_EQ(streamed, *whole) << "sequence " << i;
      broken += whole->find("\xEF\xBF\xBD") != std::string::npos;
    }
  }
  EXPECT_GT(broken, 100) << "the sequences should hold broken characters";
}

INSTANTIATE_TEST_SUITE_P(All, SequenceGolden, ::testing::Values("deepseek_v3", "small_v3"));

TEST(GgufFields, GiveTheIdsOfTokenizerJson) {
  const auto tokenizer = Opened(Tokenizer::FromGgufFields(
      FieldsOf(golden::GoldenPath("small_v3/tokenizer.json"), "deepseek-v3")));
  ASSERT_NE(tokenizer, nullptr);
  ExpectLines(*tokenizer, kPlain, PlainCrcs("small_v3"));
  ExpectSweep(*tokenizer, {}, golden::UnpackU32("small_v3.sweep.z"));
}

TEST(GgufFields, OfDeepSeekV3GiveTheIdsOfTokenizerJson) {
  if (!std::filesystem::exists(V3Path()))
    GTEST_SKIP() << "DeepSeek-V3's tokenizer is not at " << V3Path();
  const auto tokenizer = Opened(Tokenizer::FromGgufFields(FieldsOf(V3Path(), "deepseek-v3")));
  ASSERT_NE(tokenizer, nullptr);
  ExpectLines(*tokenizer, {}, golden::UnpackU32("deepseek_v3.lines.z"));
}

TEST(GgufFields, OlderPreTokenizersSplitAsTheirTokenizerFiles) {
  for (const std::string pre : {"deepseek-llm", "deepseek-coder"}) {
    SCOPED_TRACE(pre);
    const auto tokenizer = Opened(
        Tokenizer::FromGgufFields(FieldsOf(golden::GoldenPath("small_v3/tokenizer.json"), pre)));
    ASSERT_NE(tokenizer, nullptr);
    ExpectLines(*tokenizer, kPlain, golden::UnpackU32("small_" + pre + ".plain.z"));
    ExpectSweep(*tokenizer, kPlain, golden::UnpackU32("small_" + pre + ".sweep.z"));
  }
}

TEST(DeepSeekV3, WholeFilesEncodeAsTheReference) {
  if (!std::filesystem::exists(V3Path()))
    GTEST_SKIP() << "DeepSeek-V3's tokenizer is not at " << V3Path();
  const auto tokenizer = Open("deepseek_v3");
  ASSERT_NE(tokenizer, nullptr);
  const auto rows =
      nlohmann::json::parse(golden::ReadFile(golden::GoldenPath("deepseek_v3.files.json")));
  size_t bytes = 0, ids_made = 0;
  double seconds = 0;
  for (const auto& row : rows) {
    const std::string path = golden::DataPath(row["path"]);
    if (!std::filesystem::exists(path)) continue;
    const std::string text = golden::ReadFile(path);
    const auto start = std::chrono::steady_clock::now();
    const auto ids = tokenizer->Encode(text);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(ids->size(), row["ids"].get<size_t>()) << path;
    EXPECT_EQ(Crc(*ids), row["crc32"].get<uint32_t>()) << path;
    bytes += text.size();
    ids_made += ids->size();
  }
  ASSERT_GT(bytes, 0u);
  std::printf("encoded %.1f MB into %zu ids at %.1f MB/s\n", static_cast<double>(bytes) / 1e6,
              ids_made, static_cast<double>(bytes) / 1e6 / seconds);
}

TEST(DeepSeekV3, KnownIds) {
  if (!std::filesystem::exists(V3Path()))
    GTEST_SKIP() << "DeepSeek-V3's tokenizer is not at " << V3Path();
  const auto t = Open("deepseek_v3");
  ASSERT_NE(t, nullptr);
  EXPECT_EQ(*t->Encode("Hello!"), (std::vector<int32_t>{19923, 3}));
  EXPECT_EQ(*t->Encode("A"), (std::vector<int32_t>{35}));
  EXPECT_EQ(*t->Encode(" D", {.add_bos = true}), (std::vector<int32_t>{0, 420}));
  EXPECT_EQ(t->bos_id(), 0);
  EXPECT_EQ(t->eos_id(), 1);
  EXPECT_EQ(t->pad_id(), 1);
  EXPECT_TRUE(t->adds_bos_by_default());
  EXPECT_EQ(t->vocab_size(), 128815);
  EXPECT_EQ(t->PieceToId("<｜User｜>"), 128803);
  EXPECT_TRUE(t->IsAdded(128803));
  EXPECT_FALSE(t->IsSpecial(128803));
  EXPECT_TRUE(t->IsSpecial(0));
  EXPECT_FALSE(t->chat_template().empty());
}

// One letter or one space a million times must not take quadratic time.
TEST(LongRuns, StayFast) {
  for (const char* prefix : {"small_v3", "small_kimi"}) {
    const auto t = Open(prefix);
    ASSERT_NE(t, nullptr);
    for (const std::string unit : {"a", " ", "中", "あ", "\n", ".", "1", "<", "A"}) {
      std::string text;
      while (text.size() < (1u << 20)) text += unit;
      for (const std::string& whole : {text, text + "x", "x" + text}) {
        const std::clock_t start = std::clock();  // CPU time: the machine may be busy
        const auto ids = t->Encode(whole);
        const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
        ASSERT_TRUE(ids.ok()) << prefix << " '" << unit << "': " << ids.status();
        EXPECT_EQ(*t->Decode(*ids), whole);
        EXPECT_LT(seconds, 20) << prefix << " '" << unit << "'";  // quadratic would be hours
      }
    }
  }
}

}  // namespace
}  // namespace tandem
