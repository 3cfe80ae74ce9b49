#include "tools/tandem/up_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "gpu_worker/server/hot_experts.h"
#include "gpu_worker/server/options.h"

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
  options.gpu_worker["--precision"] = "f32";
  EXPECT_THAT(CoordinatorArgs(options, {"a:1", "b:2"}),
              testing::Contains("--replace-after-seconds=-1"));
  EXPECT_THAT(GpuWorkerArgs(options, "a:1", {"c:3", "b:2"}), testing::Contains("--precision=f32"));
}

// Those that the launcher gives by itself, or that have another meaning or name here.
const std::set<std::string> kNotHandedOn = {"model",     "coordinator",   "listen",
                                            "advertise", "recipe",        "admin-listen",
                                            "threads",   "drain-seconds", "help"};

TEST(UpOptionsTest, EveryFlagOfTheGpuWorkerIsHandedOn) {
  CLI::App worker;
  gpu_worker::WorkerOptions worker_options;
  gpu_worker::AddWorkerOptions(worker, &worker_options);
  gpu_worker::HotExpertOptions hot;
  gpu_worker::AddHotExpertOptions(worker, &hot);
  int flags = 0;
  for (const CLI::Option* option : worker.get_options()) {
    const std::string name = option->get_lnames().front();
    if (kNotHandedOn.count(name) > 0) continue;
    const std::string flag = absl::StrCat("--", name, "=7");
    CLI::App up;
    UpOptions options;
    AddUpOptions(up, &options);
    try {
      up.parse(absl::StrCat("--model m ", flag));
    } catch (const CLI::ParseError& error) {
      ADD_FAILURE() << flag << ": " << error.what();
      continue;
    }
    EXPECT_THAT(GpuWorkerArgs(options, "a:1", {"c:3", "b:2"}), testing::Contains(flag));
    ++flags;
  }
  EXPECT_GT(flags, 15);
}

}  // namespace
}  // namespace tandem::launcher
