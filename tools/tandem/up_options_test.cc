#include "tools/tandem/up_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::launcher {
namespace {

TEST(UpOptionsTest, EmptyOptionsAreLeftToThePrograms) {
  UpOptions options;
  options.model = "m";
  options.cpu_workers = 3;
  options.cpu_threads = 2;
  EXPECT_THAT(CoordinatorArgs(options, {"a:1", "b:2", "d:4"}),
              testing::ElementsAre("--model", "m", "--listen", "a:1", "--admin-listen", "b:2",
                                   "--expect-cpu-workers", "3", "--http-listen", "d:4",
                                   "--drain-seconds=8"));
  EXPECT_THAT(CpuWorkerArgs(options, "a:1", {"c:3", "b:2"}),
              testing::ElementsAre("--model", "m", "--coordinator", "a:1", "--listen", "c:3",
                                   "--admin-listen", "b:2", "--threads", "2"));
  options.replace_after_seconds = "-1";
  options.precision = "f32";
  EXPECT_THAT(CoordinatorArgs(options, {"a:1", "b:2"}),
              testing::Contains("--replace-after-seconds=-1"));
  EXPECT_THAT(GpuWorkerArgs(options, "a:1", {"c:3", "b:2"}), testing::Contains("--precision=f32"));
}

}  // namespace
}  // namespace tandem::launcher
