#include "lib/base/log_line.h"

#include <cstdio>

#include "lib/base/text.h"

namespace tandem::base {
namespace {

constexpr char kTimeFormat[] = "%Y-%m-%d%ET%H:%M:%E3SZ";

bool NeedsQuotes(std::string_view value) {
  if (value.empty()) return true;
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte <= 0x20 || byte == 0x7F || c == '"' || c == '\\' || c == '=') return true;
  }
  return false;
}

void AppendHex(const char* format, unsigned char byte, std::string* out) {
  char text[8];
  std::snprintf(text, sizeof text, format, byte);
  out->append(text);
}

// `control_format` prints a control character that has no short escape.
void AppendEscaped(std::string_view value, const char* control_format, std::string* out) {
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
        out->append("\\\"");
        break;
      case '\\':
        out->append("\\\\");
        break;
      case '\n':
        out->append("\\n");
        break;
      case '\r':
        out->append("\\r");
        break;
      case '\t':
        out->append("\\t");
        break;
      default:
        if (byte < 0x20 || byte == 0x7F) {
          AppendHex(control_format, byte, out);
        } else {
          out->push_back(c);
        }
    }
  }
}

// Byte for byte: a byte that is no ASCII in a value that is not UTF-8 as a whole becomes U+FFFD.
std::string WithValidUtf8(std::string_view value) {
  if (IsValidUtf8(value)) return std::string(value);
  std::string out;
  for (const char c : value) {
    if (static_cast<unsigned char>(c) < 0x80) {
      out.push_back(c);
    } else {
      out.append("\xEF\xBF\xBD");
    }
  }
  return out;
}

void AppendJsonPair(std::string_view key, std::string_view value, std::string* out) {
  out->append(out->size() > 1 ? ",\"" : "\"");
  AppendEscaped(WithValidUtf8(key), "\\u%04x", out);
  out->append("\":\"");
  AppendEscaped(WithValidUtf8(value), "\\u%04x", out);
  out->push_back('"');
}

void AppendTextPair(std::string_view key, std::string_view value, std::string* out) {
  out->push_back(' ');
  out->append(key);
  out->push_back('=');
  if (!NeedsQuotes(value)) {
    out->append(value);
    return;
  }
  out->push_back('"');
  AppendEscaped(value, "\\x%02x", out);
  out->push_back('"');
}

}  // namespace

const char* LogLevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "DEBUG";
    case LogLevel::kInfo:
      return "INFO";
    case LogLevel::kWarning:
      return "WARNING";
    case LogLevel::kError:
      return "ERROR";
  }
  return "?";
}

std::string TextLogLine(absl::Time now, LogLevel level, std::string_view program,
                        std::string_view event, std::initializer_list<LogField> fields) {
  std::string out = absl::FormatTime(kTimeFormat, now, absl::UTCTimeZone());
  out.push_back(' ');
  out.append(LogLevelName(level));
  out.push_back(' ');
  out.append(event);
  AppendTextPair("program", program, &out);
  for (const LogField& field : fields) AppendTextPair(field.key, field.value, &out);
  return out;
}

std::string JsonLogLine(absl::Time now, LogLevel level, std::string_view program,
                        std::string_view event, std::initializer_list<LogField> fields) {
  std::string out = "{";
  AppendJsonPair("ts", absl::FormatTime(kTimeFormat, now, absl::UTCTimeZone()), &out);
  AppendJsonPair("level", LogLevelName(level), &out);
  AppendJsonPair("program", program, &out);
  AppendJsonPair("event", event, &out);
  for (const LogField& field : fields) AppendJsonPair(field.key, field.value, &out);
  out.push_back('}');
  return out;
}

}  // namespace tandem::base
