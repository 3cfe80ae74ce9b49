// Parquet by way of Python and pyarrow, made and read back.
#include "eval_client/suites/parquet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "eval_client/sandbox/child.h"
#include "eval_client/suites/rows.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::HasSubstr;

// Needs pyarrow, or the network once to get it; without either it skips.
TEST(Parquet, IsReadLikeEveryOtherForm) {
  if (const char* build = std::getenv("TANDEM_BINARY_DIR")) {
    setenv("TANDEM_VENV_DIR", absl::StrCat(build, "/venvs").c_str(), /*replace=*/0);
  }
  const fs::path folder = fs::path(testing::TempDir()) / "eval_parquet";
  fs::create_directories(folder / "all");
  const std::string path = (folder / "all/test-00000-of-00001.parquet").string();
  std::ofstream(folder / "all/broken.parquet") << "PAR1";
  const auto broken = ParquetToJsonLines((folder / "all/broken.parquet").string());
  if (absl::IsFailedPrecondition(broken.status())) GTEST_SKIP() << broken.status().message();
  EXPECT_THAT(std::string(broken.status().message()), HasSubstr("expected a Parquet file"));
  const auto python = PythonWithPyarrow();
  ASSERT_TRUE(python.ok()) << python.status();
  const auto made = RunChild(
      {.arguments = {*python, "-c",
                     "import pyarrow, pyarrow.parquet as p, sys\n"
                     "rows = [{'question': f'Q{i}\\n\\u00e9?', 'subject': 'b' if i else 'a',"
                     " 'choices': ['w', 'x', 'y', str(i)], 'answer': i % 4} for i in range(5)]\n"
                     "p.write_table(pyarrow.Table.from_pylist(rows), sys.argv[1])",
                     path},
       .descriptors = {},
       .deadline = absl::Minutes(1),
       .output_bytes_max = 10000});
  ASSERT_TRUE(made.ok() && made->exit_code == 0) << (made.ok() ? made->output : "");
  const auto set = ReadPart(folder.string(), "test");
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->rows.size(), 5u);
  EXPECT_EQ(set->rows[4]["question"], "Q4\n\u00e9?");
  EXPECT_EQ(set->rows[4]["choices"], Json({"w", "x", "y", "4"}));
  EXPECT_EQ(set->rows[4]["answer"], 0);
}

// Without a Python at all there is one sentence.
TEST(Parquet, SaysWhatItNeeds) {
  const std::string path = std::getenv("PATH");
  setenv("PATH", "/nowhere", 1);
  setenv("TANDEM_VENV_DIR", (fs::path(testing::TempDir()) / "no_venvs").c_str(), 1);
  const auto lines = ParquetToJsonLines("x.parquet");
  setenv("PATH", path.c_str(), 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(lines.status())) << lines.status();
  EXPECT_THAT(std::string(lines.status().message()),
              HasSubstr("x.parquet: expected a python3 with pyarrow"));
}

}  // namespace
}  // namespace tandem::eval
