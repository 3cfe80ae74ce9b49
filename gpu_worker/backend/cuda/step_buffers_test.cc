#include "gpu_worker/backend/cuda/step_buffers.h"

#include <gtest/gtest.h>

#include "gpu_worker/backend/cuda/device/device_test_support.h"

namespace tandem::gpu_worker::cuda {
namespace {

ModelConfig SmallConfig() {
  ModelConfig config;
  config.qk_rope_head_dim = 8;
  config.qk_nope_head_dim = 8;
  config.max_position_embeddings = 1024;
  config.rope_theta = 10000.0;
  return config;
}

StepShape Shape() {
  return {.mla = {.heads = 2, .latent = 32, .rope = 8, .nope = 8, .v = 8, .softmax_scale = 1},
          .rows_max = 8,
          .pages_per_sequence_max = 4,
          .multiprocessors = 3};
}

// A sequence of 66 tokens that generates, and three rows of a prompt from position 1.
StepBatch MixedStep(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  StepBatch step;
  step.token_ids = {11, 21, 22, 23};
  step.positions = {65, 1, 2, 3};
  step.segments = {{RowKind::kDecode, 0, 1, 65, a}, {RowKind::kPrefill, 1, 3, 1, b}};
  return step;
}

TEST(StepBuffers, HoldWhatTheStepSays) {
  DeviceForTest device;
  StepBuffers buffers = StepBuffers::Create(Shape()).value();
  const Rope rope(SmallConfig());
  const std::vector<uint32_t> a = {7, 5}, b = {3};
  const StepBatch step = MixedStep(a, b);
  buffers.Upload(step, 6, rope, device.stream());
  EXPECT_EQ(device.Download(buffers.ids(), 6), (std::vector<uint32_t>{11, 21, 22, 23, 0, 0}));
  EXPECT_EQ(device.Download(buffers.slots(), 6),
            (std::vector<int64_t>{5 * 64 + 1, 3 * 64 + 1, 3 * 64 + 2, 3 * 64 + 3, -1, -1}));
  EXPECT_EQ(device.Download(buffers.lengths(), 6), (std::vector<int32_t>{66, 0, 0, 0, 0, 0}));
  EXPECT_EQ(device.Download(buffers.pages_of_row(0), 2), (std::vector<int32_t>{7, 5}));
  EXPECT_EQ(device.Download(buffers.pages_of_row(1), 1), (std::vector<int32_t>{3}));
  EXPECT_EQ(buffers.decode().begin, 0);
  EXPECT_EQ(buffers.decode().rows, 1);
  const RopeRows tables = rope.ForPositions(step.positions);
  EXPECT_EQ(device.Download(buffers.cos(), 4 * 4), tables.cos);
  EXPECT_EQ(device.Download(buffers.sin(), 4 * 4), tables.sin);
  EXPECT_EQ(device.Download(buffers.cos() + 16, 1)[0], 1.0f);  // padding is turned by nothing
}

TEST(StepBuffers, GeneratedRowsAloneCoverAllRows) {
  DeviceForTest device;
  StepBuffers buffers = StepBuffers::Create(Shape()).value();
  const std::vector<uint32_t> a = {7, 5}, b = {3};
  StepBatch step;
  step.token_ids = {1, 2};
  step.positions = {65, 0};
  step.segments = {{RowKind::kDecode, 0, 1, 65, a}, {RowKind::kDecode, 1, 1, 0, b}};
  buffers.Upload(step, 4, Rope(SmallConfig()), device.stream());
  EXPECT_EQ(buffers.decode().begin, 0);
  EXPECT_EQ(buffers.decode().rows, 4);
  EXPECT_EQ(device.Download(buffers.lengths(), 4), (std::vector<int32_t>{66, 1, 0, 0}));
}

// Places do not move from step to step: a graph that holds them stays right.
TEST(StepBuffers, PlacesStay) {
  DeviceForTest device;
  StepBuffers buffers = StepBuffers::Create(Shape()).value();
  const std::vector<uint32_t> a = {7, 5}, b = {3};
  buffers.Upload(MixedStep(a, b), 4, Rope(SmallConfig()), device.stream());
  const void* const before = buffers.plan();
  StepBatch other = MixedStep(a, b);
  other.token_ids[0] = 99;
  buffers.Upload(other, 8, Rope(SmallConfig()), device.stream());
  EXPECT_EQ(buffers.plan(), before);
  EXPECT_EQ(device.Download(buffers.ids(), 1)[0], 99u);
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
