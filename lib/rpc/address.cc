#include "lib/rpc/address.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tandem::rpc {
namespace {

absl::Status Bad(const std::string& text, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("expected an address as host:port, found '", text, "': ", what));
}

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return Bad(text, "no port");
  uint32_t port = 0;
  const std::string digits = text.substr(colon + 1);
  if (digits.find_first_not_of("0123456789") != std::string::npos ||
      !absl::SimpleAtoi(digits, &port) || port > 65535) {
    return Bad(text, "the port is no number from 0 to 65535");
  }
  HostPort parsed{text.substr(0, colon), static_cast<uint16_t>(port)};
  if (parsed.host.size() >= 2 && parsed.host.front() == '[' && parsed.host.back() == ']') {
    parsed.host = parsed.host.substr(1, parsed.host.size() - 2);
  } else if (parsed.host.find(':') != std::string::npos) {
    return Bad(text, "an IPv6 host needs brackets");
  }
  if (parsed.host.empty()) return Bad(text, "no host");
  return parsed;
}

std::string FormatHostPort(const HostPort& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return v6 ? absl::StrCat("[", address.host, "]:", address.port)
            : absl::StrCat(address.host, ":", address.port);
}

}  // namespace tandem::rpc
