// `tandem up`: a whole cluster on this machine with one command.
#pragma once

namespace tandem::launcher {

// `argv[0]` is "up". Returns the exit code: 0 after a stop by signal, the code of the command
// behind `--`, 2 when it could not start, 1 when the cluster was not ready in time or lost its
// coordinator.
int RunUp(int argc, char** argv);

}  // namespace tandem::launcher
