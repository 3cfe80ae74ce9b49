#include "coordinator/api/http_head.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tandem::coordinator {
namespace {

constexpr size_t kIdBytesMax = 128;

const char* Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Unknown";
  }
}

std::string OneLine(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return text;
}

void AddField(const std::string& name, const std::string& value, std::string* out) {
  absl::StrAppend(out, OneLine(name), ": ", OneLine(value), "\r\n");
}

}  // namespace

std::string HeadBytes(const HttpHead& head, const HttpFraming& framing, const std::string& id) {
  std::string out = absl::StrCat("HTTP/1.1 ", head.status, " ", Reason(head.status), "\r\n");
  AddField("Server", "tandem", &out);
  if (!head.content_type.empty()) AddField("Content-Type", head.content_type, &out);
  if (framing.chunked) {
    AddField("Transfer-Encoding", "chunked", &out);
  } else if (framing.length_known && head.status != 204) {
    AddField("Content-Length", absl::StrCat(framing.body_bytes), &out);
  }
  if (!framing.keep_alive) {
    AddField("Connection", "close", &out);
  } else if (framing.http_1_0) {
    AddField("Connection", "keep-alive", &out);
  }
  if (!id.empty()) AddField("x-request-id", id, &out);
  for (const auto& [name, value] : head.fields) AddField(name, value, &out);
  return out + "\r\n";
}

std::string ChunkBytes(const std::string& body) {
  if (body.empty()) return "";
  return absl::StrCat(absl::StrFormat("%x", body.size()), "\r\n", body, "\r\n");
}

std::string FitRequestId(const std::string& wanted) {
  const bool fit = std::all_of(wanted.begin(), wanted.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == ':' || c == '_' || c == '-';
  });
  return fit && wanted.size() <= kIdBytesMax ? wanted : "";
}

}  // namespace tandem::coordinator
