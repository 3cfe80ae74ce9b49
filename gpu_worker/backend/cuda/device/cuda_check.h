// TANDEM_CUDA_CHECK: every call of the CUDA runtime goes through it. An error that reaches it is
// beyond repair in this process.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "lib/base/check.h"

#define TANDEM_CUDA_CHECK(call)                                                                   \
  do {                                                                                            \
    const cudaError_t tandem_cuda_error = (call);                                                 \
    if (tandem_cuda_error != cudaSuccess) [[unlikely]]                                            \
      ::tandem::base::CheckFailed(                                                                \
          __FILE__, __LINE__, std::string(#call) + ": " + cudaGetErrorString(tandem_cuda_error)); \
  } while (false)
