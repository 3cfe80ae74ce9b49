// `tandem recipe explain`: what a recipe gives every linear layer of a model, without starting
// anything.
#pragma once

namespace tandem::launcher {

// `argv[0]` is "recipe". Returns the exit code: 0, or 2 after one sentence on stderr.
int RunRecipe(int argc, char** argv);

}  // namespace tandem::launcher
