#include "lib/tensor/tensor_view.h"

#include <gtest/gtest.h>

#include <limits>

namespace tandem {
namespace {

TEST(DType, NamesRoundTripInAnyCase) {
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    const auto type = static_cast<DType>(i);
    EXPECT_EQ(*ParseDType(NameOf(type)), type);
  }
  EXPECT_EQ(*ParseDType("Q4_k"), DType::kQ4_K);
  EXPECT_EQ(*ParseDType("BF16"), DType::kBF16);
  const auto unknown = ParseDType("q7_0");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(unknown.status().message().find("'q7_0'"), absl::string_view::npos);
  EXPECT_NE(unknown.status().message().find("iq4_xs"), absl::string_view::npos);
}

TEST(RowBytes, CountsBlocks) {
  EXPECT_EQ(*RowBytes(DType::kQ8_0, 64), 68);
  EXPECT_EQ(*RowBytes(DType::kQ6_K, 7168), 28 * 210);
  EXPECT_EQ(*RowBytes(DType::kF8E4M3, 5), 5);
  for (const int64_t cols : {int64_t{0}, int64_t{-32}, int64_t{33}}) {
    EXPECT_EQ(RowBytes(DType::kQ8_0, cols).status().code(), absl::StatusCode::kInvalidArgument)
        << cols;
  }
  EXPECT_EQ(RowBytes(DType::kF32, std::numeric_limits<int64_t>::max()).status().code(),
            absl::StatusCode::kOutOfRange);
}

TEST(TensorBytes, ChecksEveryDimensionAndProduct) {
  EXPECT_EQ(*TensorBytes(DType::kF32, {}), 4);
  EXPECT_EQ(*TensorBytes(DType::kQ4_K, {64, 2048, 512}), int64_t{64} * 2048 * 2 * 144);
  EXPECT_EQ(TensorBytes(DType::kF32, {0, 4}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(TensorBytes(DType::kF32, {4, 0}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(TensorBytes(DType::kF32, {-1, 4}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(TensorBytes(DType::kQ4_K, {2, 100}).status().code(),
            absl::StatusCode::kInvalidArgument);
  const int64_t big = int64_t{1} << 40;
  EXPECT_EQ(TensorBytes(DType::kF32, {big, big}).status().code(), absl::StatusCode::kOutOfRange);
  // Each product wraps to a small number when overflow goes unnoticed.
  EXPECT_EQ(TensorBytes(DType::kF32, {int64_t{1} << 62, 4}).status().code(),
            absl::StatusCode::kOutOfRange);
}

TensorView StackedView(const std::byte* data) {
  TensorView view;
  view.name = "experts";
  view.dtype = DType::kQ8_0;
  view.shape = {3, 2, 64};
  view.data = data;
  view.size_bytes = 3 * 2 * 68;
  view.file = "m.gguf";
  return view;
}

TEST(TensorView, DimensionsAndDescription) {
  const TensorView view = StackedView(nullptr);
  EXPECT_EQ(view.rows(), 6);
  EXPECT_EQ(view.cols(), 64);
  EXPECT_EQ(view.row_bytes(), 68);
  EXPECT_EQ(view.Describe(), "q8_0 [3, 2, 64]");
  const TensorView scalar;
  EXPECT_EQ(scalar.rows(), 1);
  EXPECT_EQ(scalar.cols(), 1);
}

TEST(TensorView, SliceIsOneExpert) {
  const std::byte data[3 * 2 * 68] = {};
  const TensorView slice = StackedView(data).Slice(2);
  EXPECT_EQ(slice.shape, (std::vector<int64_t>{2, 64}));
  EXPECT_EQ(slice.data, data + 2 * 2 * 68);
  EXPECT_EQ(slice.size_bytes, 2 * 68);
  EXPECT_EQ(slice.dtype, DType::kQ8_0);
  EXPECT_EQ(slice.file, "m.gguf");
  EXPECT_EQ(slice.name, "experts[2]");
}

TEST(TensorViewDeath, SliceOutOfRange) {
  EXPECT_DEATH(StackedView(nullptr).Slice(3), "CHECK failed");
  EXPECT_DEATH(StackedView(nullptr).Slice(-1), "CHECK failed");
  TensorView row;
  row.shape = {64};
  EXPECT_DEATH(row.Slice(0), "CHECK failed");
}

}  // namespace
}  // namespace tandem
