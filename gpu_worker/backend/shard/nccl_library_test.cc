// Whether the NCCL of this machine is one that the worker can use; needs no GPU.
#include "gpu_worker/backend/shard/nccl_library.h"

#include <gtest/gtest.h>

namespace tandem::gpu_worker {
namespace {

TEST(NcclLibraryTest, IsFoundWithAllItsFunctions) {
  const auto nccl = Nccl();
  if (nccl.status().code() == absl::StatusCode::kNotFound) GTEST_SKIP() << nccl.status();
  ASSERT_TRUE(nccl.ok()) << nccl.status();
  EXPECT_GE((*nccl)->version, NCCL_VERSION_CODE);
  const std::string text = (*nccl)->Describe("ncclAllGather", ncclInvalidArgument, nullptr);
  EXPECT_EQ(text.rfind("ncclAllGather: ", 0), 0u) << text;
  EXPECT_GT(text.size(), std::string("ncclAllGather: ").size());
}

}  // namespace
}  // namespace tandem::gpu_worker
