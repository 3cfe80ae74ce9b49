#include <cublasLt.h>

#include <string>

#include "bench/gpu/rooflines.h"
#include "bench/gpu/timed_work.h"
#include "lib/base/check.h"

namespace tandem::bench {
namespace {

// As its maker recommends for Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

void Check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    base::CheckFailed(__FILE__, __LINE__,
                      std::string(call) + ": " + cublasLtGetStatusString(status));
  }
}

// A product of column-major matrices, C = A^T B, as the library likes it best.
class SquareProduct {
 public:
  explicit SquareProduct(int64_t n) {
    Check(cublasLtCreate(&handle_), "cublasLtCreate");
    Check(cublasLtMatmulDescCreate(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "MatmulDescCreate");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    Check(cublasLtMatmulDescSetAttribute(product_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                         sizeof transposed),
          "MatmulDescSetAttribute");
    Check(cublasLtMatrixLayoutCreate(&layout_, CUDA_R_16BF, n, n, n), "MatrixLayoutCreate");
    cublasLtMatmulPreference_t preference;
    Check(cublasLtMatmulPreferenceCreate(&preference), "MatmulPreferenceCreate");
    Check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &kWorkspaceBytes, sizeof kWorkspaceBytes),
          "MatmulPreferenceSetAttribute");
    int found = 0;
    Check(cublasLtMatmulAlgoGetHeuristic(handle_, product_, layout_, layout_, layout_, layout_,
                                         preference, 1, &choice_, &found),
          "MatmulAlgoGetHeuristic");
    TANDEM_CHECK_EQ(found, 1);
    cublasLtMatmulPreferenceDestroy(preference);
  }
  ~SquareProduct() {
    cublasLtMatrixLayoutDestroy(layout_);
    cublasLtMatmulDescDestroy(product_);
    cublasLtDestroy(handle_);
  }
  SquareProduct(const SquareProduct&) = delete;
  SquareProduct& operator=(const SquareProduct&) = delete;

  void Launch(const void* a, const void* b, void* c, void* workspace, cuda::Stream stream) const {
    const float one = 1.0f, zero = 0.0f;
    Check(cublasLtMatmul(handle_, product_, &one, a, layout_, b, layout_, &zero, c, layout_, c,
                         layout_, &choice_.algo, workspace, kWorkspaceBytes, stream),
          "cublasLtMatmul");
  }

 private:
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t layout_ = nullptr;
  cublasLtMatmulHeuristicResult_t choice_ = {};
};

}  // namespace

std::optional<double> VendorProductUs(int64_t n, DeviceData* data) {
  const SquareProduct product(n);
  const auto* a = data->Bf16(n * n);
  const auto* b = data->Bf16(n * n);
  void* const c = data->Bytes(n * n * 2);
  void* const workspace = data->Bytes(kWorkspaceBytes);
  GpuWork work;
  work.copies = 1;
  work.launch = [&](int) { product.Launch(a, b, c, workspace, data->stream()); };
  return TimeWork(work, data->stream(), {.replays = 9, .launches_min = 4}).us_median;
}

}  // namespace tandem::bench
