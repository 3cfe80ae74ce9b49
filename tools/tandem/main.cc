// tandem: the one command for people. Each subcommand parses its own flags.
#include <iostream>
#include <string>

#include "lib/base/program.h"
#include "tools/tandem/chat.h"
#include "tools/tandem/hot_experts_command.h"
#include "tools/tandem/recipe_command.h"
#include "tools/tandem/up.h"

namespace {

constexpr char kUsage[] =
    "tandem COMMAND [flags]\n"
    "  up              start a cluster on this machine and look after it\n"
    "  chat            talk to a cluster\n"
    "  recipe explain  tell what a recipe gives every layer of a model\n"
    "  hot-experts     list the experts a GPU worker should compute itself\n"
    "tandem COMMAND --help says more; tandem --version names the version.\n";

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "up") return tandem::launcher::RunUp(argc - 1, argv + 1);
  if (command == "chat") return tandem::launcher::RunChat(argc - 1, argv + 1);
  if (command == "hot-experts") return tandem::launcher::RunHotExperts(argc - 1, argv + 1);
  if (command == "recipe") return tandem::launcher::RunRecipe(argc - 1, argv + 1);
  if (command == "--version") {
    std::cout << "tandem " << tandem::base::VersionString() << std::endl;
    return 0;
  }
  if (command == "--help" || command == "-h" || command == "help") {
    std::cout << kUsage;
    return 0;
  }
  std::cerr << "tandem: expected a command (up, chat, recipe, hot-experts), found "
            << (command.empty() ? "none" : "'" + command + "'") << std::endl;
  return tandem::base::kExitCannotStart;
}
