#include "lib/base/program.h"

#include <cstdlib>
#include <iostream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "lib/base/log.h"
#include "lib/base/yaml_config.h"

namespace tandem::base {
namespace {

constexpr char kLogLevelFlag[] = "--log-level";
constexpr char kLogJsonFlag[] = "--log-json";

// "--admin-listen" -> "TANDEM_ADMIN_LISTEN".
std::string EnvironmentName(const std::string& flag) {
  return absl::StrCat("TANDEM_", absl::AsciiStrToUpper(absl::StrReplaceAll(flag, {{"-", "_"}})));
}

void NameEnvironmentVariables(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    if (option->get_lnames().empty() || !option->get_configurable()) continue;
    option->envname(EnvironmentName(option->get_lnames().front()));
  }
}

LogLevel LevelNamed(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  return LogLevel::kInfo;
}

// One sentence, whatever the library made of it.
std::string OneLine(std::string message) {
  absl::StrReplaceAll({{"\n", "; "}}, &message);
  while (!message.empty() && (message.back() == ' ' || message.back() == ';')) message.pop_back();
  return message;
}

int Refuse(const CLI::App& app, const std::string& message) {
  std::cerr << app.get_name() << ": " << OneLine(message) << " (try --help)" << std::endl;
  return kExitCannotStart;
}

}  // namespace

void AddStandardOptions(CLI::App& app, const std::string& examples) {
  app.footer(absl::StrCat("Examples:\n", examples,
                          "\n\nA flag wins over TANDEM_<FLAG> in the environment, which wins over "
                          "--config."));
  app.set_version_flag("--version", absl::StrCat(app.get_name(), " ", VersionString()));
  app.set_config("--config", "", "YAML file; its keys are the long flag names");
  app.config_formatter(std::make_shared<YamlConfig>(&app));
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.add_option(kLogLevelFlag, "Lowest level written: debug, info, warning or error")
      ->default_str("info")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
  // A std::string, because C++20 makes CLI11's overloads for a literal ambiguous.
  const std::string json_help = "Log JSON objects, one a line";
  app.add_flag(kLogJsonFlag, json_help);
  app.get_formatter()->column_width(36);
}

int ParseOrExitCode(CLI::App& app, int argc, char** argv) {
  NameEnvironmentVariables(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return 0;
  } catch (const CLI::CallForVersion& version) {
    std::cout << version.what() << std::endl;
    return 0;
  } catch (const CLI::Error& error) {
    return Refuse(app, error.what());
  }
  const CLI::Option* level = app.get_option(kLogLevelFlag);
  InitLogging(app.get_name(), LevelNamed(level->count() > 0 ? level->as<std::string>() : "info"),
              app.get_option(kLogJsonFlag)->as<bool>());
  return -1;
}

int CannotStart(const std::string& program, const absl::Status& status) {
  const std::string message(status.message().data(), status.message().size());
  std::cerr << program << ": " << OneLine(message) << std::endl;
  return kExitCannotStart;
}

std::string VersionString() {
  const std::string commit = TANDEM_COMMIT;
  return commit.empty() ? TANDEM_VERSION : absl::StrCat(TANDEM_VERSION, "+", commit);
}

}  // namespace tandem::base
