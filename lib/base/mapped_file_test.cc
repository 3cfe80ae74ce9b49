#include "lib/base/mapped_file.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace tandem::base {
namespace {

class MappedFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "tandem-file-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = folder_ + "/f";
    std::ofstream(path_) << "0123456789";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static std::string Read(const MappedFile& file, int64_t offset, size_t bytes) {
    std::string text(bytes, '?');
    const absl::Status status =
        file.ReadAt(offset, std::as_writable_bytes(std::span(text.data(), text.size())));
    return status.ok() ? text : std::string(status.message());
  }

  std::string folder_, path_;
};

TEST_F(MappedFileTest, ReadsWhatItMaps) {
  auto file = MappedFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->path(), path_);
  ASSERT_EQ(file->bytes().size(), 10u);
  EXPECT_EQ(std::memcmp(file->bytes().data(), "0123456789", 10), 0);
  EXPECT_EQ(Read(*file, 0, 10), "0123456789");
  EXPECT_EQ(Read(*file, 3, 4), "3456");
  EXPECT_EQ(Read(*file, 10, 0), "");
  file->ReadAhead(0, 10);
  file->DropCached(0, 10);
  EXPECT_EQ(Read(*file, 9, 1), "9") << "advice changes nothing";
  const MappedFile moved = *std::move(file);
  EXPECT_EQ(Read(moved, 1, 2), "12");
}

TEST_F(MappedFileTest, EndOfFileIsDataLossThatSaysWhere) {
  const auto file = MappedFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  std::filesystem::resize_file(path_, 4);
  EXPECT_EQ(Read(*file, 0, 4), "0123");
  std::vector<std::byte> out(8);
  const absl::Status status = file->ReadAt(2, out);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), path_ +
                                  ": expected 8 bytes at offset 2, the file ends at 4: it had 10 "
                                  "bytes when it was opened");
}

TEST_F(MappedFileTest, ReadsTheFileThatWasOpenedNotItsName) {
  const auto file = MappedFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  std::filesystem::remove(path_);
  std::ofstream(path_) << "something else";
  EXPECT_EQ(Read(*file, 0, 10), "0123456789");
}

TEST_F(MappedFileTest, EmptyFilesMapAndOthersAreNamed) {
  std::ofstream(folder_ + "/empty").flush();
  const auto empty = MappedFile::Open(folder_ + "/empty");
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_TRUE(empty->bytes().empty());
  EXPECT_EQ(MappedFile::Open(folder_ + "/absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::Open(folder_).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace tandem::base
