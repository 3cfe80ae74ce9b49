// Messages a peer sends to an expert worker or gets from one: whatever the bytes, a payload is
// refused or its view lies inside the message.
#include <cstddef>
#include <cstdint>

#include "lib/base/check.h"
#include "lib/rpc/tensor_frame.h"
#include "proto/experts.pb.h"

namespace {

volatile unsigned char sink;

void CheckPayload(const tandem::tensor::v1::TensorPayload& payload) {
  const auto view = tandem::rpc::ReadPayload(payload);
  if (!view.ok()) return;
  const uint64_t bytes =
      uint64_t{view->rows} * view->cols * tandem::rpc::WireDTypeBytes(view->dtype);
  TANDEM_CHECK_EQ(bytes, payload.data().size());
  // Reading all of it lets the sanitizer look.
  for (uint64_t i = 0; i < bytes; ++i) sink = static_cast<unsigned char>(view->data[i]);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tandem::experts::v1::ExpertRows rows;
  if (rows.ParseFromArray(data, static_cast<int>(size))) CheckPayload(rows.x());
  tandem::experts::v1::ExpertSums sums;
  if (sums.ParseFromArray(data, static_cast<int>(size))) CheckPayload(sums.sums());
  return 0;
}
