// NCCL as this worker uses it, found when several GPUs are asked for: a worker on one GPU, or on
// none, starts where NCCL is not installed.
#pragma once

#include <nccl.h>

#include <string>

#include "absl/status/statusor.h"

namespace tandem::gpu_worker {

// The functions, with the names that nccl.h gives them after "nccl".
struct NcclLibrary {
  decltype(&ncclGetVersion) GetVersion = nullptr;
  decltype(&ncclGetErrorString) GetErrorString = nullptr;
  decltype(&ncclGetLastError) GetLastError = nullptr;
  decltype(&ncclGetUniqueId) GetUniqueId = nullptr;
  decltype(&ncclCommInitRankConfig) CommInitRankConfig = nullptr;
  decltype(&ncclCommGetAsyncError) CommGetAsyncError = nullptr;
  decltype(&ncclCommFinalize) CommFinalize = nullptr;
  decltype(&ncclCommDestroy) CommDestroy = nullptr;
  decltype(&ncclCommAbort) CommAbort = nullptr;
  decltype(&ncclAllGather) AllGather = nullptr;
  int version = 0;  // as NCCL counts: 22809 is 2.28.9

  // "ncclAllGather: unhandled cuda error: ...", with what NCCL last said about `comm`.
  std::string Describe(const char* call, ncclResult_t result, ncclComm_t comm) const;
};

// The library of this process, opened once and kept. NOT_FOUND where there is none,
// FAILED_PRECONDITION when its version is older than the headers this was built with.
absl::StatusOr<const NcclLibrary*> Nccl();

}  // namespace tandem::gpu_worker
