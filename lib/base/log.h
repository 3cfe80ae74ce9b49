// One-line structured logs on stderr: `2026-11-25T13:00:00.123Z INFO expert_worker_ready
// worker=cpu-0 experts=512`. An event name first, then key=value pairs, so that a log is searched
// by name, never by sentence. Values with spaces are quoted.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tandem::base {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct LogField {
  LogField(std::string_view key, const absl::AlphaNum& value)
      : key(key), value(value.data(), value.size()) {}
  std::string_view key;
  std::string value;
};

// Sets the program's name (a field of each line), the lowest level written, and JSON lines instead
// of text. Call once in main.
void InitLogging(std::string_view program, LogLevel level, bool json);

// Thread-safe; never throws, never blocks on anything but stderr.
void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

inline void LogInfo(std::string_view event, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kInfo, event, fields);
}
inline void LogWarning(std::string_view event, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kWarning, event, fields);
}
inline void LogError(std::string_view event, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kError, event, fields);
}

}  // namespace tandem::base
