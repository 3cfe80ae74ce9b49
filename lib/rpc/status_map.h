// The one table between absl::Status, gRPC status and HTTP codes, so that an error means the same
// at every border.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace tandem::rpc {

// absl's codes carry gRPC's numbers; the message is kept, but for the end of a very long one,
// because it travels in a header.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

// The status of a message field of ours (status_code, status_message): 0 is OK, a number that is no
// code is INTERNAL.
absl::Status StatusFromWire(uint32_t code, const std::string& message);

// 400 for what the caller must change, 404, 409, 429 for a full queue, 499 when the caller went
// away, 501, 503 for what may work later, 504, and 500 for the rest.
int HttpCodeOf(absl::StatusCode code);

}  // namespace tandem::rpc
