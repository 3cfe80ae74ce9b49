// Gunzip on any bytes: no crash, and never more than was allowed.
#include <cstdint>
#include <string_view>

#include "eval_client/suites/gzip.h"
#include "lib/base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kBytesMax = size_t{1} << 20;
  const auto text =
      tandem::eval::Gunzip(std::string_view(reinterpret_cast<const char*>(data), size), kBytesMax);
  if (text.ok()) TANDEM_CHECK(text->size() <= kBytesMax);
  return 0;
}
