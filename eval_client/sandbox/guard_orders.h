// What the sandbox tells the guard it puts into the Python interpreter, by a pipe that is closed
// before any code under test runs.
#pragma once

#include <cstdint>

namespace tandem::eval {

inline constexpr int kOrdersFd = 3;  // the guard reads a GuardOrders from it, then closes it
inline constexpr int kReportFd = 4;  // the guard writes the token to it when the program is done
inline constexpr int kTokenBytes = 32;
inline constexpr int kGuardFailed = 97;  // exit code when the guard cannot do its work

// Limits of the interpreter's process; see setrlimit(2).
struct GuardOrders {
  uint64_t cpu_s = 0;
  uint64_t address_bytes = 0;
  uint64_t file_bytes = 0;
  uint64_t open_files = 0;
  uint8_t token[kTokenBytes] = {};
};

}  // namespace tandem::eval
