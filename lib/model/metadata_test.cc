#include "lib/model/metadata.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

Metadata Example() {
  Metadata metadata;
  metadata.Set("natural", uint64_t{7});
  metadata.Set("integer", int64_t{-7});
  metadata.Set("huge", ~uint64_t{0});
  metadata.Set("real", 0.5);
  metadata.Set("flag", true);
  metadata.Set("text", std::string("x"));
  metadata.Set("integers", std::vector<int64_t>{1, -2});
  metadata.Set("texts", std::vector<std::string>{"a", "b"});
  return metadata;
}

TEST(Metadata, IntegersOfBothSignsAreOneKind) {
  const Metadata metadata = Example();
  EXPECT_EQ(*metadata.GetInt("natural"), 7);
  EXPECT_EQ(*metadata.GetInt("integer"), -7);
  EXPECT_EQ(*metadata.GetDouble("natural"), 7.0);
  EXPECT_EQ(*metadata.GetDouble("integer"), -7.0);
  EXPECT_EQ(*metadata.GetDouble("real"), 0.5);
  EXPECT_EQ(*metadata.GetBool("flag"), true);
  EXPECT_EQ(*metadata.GetString("text"), "x");
  EXPECT_EQ(*metadata.GetInts("integers"), (std::vector<int64_t>{1, -2}));
  EXPECT_EQ(*metadata.GetStrings("texts"), (std::vector<std::string>{"a", "b"}));
}

TEST(Metadata, MissingKeyIsNamed) {
  const absl::Status status = Example().GetInt("deepseek2.block_count").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "expected metadata key 'deepseek2.block_count', found none");
  EXPECT_FALSE(Example().Has("deepseek2.block_count"));
}

TEST(Metadata, WrongKindSaysExpectedAndFound) {
  const absl::Status status = Example().GetInt("text").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "metadata key 'text': expected an integer, found a string");
  EXPECT_EQ(Example().GetStrings("integers").status().message(),
            "metadata key 'integers': expected an array of strings, found an array of integers");
  EXPECT_FALSE(Example().GetBool("natural").ok());
  EXPECT_FALSE(Example().GetDouble("flag").ok());
  EXPECT_FALSE(Example().GetString("flag").ok());
}

TEST(Metadata, IntegerBeyond63BitsIsRefused) {
  const absl::Status status = Example().GetInt("huge").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("18446744073709551615"), absl::string_view::npos);
}

TEST(Metadata, KeysAreSortedAndSetReplaces) {
  Metadata metadata;
  metadata.Set("b", uint64_t{1});
  metadata.Set("a", uint64_t{2});
  metadata.Set("b", std::string("new"));
  EXPECT_EQ(metadata.SortedKeys(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(*metadata.GetString("b"), "new");
}

}  // namespace
}  // namespace tandem
