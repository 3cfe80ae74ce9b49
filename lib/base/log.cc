#include "lib/base/log.h"

#include <mutex>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "lib/base/log_line.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace tandem::base {
namespace {

struct Settings {
  std::mutex mutex;
  std::string program = "tandem";
  LogLevel level = LogLevel::kInfo;
  bool json = false;
};

// Never destroyed: threads may log while static objects go away at exit.
Settings& TheSettings() {
  static auto* settings = new Settings;
  return *settings;
}

spdlog::logger& TheLogger() {
  static auto* logger = [] {
    auto* made = new spdlog::logger("tandem", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%v");
    made->set_level(spdlog::level::trace);
    // A full disk or a closed stderr must not end the program or fill stderr with complaints.
    made->set_error_handler([](const std::string&) {});
    return made;
  }();
  return *logger;
}

}  // namespace

void InitLogging(std::string_view program, LogLevel level, bool json) {
  Settings& settings = TheSettings();
  std::lock_guard lock(settings.mutex);
  settings.program = std::string(program);
  settings.level = level;
  settings.json = json;
}

void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  std::string program;
  bool json = false;
  {
    Settings& settings = TheSettings();
    std::lock_guard lock(settings.mutex);
    if (level < settings.level) return;
    program = settings.program;
    json = settings.json;
  }
  const absl::Time now = absl::Now();
  const std::string line = json ? JsonLogLine(now, level, program, event, fields)
                                : TextLogLine(now, level, program, event, fields);
  // The line is an argument, not the format, so braces in it stay what they are.
  TheLogger().log(spdlog::level::info, "{}", line);
}

}  // namespace tandem::base
