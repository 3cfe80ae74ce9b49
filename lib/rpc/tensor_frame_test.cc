#include "lib/rpc/tensor_frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "lib/rpc/address.h"
#include "lib/rpc/status_map.h"

namespace tandem::rpc {
namespace {

using tensor::v1::TensorPayload;

TEST(TensorFrameTest, WhatIsWrittenIsRead) {
  const float values[6] = {1, -2, 3.5, 0, 1e30f, -0.0f};
  TensorPayload payload;
  WritePayload(tensor::v1::WIRE_DTYPE_F32, 2, 3, values, &payload);
  const auto view = ReadPayload(payload);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->rows, 2u);
  EXPECT_EQ(view->cols, 3u);
  EXPECT_EQ(std::memcmp(view->data, values, sizeof values), 0);
}

TEST(TensorFrameTest, EmptyPayloadsAreLegal) {
  TensorPayload payload;
  WritePayload(tensor::v1::WIRE_DTYPE_BF16, 0, 7168, nullptr, &payload);
  EXPECT_TRUE(ReadPayload(payload).ok());
}

TEST(TensorFrameTest, SizesThatDisagreeAreRefusedWithNumbers) {
  TensorPayload payload;
  payload.set_dtype(tensor::v1::WIRE_DTYPE_BF16);
  payload.set_rows(2);
  payload.set_cols(3);
  for (const size_t bytes : {size_t{0}, size_t{11}, size_t{13}, size_t{24}}) {
    payload.set_data(std::string(bytes, 'x'));
    EXPECT_EQ(ReadPayload(payload).status().code(), absl::StatusCode::kInvalidArgument) << bytes;
  }
  payload.set_data(std::string(12, 'x'));
  EXPECT_TRUE(ReadPayload(payload).ok());
  EXPECT_THAT(std::string(ReadPayload(TensorPayload()).status().message()),
              testing::HasSubstr("unknown dtype 0"));
}

TEST(TensorFrameTest, ProductsThatOverflowAreRefused) {
  TensorPayload payload;
  payload.set_dtype(tensor::v1::WIRE_DTYPE_F32);
  payload.set_rows(0x80000000u);
  payload.set_cols(0x80000000u);  // 2^62 values, 2^64 bytes: wraps to 0
  EXPECT_FALSE(ReadPayload(payload).ok());
  payload.set_dtype(static_cast<tensor::v1::WireDType>(99));
  EXPECT_FALSE(ReadPayload(payload).ok());
}

TEST(AddressTest, PartsComeApartAndTogether) {
  for (const char* good : {"127.0.0.1:0", "[::1]:65535", "worker-0.ns.svc:50051"}) {
    const auto parsed = ParseHostPort(good);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(FormatHostPort(*parsed), good);
  }
  for (const char* bad : {"", "host", ":1", "host:", "host:65536", "host:-1", "host:+1", "host:1x",
                          "::1:5", "[]:1"}) {
    EXPECT_FALSE(ParseHostPort(bad).ok()) << bad;
  }
}

TEST(StatusMapTest, EveryCodeGoesThereAndBack) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), code == 0 ? "" : "why");
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
    const int http = HttpCodeOf(status.code());
    EXPECT_EQ(http == 200, status.ok());
  }
  EXPECT_EQ(HttpCodeOf(absl::StatusCode::kResourceExhausted), 429);
  EXPECT_EQ(HttpCodeOf(absl::StatusCode::kUnavailable), 503);
}

TEST(StatusMapTest, CodesThatAreNoneAreInternal) {
  EXPECT_EQ(StatusFromWire(17, "x").code(), absl::StatusCode::kInternal);
  EXPECT_EQ(StatusFromWire(0xFFFFFFFF, "x").code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(StatusFromWire(0, "").ok());
}

TEST(StatusMapTest, LongMessagesAreCut) {
  EXPECT_LT(ToGrpc(absl::InternalError(std::string(100000, 'x'))).error_message().size(), 4096u);
}

}  // namespace
}  // namespace tandem::rpc
