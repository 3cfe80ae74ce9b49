// main() of tests that need a GPU: exit code 77, which ctest shows as skipped, where there is none.
#include <gtest/gtest.h>

#include <cstdio>

#include "gpu_worker/backend/cuda/device/device.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const auto device = tandem::gpu_worker::cuda::UseDevice(0);
  if (!device.ok()) {
    std::printf("skipped: %s\n", std::string(device.status().message()).c_str());
    return 77;
  }
  std::printf("on %s\n", device->name.c_str());
  return RUN_ALL_TESTS();
}
