#include "eval_client/suites/csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::eval {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Rows = std::vector<CsvRow>;

Rows Parsed(std::string_view text) {
  auto rows = ParseCsv(text);
  EXPECT_TRUE(rows.ok()) << rows.status();
  return rows.ok() ? *rows : Rows();
}

std::string ErrorOf(std::string_view text) {
  return std::string(ParseCsv(text).status().message());
}

TEST(Csv, SplitsFieldsAndRows) {
  EXPECT_EQ(Parsed("a,b\nc,d\n"), (Rows{{"a", "b"}, {"c", "d"}}));
  EXPECT_EQ(Parsed("a,b\nc,d"), (Rows{{"a", "b"}, {"c", "d"}}));
  EXPECT_EQ(Parsed("a,,\n"), (Rows{{"a", "", ""}}));
  EXPECT_EQ(Parsed("a\n\nb\n"), (Rows{{"a"}, {""}, {"b"}}));
  EXPECT_TRUE(Parsed("").empty());
}

TEST(Csv, AcceptsEveryLineEnd) {
  EXPECT_EQ(Parsed("a,b\r\nc,d\r\n"), (Rows{{"a", "b"}, {"c", "d"}}));
  EXPECT_EQ(Parsed("a\rb\r"), (Rows{{"a"}, {"b"}}));
}

TEST(Csv, KeepsWhatQuotesProtect) {
  EXPECT_EQ(Parsed("\"a, b\",\"say \"\"x\"\"\",\"\"\n"), (Rows{{"a, b", "say \"x\"", ""}}));
  EXPECT_EQ(Parsed("\"two\nlines\r\nand three\",d\r\n"), (Rows{{"two\nlines\r\nand three", "d"}}));
  EXPECT_EQ(Parsed("\"end\""), (Rows{{"end"}}));
}

TEST(Csv, KeepsWhiteSpaceAndOtherBytes) {
  EXPECT_EQ(Parsed(" a , \xEF\xBB\xBF\xC3\xA9\t\n"), (Rows{{" a ", " \xEF\xBB\xBF\xC3\xA9\t"}}));
}

TEST(Csv, NamesTheLineOfAnError) {
  EXPECT_THAT(ErrorOf("a\nb\"c\n"),
              HasSubstr("line 2: expected RFC 4180 CSV, found a quote inside"));
  EXPECT_THAT(ErrorOf("\"x\ny\"z\n"), HasSubstr("line 2: expected RFC 4180 CSV, found text after"));
  EXPECT_THAT(ErrorOf("a\n\"b\nc\nd"),
              HasSubstr("line 2: expected RFC 4180 CSV, found a quote that"));
}

}  // namespace
}  // namespace tandem::eval
