#include "gpu_worker/backend/cuda/graph_segments.h"

#include <gtest/gtest.h>

#include "gpu_worker/backend/cuda/device/device_test_support.h"

namespace tandem::gpu_worker::cuda {
namespace {

// Work that shows: device memory is filled with the bytes that lie at a fixed place of the host.
class GraphSegmentsTest : public testing::Test {
 protected:
  GraphSegmentsTest() : segments_(device_.stream()) {
    from_ = device_.Allocate<unsigned char>(4);
    to_ = device_.Allocate<unsigned char>(4);
  }

  void Put(unsigned char value) {
    FillBytes(from_, value, 4, device_.stream());
    Synchronize(device_.stream());
  }
  // One call of a segment: copies byte i.
  void Copy(int i) {
    segments_.Call(i, [this, i] {
      ++calls_made_;
      CopyOnDevice(to_ + i, from_ + i, 1, device_.stream());
    });
  }
  std::vector<unsigned char> Result() { return device_.Download(to_, 4); }

  DeviceForTest device_;
  GraphSegments segments_;
  unsigned char* from_;
  unsigned char* to_;
  int calls_made_ = 0;
};

TEST_F(GraphSegmentsTest, OutsideOfASegmentCallsAreMadeAtOnce) {
  Put(5);
  Copy(0);
  EXPECT_EQ(calls_made_, 1);
  EXPECT_EQ(Result()[0], 5);
  EXPECT_EQ(segments_.captured(), 0);
}

TEST_F(GraphSegmentsTest, TheSecondTimeTheGraphDoesTheWork) {
  for (int time = 1; time <= 3; ++time) {
    Put(static_cast<unsigned char>(time));
    segments_.Begin(77);
    Copy(0);
    Copy(1);
    segments_.End();
    EXPECT_EQ(Result()[0], time);
    EXPECT_EQ(Result()[1], time);
  }
  EXPECT_EQ(calls_made_, 2);  // when it was captured
  EXPECT_EQ(segments_.captured(), 1);
  EXPECT_EQ(segments_.replayed(), 2);
}

// Under the same key, but with other calls: they are made, and the graph is not launched.
TEST_F(GraphSegmentsTest, OtherCallsAreNotReplaced) {
  segments_.Begin(77);
  Copy(0);
  segments_.End();
  Put(9);
  segments_.Begin(77);
  Copy(1);
  segments_.End();
  EXPECT_EQ(Result()[0], 0xff);
  EXPECT_EQ(Result()[1], 9);
  EXPECT_EQ(segments_.replayed(), 0);
}

TEST_F(GraphSegmentsTest, AnEmptySegmentIsNothing) {
  segments_.Begin(1);
  segments_.End();
  segments_.End();
  EXPECT_EQ(segments_.captured(), 0);
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
