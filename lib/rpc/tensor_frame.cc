#include "lib/rpc/tensor_frame.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"

namespace tandem::rpc {

static_assert(std::endian::native == std::endian::little,
              "the wire is little-endian, copies are plain");

uint32_t WireDTypeBytes(tensor::v1::WireDType dtype) {
  switch (dtype) {
    case tensor::v1::WIRE_DTYPE_BF16:
      return 2;
    case tensor::v1::WIRE_DTYPE_F32:
    case tensor::v1::WIRE_DTYPE_I32:
      return 4;
    default:
      return 0;
  }
}

void WritePayload(tensor::v1::WireDType dtype, uint32_t rows, uint32_t cols, const void* data,
                  tensor::v1::TensorPayload* payload) {
  const uint64_t value_bytes = WireDTypeBytes(dtype);
  TANDEM_CHECK_GT(value_bytes, 0u);
  const uint64_t frame_bytes = uint64_t{rows} * cols * value_bytes;
  // A message of 2 GiB cannot be serialized; whoever builds rows keeps far below
  // (kMessageBytesMax).
  TANDEM_CHECK_LT(frame_bytes / value_bytes, uint64_t{1} << 29);
  payload->set_dtype(dtype);
  payload->set_rows(rows);
  payload->set_cols(cols);
  payload->set_data(data, static_cast<size_t>(frame_bytes));
}

absl::StatusOr<PayloadView> ReadPayload(const tensor::v1::TensorPayload& payload) {
  const uint64_t value_bytes = WireDTypeBytes(payload.dtype());
  if (value_bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("payload has unknown dtype ", static_cast<int>(payload.dtype())));
  }
  // Two 32-bit factors fit 64 bits, so only the product with value_bytes can overflow.
  const uint64_t values = uint64_t{payload.rows()} * payload.cols();
  const uint64_t found_bytes = payload.data().size();
  if (found_bytes % value_bytes != 0 || values != found_bytes / value_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("payload of ", payload.rows(), " x ",
                                                   payload.cols(), " values of ", value_bytes,
                                                   " bytes has ", found_bytes, " bytes"));
  }
  return PayloadView{payload.dtype(), payload.rows(), payload.cols(),
                     reinterpret_cast<const std::byte*>(payload.data().data())};
}

}  // namespace tandem::rpc
