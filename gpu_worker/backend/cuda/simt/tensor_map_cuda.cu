// Tensor maps by the driver, whose entry point is asked of the runtime so that nothing links to
// libcuda: a program with this in it starts where there is no driver.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>

#include "gpu_worker/backend/cuda/device/cuda_check.h"
#include "gpu_worker/backend/cuda/simt/tensor_map.h"

namespace tandem::gpu_worker::cuda {
namespace {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
static_assert(alignof(TensorMap) == alignof(CUtensorMap));

// As declared in cuda.h; tensor maps came with CUDA 12.0.
using Encode = decltype(&cuTensorMapEncodeTiled);
constexpr unsigned kFirstVersion = 12000;

Encode FindEncode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  TANDEM_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                     kFirstVersion, cudaEnableDefault, &result));
  if (result != cudaDriverEntryPointSuccess || function == nullptr) {
    base::CheckFailed(__FILE__, __LINE__,
                      "expected a driver with cuTensorMapEncodeTiled (CUDA 12.0), found none");
  }
  return reinterpret_cast<Encode>(function);
}

CUtensorMapDataType TypeOf(TensorElement element) {
  switch (element) {
    case TensorElement::kByte:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
    case TensorElement::kBf16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case TensorElement::kF32:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    case TensorElement::kWord64:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT64;
  }
  base::CheckFailed(__FILE__, __LINE__, "expected a tensor element");
}

}  // namespace

TensorMap MakeTensorMap(const TensorMapSpec& spec) {
  static const Encode encode = FindEncode();
  const std::string problem = TensorMapProblem(spec);
  if (!problem.empty()) base::CheckFailed(__FILE__, __LINE__, problem);
  cuuint64_t sizes[kTensorRankMax], strides[kTensorRankMax - 1];
  cuuint32_t box[kTensorRankMax], steps[kTensorRankMax];
  for (int i = 0; i < spec.rank; ++i) {
    sizes[i] = static_cast<cuuint64_t>(spec.sizes[i]);
    box[i] = spec.box[i];
    steps[i] = 1;
    if (i > 0) strides[i - 1] = static_cast<cuuint64_t>(spec.strides_bytes[i - 1]);
  }
  CUtensorMap map;
  const CUresult result = encode(
      &map, TypeOf(spec.element), static_cast<cuuint32_t>(spec.rank), const_cast<void*>(spec.base),
      sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      spec.swizzle_128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    base::CheckFailed(__FILE__, __LINE__,
                      "cuTensorMapEncodeTiled failed with " + std::to_string(result));
  }
  TensorMap bytes;
  std::memcpy(&bytes, &map, sizeof(map));
  return bytes;
}

}  // namespace tandem::gpu_worker::cuda
