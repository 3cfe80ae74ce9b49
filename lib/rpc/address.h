// host:port, taken apart once for all servers of the project.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace tandem::rpc {

struct HostPort {
  std::string host;  // without brackets
  uint16_t port = 0;
};

// Accepts "127.0.0.1:80", "[::1]:80", "name:0". INVALID_ARGUMENT says what is wrong with anything
// else.
absl::StatusOr<HostPort> ParseHostPort(const std::string& text);

// The inverse, with brackets around IPv6.
std::string FormatHostPort(const HostPort& address);

}  // namespace tandem::rpc
