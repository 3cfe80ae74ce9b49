// `tandem hot-experts`: from what a GPU worker's router chose, the list of experts that worker may
// compute itself.
#pragma once

namespace tandem::launcher {

// Exit code of the program; prints to stdout and stderr.
int RunHotExperts(int argc, char** argv);

}  // namespace tandem::launcher
