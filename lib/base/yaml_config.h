// The YAML file behind --config, as CLI11 wants to be told about it. A key is a long flag name, a
// value a scalar or a list of scalars; anything else is an error that names the line, because a
// setting that is silently ignored is worse than none.
#pragma once

#include <istream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace tandem::base {

class YamlConfig final : public CLI::Config {
 public:
  // `app` must outlive this; it owns it, in fact.
  explicit YamlConfig(const CLI::App* app) : app_(app) {}

  // The settings of `input`, without those that an environment variable of the option overrides.
  // Throws CLI::ConfigError, which CLI11 catches nowhere but ParseOrExitCode does.
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override;

  // The settings as YAML, one a line.
  std::string to_config(const CLI::App* app, bool with_defaults, bool with_description,
                        std::string prefix) const override;

 private:
  const CLI::App* app_;
};

}  // namespace tandem::base
