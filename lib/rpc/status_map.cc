#include "lib/rpc/status_map.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tandem::rpc {
namespace {

// gRPC sends messages in a trailer, and peers refuse more than 8 KiB of metadata by default;
// percent-encoding may triple a byte.
constexpr size_t kMessageBytesMax = 4096 / 3 * 2;
constexpr int kLastCode = 16;  // UNAUTHENTICATED

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message(status.message().data(),
                            std::min(status.message().size(), kMessageBytesMax));
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()), message);
}

absl::Status FromGrpc(const grpc::Status& status) {
  return StatusFromWire(static_cast<uint32_t>(status.error_code()), status.error_message());
}

absl::Status StatusFromWire(uint32_t code, const std::string& message) {
  if (code > kLastCode) {
    return absl::InternalError(
        absl::StrCat("peer sent status code ", code, ", which is none: ", message));
  }
  return absl::Status(static_cast<absl::StatusCode>(code), message);
}

int HttpCodeOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

}  // namespace tandem::rpc
