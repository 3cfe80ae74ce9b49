#include "gpu_worker/backend/shard/nccl_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker {
namespace {

constexpr char kFile[] = "libnccl.so.2";

template <typename Function>
absl::Status Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function != nullptr) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("expected ", name, " in ", kFile, ", found none"));
}

absl::StatusOr<const NcclLibrary*> Open() {
  void* const file = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (file == nullptr) {
    return absl::NotFoundError(absl::StrCat("several GPUs need NCCL: expected ", kFile,
                                            " to be found, found ", dlerror()));
  }
  static NcclLibrary nccl;
  TANDEM_RETURN_IF_ERROR(Find(file, "ncclGetVersion", &nccl.GetVersion));
  TANDEM_RETURN_IF_ERROR(Find(file, "ncclGetErrorString", &nccl.GetErrorString));
  TANDEM_RETURN_IF_ERROR(Find(file, "ncclGetLastError", &nccl.GetLastError));
  TANDEM_RETURN_IF_ERROR(Find(file, "ncclGetUniqueId", &nccl.GetUniqueId));
  TANDEM_RETURN_IF_ERROR(Find(file, "ncclCommInitRankConfig", &nccl.CommInitRankConfig));
  TANDEM_RETURN_IF_ERROR(Find(file, "ncclCommGetAsyncError", &nccl.CommGetAsyncError));
  TANDEM_RETURN_IF_ERROR(Find(file, "ncclCommFinalize", &nccl.CommFinalize));
  TANDEM_RETURN_IF_ERROR(Find(file, "ncclCommDestroy", &nccl.CommDestroy));
  TANDEM_RETURN_IF_ERROR(Find(file, "ncclCommAbort", &nccl.CommAbort));
  TANDEM_RETURN_IF_ERROR(Find(file, "ncclAllGather", &nccl.AllGather));
  nccl.GetVersion(&nccl.version);
  // The configuration struct may have grown since an older library was made.
  if (nccl.version < NCCL_VERSION_CODE) {
    return absl::FailedPreconditionError(absl::StrCat(
        "expected NCCL ", NCCL_VERSION_CODE, " or newer, found ", nccl.version, " in ", kFile));
  }
  return &nccl;
}

}  // namespace

absl::StatusOr<const NcclLibrary*> Nccl() {
  static const absl::StatusOr<const NcclLibrary*> nccl = Open();
  return nccl;
}

std::string NcclLibrary::Describe(const char* call, ncclResult_t result, ncclComm_t comm) const {
  const char* last = GetLastError(comm);
  std::string text = absl::StrCat(call, ": ", GetErrorString(result));
  if (last != nullptr && *last != '\0') absl::StrAppend(&text, ": ", last);
  return text;
}

}  // namespace tandem::gpu_worker
