// The bytes of an HTTP answer: status line, fields, framing of the body.
#pragma once

#include <string>

#include "coordinator/api/http_exchange.h"

namespace tandem::coordinator {

// How the one who reads the answer expects its body.
struct HttpFraming {
  bool chunked = false;      // a stream to an HTTP/1.1 client
  bool length_known = true;  // false with chunked false: the end of the connection is the end
  bool keep_alive = true;    // what the answer says about the connection
  uint64_t body_bytes = 0;   // of an answer of known length
  bool http_1_0 = false;     // the client's version
};

// Ends with the empty line. Line ends inside names and values become spaces, so that nobody can
// smuggle in a field of his own.
std::string HeadBytes(const HttpHead& head, const HttpFraming& framing, const std::string& id);

// One chunk of a chunked body (RFC 9112, 7.1); empty for an empty body, which would mean the end.
std::string ChunkBytes(const std::string& body);
inline constexpr char kLastChunk[] = "0\r\n\r\n";

// A request id fit for logs and answers: the client's own when it is 1 to 128 bytes of letters,
// digits and .:_-, otherwise "".
std::string FitRequestId(const std::string& wanted);

}  // namespace tandem::coordinator
