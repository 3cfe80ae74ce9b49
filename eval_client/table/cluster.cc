#include "eval_client/table/cluster.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/clock.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "lib/base/text_file.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

// `tandem up` gives its own children ten seconds before it kills them.
constexpr double kStopGraceSeconds = 25;
constexpr absl::Duration kLookInterval = absl::Milliseconds(50);

// The address once the state file says ready; empty before.
std::string ReadyAddress(const std::string& state_path) {
  const auto state = nlohmann::json::parse(base::ReadTextOrEmpty(state_path), nullptr,
                                           /*allow_exceptions=*/false);
  if (!state.is_object() || !state.value("ready", false)) return "";
  return state.value("address", "");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Cluster>> Cluster::Start(const std::string& tandem,
                                                        const RowPlan& row,
                                                        const std::vector<std::string>& arguments,
                                                        const std::string& folder,
                                                        absl::Duration ready_wait) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const std::string state_path = folder + "/up.json";
  std::filesystem::remove(state_path, error);  // an earlier cluster's
  base::ChildSpec spec;
  spec.name = row.name;
  spec.argv = {tandem,    "up",       "--recipe",    row.recipe,     "--model",
               row.model, "--listen", "127.0.0.1:0", "--state-file", state_path};
  spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
  spec.log_path = folder + "/up.log";
  TANDEM_ASSIGN_OR_RETURN(base::ChildProcess child, base::ChildProcess::Start(spec));
  std::unique_ptr<Cluster> cluster(new Cluster(std::move(child)));
  const absl::Duration end = base::RealClock().Monotonic() + ready_wait;
  while (true) {
    cluster->address_ = ReadyAddress(state_path);
    if (!cluster->address_.empty()) return cluster;
    if (!cluster->running()) {
      return absl::FailedPreconditionError(
          absl::StrCat("the cluster of ", row.name,
                       " ended before it was ready: ", base::LastLine(spec.log_path)));
    }
    if (base::RealClock().Monotonic() >= end) {
      return absl::DeadlineExceededError(
          absl::StrCat("the cluster of ", row.name, " was not ready within ",
                       absl::FormatDuration(ready_wait), ": ", base::LastLine(spec.log_path)));
    }
    if (base::WaitForStop(kLookInterval)) return absl::CancelledError("interrupted");
  }
}

Cluster::~Cluster() { base::StopAll({&child_}, kStopGraceSeconds); }

}  // namespace tandem::eval
