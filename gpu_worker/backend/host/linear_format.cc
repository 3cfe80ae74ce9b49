#include "gpu_worker/backend/host/linear_format.h"

#include "absl/strings/str_cat.h"

namespace tandem::gpu_worker {
namespace {

struct Name {
  const char* name;
  LinearKernel kernel;
};
constexpr Name kNames[] = {
    {"native", LinearKernel::kNative},   {"onednn", LinearKernel::kOneDnn},
    {"stored", LinearKernel::kStored},   {"fp8", LinearKernel::kFp8},
    {"marlin8", LinearKernel::kMarlin8}, {"marlin4", LinearKernel::kMarlin4}};

bool HasGroup(LinearKernel kernel) {
  return kernel == LinearKernel::kMarlin8 || kernel == LinearKernel::kMarlin4;
}

}  // namespace

absl::StatusOr<LinearFormat> ParseLinearFormat(const std::string& name, int group) {
  std::string known;
  for (const Name& candidate : kNames) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", candidate.name);
    if (name != candidate.name) continue;
    if (HasGroup(candidate.kernel) && group != 64 && group != 128) {
      return absl::InvalidArgumentError(
          absl::StrCat("a Marlin group is 128 or 64 inputs, found ", group));
    }
    return LinearFormat(candidate.kernel, group);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown format of linear layers \"", name, "\", expected one of: ", known));
}

std::string NameOf(const LinearFormat& format) {
  for (const Name& candidate : kNames) {
    if (format.kernel != candidate.kernel) continue;
    if (!HasGroup(format.kernel)) return candidate.name;
    return absl::StrCat(candidate.name, " group ", format.group);
  }
  return "unknown";
}

}  // namespace tandem::gpu_worker
