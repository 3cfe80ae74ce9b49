// A child process with a deadline and bounded output: started, watched and gone again within one
// call. Knows nothing of sandboxes.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "eval_client/sandbox/file_descriptor.h"

namespace tandem::eval {

struct ChildOrders {
  std::vector<std::string> arguments;  // the program, looked up in PATH, and its arguments
  // Becomes descriptor 3, 4, ... of the child; stdin is /dev/null, every other one is closed.
  std::vector<int> descriptors;
  absl::Duration deadline;
  size_t output_bytes_max = 0;
};

struct ChildResult {
  bool timed_out = false;        // killed at the deadline
  bool too_much_output = false;  // killed for it
  int exit_code = -1;            // 128 + signal number when a signal ended it
  std::string output;            // stdout and stderr together, at most output_bytes_max
};

// Runs a child to its end, at the latest the deadline, when its process group is killed. NOT_FOUND
// when the program does not exist; INTERNAL when it cannot be started. Thread-safe.
absl::StatusOr<ChildResult> RunChild(const ChildOrders& orders);

}  // namespace tandem::eval
