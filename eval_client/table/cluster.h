// Cluster: one `tandem up` of a row's recipe, started for the row's questions and stopped after
// them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "eval_client/table/row_plan.h"
#include "lib/base/child_process.h"

namespace tandem::eval {

class Cluster {
 public:
  // Runs `tandem` up with the row's recipe and waits until it says it is ready. Its output is
  // appended to `folder`/up.log. CANCELLED when the user stops; FAILED_PRECONDITION with the last
  // line of the log when it ends before; DEADLINE_EXCEEDED after `ready_wait`. Call on the main
  // thread: the cluster dies with the thread that started it.
  static absl::StatusOr<std::unique_ptr<Cluster>> Start(const std::string& tandem,
                                                        const RowPlan& row,
                                                        const std::vector<std::string>& arguments,
                                                        const std::string& folder,
                                                        absl::Duration ready_wait);
  ~Cluster();  // stops it

  // The coordinator's host:port.
  const std::string& address() const { return address_; }
  bool running() { return child_.running(); }

 private:
  explicit Cluster(base::ChildProcess child) : child_(std::move(child)) {}

  base::ChildProcess child_;
  std::string address_;
};

}  // namespace tandem::eval
