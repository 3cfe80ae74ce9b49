#include "lib/base/yaml_config.h"

#include <cstdlib>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "yaml-cpp/yaml.h"

namespace tandem::base {
namespace {

[[noreturn]] void Fail(const std::string& file, const YAML::Mark& mark, const std::string& what) {
  throw CLI::ConfigError(absl::StrCat(file, " line ", mark.line + 1, ": ", what));
}

std::string FileNameOf(const CLI::App& app) {
  const CLI::Option* option = app.get_config_ptr();
  return option == nullptr || option->count() == 0 ? "the config file" : option->as<std::string>();
}

std::vector<std::string> Inputs(const std::string& file, const std::string& key,
                                const YAML::Node& value) {
  if (value.IsScalar()) return {value.Scalar()};
  if (!value.IsSequence())
    Fail(file, value.Mark(), "the value of " + key + " is no scalar or list");
  std::vector<std::string> inputs;
  for (const YAML::Node& item : value) {
    if (!item.IsScalar()) Fail(file, item.Mark(), "the list " + key + " holds something nested");
    inputs.push_back(item.Scalar());
  }
  return inputs;
}

const CLI::Option* OptionFor(const CLI::App& app, const std::string& file, const std::string& key,
                             const YAML::Mark& mark) {
  const CLI::Option* option = app.get_option_no_throw("--" + key);
  if (option == nullptr || !option->get_configurable()) {
    Fail(file, mark, "unknown key " + key);
  }
  return option;
}

bool IsSetInEnvironment(const CLI::Option& option) {
  return !option.get_envname().empty() && std::getenv(option.get_envname().c_str()) != nullptr;
}

YAML::Node Parse(const std::string& file, std::istream& input) {
  std::stringstream text;
  text << input.rdbuf();
  try {
    return YAML::Load(text.str());
  } catch (const YAML::Exception& error) {
    Fail(file, error.mark, error.msg);
  }
}

}  // namespace

std::vector<CLI::ConfigItem> YamlConfig::from_config(std::istream& input) const {
  const std::string file = FileNameOf(*app_);
  const YAML::Node root = Parse(file, input);
  std::vector<CLI::ConfigItem> items;
  if (root.IsNull()) return items;
  if (!root.IsMap()) Fail(file, root.Mark(), "expected keys and values");
  for (const auto& entry : root) {
    if (!entry.first.IsScalar()) Fail(file, entry.first.Mark(), "a key is no plain word");
    CLI::ConfigItem item;
    item.name = entry.first.Scalar();
    item.inputs = Inputs(file, item.name, entry.second);
    const CLI::Option* option = OptionFor(*app_, file, item.name, entry.first.Mark());
    for (const CLI::ConfigItem& earlier : items) {
      if (earlier.name == item.name) Fail(file, entry.first.Mark(), "twice the key " + item.name);
    }
    if (!IsSetInEnvironment(*option)) items.push_back(std::move(item));
  }
  return items;
}

std::string YamlConfig::to_config(const CLI::App* app, bool with_defaults, bool,
                                  std::string) const {
  YAML::Emitter out;
  out << YAML::BeginMap;
  for (const CLI::Option* option : app->get_options()) {
    if (option->get_lnames().empty() || !option->get_configurable()) continue;
    if (option->count() == 0 && !with_defaults) continue;
    const std::vector<std::string>& results = option->results();
    out << YAML::Key << option->get_lnames().front() << YAML::Value;
    if (results.size() == 1) {
      out << results.front();
    } else if (results.empty()) {
      out << option->get_default_str();
    } else {
      out << results;
    }
  }
  out << YAML::EndMap;
  return absl::StrCat(out.c_str(), "\n");
}

}  // namespace tandem::base
