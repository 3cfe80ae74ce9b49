#include "lib/base/log.h"

#include <gtest/gtest.h>

#include "lib/base/log_line.h"
#include "nlohmann/json.hpp"

namespace tandem::base {
namespace {

const absl::Time kWhen = absl::FromUnixMillis(1764075600123);  // 2025-11-25T13:00:00.123Z

TEST(LogLineTest, TextLineHasTimeLevelEventAndFields) {
  EXPECT_EQ(TextLogLine(kWhen, LogLevel::kInfo, "coordinator", "ready", {{"workers", 3}}),
            "2025-11-25T13:00:00.123Z INFO ready program=coordinator workers=3");
}

TEST(LogLineTest, TextValuesThatCouldBreakTheLineAreQuoted) {
  EXPECT_EQ(
      TextLogLine(kWhen, LogLevel::kError, "p", "e",
                  {{"a", "two words"}, {"b", ""}, {"c", "x\ny\"\\"}, {"d", "k=v"}, {"e", "\x01"}}),
      "2025-11-25T13:00:00.123Z ERROR e program=p a=\"two words\" b=\"\" c=\"x\\ny\\\"\\\\\" "
      "d=\"k=v\" e=\"\\x01\"");
}

TEST(LogLineTest, JsonLineParsesBackWhateverTheValue) {
  std::string every_byte;
  for (int b = 0; b < 256; ++b) every_byte.push_back(static_cast<char>(b));
  const std::string line = JsonLogLine(kWhen, LogLevel::kWarning, "p", "odd",
                                       {{"bytes", every_byte}, {"ok", "h\xC3\xA9"}});
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto parsed = nlohmann::json::parse(line);
  EXPECT_EQ(parsed["level"], "WARNING");
  EXPECT_EQ(parsed["ok"], "h\xC3\xA9");
  EXPECT_EQ(parsed["bytes"].get<std::string>().substr(0, 128), every_byte.substr(0, 128));
}

TEST(LogTest, WritesToStderrAboveTheLevelOnly) {
  InitLogging("tester", LogLevel::kWarning, false);
  testing::internal::CaptureStderr();
  LogInfo("hidden_event");
  LogWarning("shown_event", {{"brace", "{}"}});
  const std::string written = testing::internal::GetCapturedStderr();
  EXPECT_EQ(written.find("hidden_event"), std::string::npos);
  EXPECT_NE(written.find("WARNING shown_event program=tester brace={}\n"), std::string::npos);
}

}  // namespace
}  // namespace tandem::base
