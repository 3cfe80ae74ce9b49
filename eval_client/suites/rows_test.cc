// Data sets in the forms people have them.
#include "eval_client/suites/rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "eval_client/suites/gzip.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::HasSubstr;

std::string Gzip(const std::string& text) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(text.size() + 100, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

class RowsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              absl::StrCat("rows_", testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void Write(const std::string& name, const std::string& text) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  std::string ErrorOf(const std::string& name) {
    return std::string(ReadFiles({(folder_ / name).string()}).status().message());
  }
  fs::path folder_;
};

TEST(Gunzip, UnpacksAllMembersAndRefusesDamage) {
  const std::string text(200000, 'x');
  EXPECT_EQ(*Gunzip(Gzip(text)), text);
  EXPECT_EQ(*Gunzip(Gzip("a") + Gzip("b")), "ab");
  EXPECT_EQ(*Gunzip(Gzip("")), "");
  std::string packed = Gzip(text);
  EXPECT_FALSE(Gunzip(packed.substr(0, packed.size() / 2)).ok());
  EXPECT_FALSE(Gunzip("").ok());
  EXPECT_FALSE(Gunzip("no gzip").ok());
  packed[packed.size() - 5] ^= 1;  // the checksum
  EXPECT_FALSE(Gunzip(packed).ok());
  EXPECT_THAT(std::string(Gunzip(Gzip(text), 1000).status().message()),
              HasSubstr("at most 1000 bytes, found more"));
}

TEST_F(RowsTest, FindsFilesWherePublishedSetsKeepThem) {
  EXPECT_THAT(std::string(FindFiles(folder_.string(), "test").status().message()),
              HasSubstr("expected test.jsonl, test.jsonl.gz or test-*.parquet, found none"));
  Write("data/test-00001-of-00002.parquet", "");
  Write("data/test-00000-of-00002.parquet", "");
  Write("data/train-00000-of-00001.parquet", "");
  const auto shards = FindFiles(folder_.string(), "test");
  ASSERT_TRUE(shards.ok()) << shards.status();
  ASSERT_EQ(shards->size(), 2u);
  EXPECT_THAT((*shards)[0], HasSubstr("test-00000"));
  Write("test.jsonl", "{}\n");
  EXPECT_THAT((*FindFiles(folder_.string(), "test"))[0], HasSubstr("test.jsonl"));
  EXPECT_EQ((*FindFiles((folder_ / "test.jsonl").string(), "train"))[0],
            (folder_ / "test.jsonl").string());
  EXPECT_EQ(DataFolder(folder_.string(), "data"), (folder_ / "data").string());
  EXPECT_EQ(DataFolder(folder_.string(), "mmlu"), folder_.string());
}

TEST_F(RowsTest, ReadsLinesPlainAndPacked) {
  const std::string lines = "{\"a\":1}\n\n{\"a\":\"\\u00e9\"}\r\n{\"a\":3}";
  Write("x.jsonl", lines);
  Write("x.jsonl.gz", Gzip(lines));
  const auto plain = ReadFiles({(folder_ / "x.jsonl").string()});
  const auto packed = ReadFiles({(folder_ / "x.jsonl.gz").string()});
  ASSERT_TRUE(plain.ok()) << plain.status();
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ(plain->rows.size(), 3u);
  EXPECT_EQ(plain->rows, packed->rows);
  EXPECT_THAT(plain->files_text, testing::StartsWith("x.jsonl  "));
  Write("bad.jsonl", "{}\n[1]\n");
  EXPECT_THAT(ErrorOf("bad.jsonl"), HasSubstr("bad.jsonl line 2: expected a JSON object"));
  Write("bad.jsonl.gz", "{}");
  EXPECT_THAT(ErrorOf("bad.jsonl.gz"), HasSubstr("expected whole gzip data"));
  EXPECT_THAT(ErrorOf("none.jsonl"), HasSubstr("none.jsonl"));
}

TEST_F(RowsTest, FieldsAreChecked) {
  const Json row = {{"s", "x"}, {"n", 1}, {"a", {"x", "y"}}, {"m", {"x", 1}}};
  EXPECT_EQ(*StringOf(row, "s"), "x");
  EXPECT_THAT(std::string(StringOf(row, "n").status().message()), HasSubstr("a string \"n\""));
  EXPECT_FALSE(StringOf(row, "none").ok());
  EXPECT_EQ(StringsOf(row, "a", 2, 3)->size(), 2u);
  EXPECT_FALSE(StringsOf(row, "a", 3, 4).ok());
  EXPECT_FALSE(StringsOf(row, "m", 1, 4).ok());
}

TEST_F(RowsTest, SuitesRefuseWhatTheyCannotRead) {
  const auto error = [&](SuiteOptions options) {
    if (options.data.empty()) options.data = folder_.string();
    return std::string(LoadSuite(options).status().message());
  };
  EXPECT_THAT(error({.name = "gsm8k"}), HasSubstr("expected test.jsonl"));
  EXPECT_THAT(error({.name = "humaneval"}), HasSubstr("expected HumanEval.jsonl.gz"));
  EXPECT_THAT(error({.name = "gsm8k", .variant = "other"}),
              HasSubstr("expected the variant sosp or lm-eval, found 'other'"));
  EXPECT_THAT(error({.name = "gsm8k", .shots = 9}), HasSubstr("at most 8 shots, found 9"));
  EXPECT_THAT(error({.name = "mmlu", .samples = 2}), HasSubstr("1 sample per question"));
  EXPECT_THAT(std::string(LoadSuite({.name = "mmlu"}).status().message()),
              HasSubstr("the suite mmlu needs --data"));
  Write("test.jsonl", "{\"question\":\"q\",\"answer\":\"no mark\"}\n");
  EXPECT_THAT(error({.name = "gsm8k"}),
              HasSubstr("row 0: expected an \"answer\" that ends in ####"));
  Write("test.jsonl", "{\"question\":\"q\",\"answer\":\"#### 1\"}\n");
  EXPECT_THAT(error({.name = "gsm8k", .variant = "lm-eval"}), HasSubstr("expected train.jsonl"));
  EXPECT_EQ(error({.name = "gsm8k", .shots = 0, .variant = "lm-eval"}), "");
  Write("test.jsonl", R"({"question_id":1,"question":"q","options":["a","b","c"],"answer":"D",)"
                      R"("category":"x"})");
  EXPECT_THAT(error({.name = "mmlu_pro"}), HasSubstr("row 0: expected \"answer\" from A to C"));
}

}  // namespace
}  // namespace tandem::eval
