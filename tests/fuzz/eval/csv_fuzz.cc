// ParseCsv on any bytes: no crash, and what it accepts survives being written out and read again.
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/str_replace.h"
#include "eval_client/suites/csv.h"
#include "lib/base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto rows =
      tandem::eval::ParseCsv(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!rows.ok()) return 0;
  std::string text;
  for (const auto& row : *rows) {
    TANDEM_CHECK(!row.empty());
    for (size_t i = 0; i < row.size(); ++i) {
      text += (i == 0 ? "\"" : ",\"") + absl::StrReplaceAll(row[i], {{"\"", "\"\""}}) + "\"";
    }
    text += "\r\n";
  }
  const auto again = tandem::eval::ParseCsv(text);
  TANDEM_CHECK(again.ok() && *again == *rows);
  return 0;
}
