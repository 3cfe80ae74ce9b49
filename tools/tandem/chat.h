// `tandem chat`: talk to a cluster in the terminal.
#pragma once

namespace tandem::launcher {

// `argv[0]` is "chat". Exit code 0 at the end of input, 1 when the cluster cannot be reached or
// fails.
int RunChat(int argc, char** argv);

}  // namespace tandem::launcher
