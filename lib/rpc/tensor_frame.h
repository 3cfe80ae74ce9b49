// TensorFrame: the one place that knows how rows of numbers become bytes of a message and back.
// Everything else handles views.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "proto/tensor.pb.h"

namespace tandem::rpc {

struct PayloadView {
  tensor::v1::WireDType dtype = tensor::v1::WIRE_DTYPE_UNSPECIFIED;
  uint32_t rows = 0;
  uint32_t cols = 0;
  const std::byte* data =
      nullptr;  // [rows, cols] dtype, little-endian, any alignment; lives in the message
};

// Bytes per value; 0 for an unknown dtype.
uint32_t WireDTypeBytes(tensor::v1::WireDType dtype);

// Copies [rows, cols] values into `payload`.
void WritePayload(tensor::v1::WireDType dtype, uint32_t rows, uint32_t cols, const void* data,
                  tensor::v1::TensorPayload* payload);

// A view of what a peer sent. INVALID_ARGUMENT (expected and found) when the dtype is unknown, the
// sizes disagree or overflow.
absl::StatusOr<PayloadView> ReadPayload(const tensor::v1::TensorPayload& payload);

}  // namespace tandem::rpc
