#include "lib/base/text_file.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace tandem::base {
namespace {

TEST(TextFile, WhatIsWrittenIsReadAndReplaced) {
  const std::string path = testing::TempDir() + "/text_file";
  ASSERT_TRUE(ReplaceFile(path, "one\ntwo\n\n").ok());
  EXPECT_EQ(ReadTextOrEmpty(path), "one\ntwo\n\n");
  EXPECT_EQ(LastLine(path), "two");
  ASSERT_TRUE(ReplaceFile(path, std::string("a\0b", 3)).ok());
  EXPECT_EQ(ReadTextOrEmpty(path), std::string("a\0b", 3));
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
}

TEST(TextFile, WhatIsNotThereIsEmptyOrSaid) {
  EXPECT_EQ(ReadTextOrEmpty("/no/such/file"), "");
  EXPECT_EQ(LastLine("/no/such/file"), "");
  EXPECT_EQ(ReplaceFile("/no/such/file", "x").code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tandem::base
