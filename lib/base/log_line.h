// The text of one log line, apart from where it is written, so that quoting can be tested: whatever
// a value holds, a line stays one line and a JSON line stays valid JSON.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "lib/base/log.h"

namespace tandem::base {

// "INFO" and so on.
const char* LogLevelName(LogLevel level);

// `2026-11-25T13:00:00.123Z INFO event program=p key=value key2="with space"`. Values that are
// empty or hold a space, quote, backslash, '=' or a control character are quoted, with \" \\ \n \r
// \t and \xHH inside.
std::string TextLogLine(absl::Time now, LogLevel level, std::string_view program,
                        std::string_view event, std::initializer_list<LogField> fields);

// One JSON object: ts, level, program, event and the fields, all strings. Bytes that are not UTF-8
// become U+FFFD.
std::string JsonLogLine(absl::Time now, LogLevel level, std::string_view program,
                        std::string_view event, std::initializer_list<LogField> fields);

}  // namespace tandem::base
