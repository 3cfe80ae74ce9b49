// RecordFromJson on any bytes: no crash, and what it accepts survives being written out and read
// again.
#include <cstdint>
#include <string>

#include "eval_client/report/journal.h"
#include "lib/base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto record = tandem::eval::RecordFromJson(std::string(data, data + size));
  if (!record.ok()) return 0;
  const std::string line = tandem::eval::RecordToJsonLine(*record);
  const auto again = tandem::eval::RecordFromJson(line);
  TANDEM_CHECK(again.ok());
  TANDEM_CHECK_EQ(tandem::eval::RecordToJsonLine(*again), line);
  return 0;
}
