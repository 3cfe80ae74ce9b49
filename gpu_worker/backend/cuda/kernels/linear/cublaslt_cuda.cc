#include <cublasLt.h>
#include <dlfcn.h>

#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/cuda/device/cuda_check.h"
#include "gpu_worker/backend/cuda/kernels/linear/cublaslt.h"

namespace tandem::gpu_worker::cuda {
namespace {

// The functions that are used, of the library with the major version of the header.
struct Library {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtGetStatusString) status_string = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  std::string problem;  // why it cannot be used
};

template <typename Function>
void Find(void* handle, const char* name, Function& function, std::string& problem) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
  if (function == nullptr) problem = absl::StrCat("expected ", name, " in cuBLASLt, found none");
}

Library Open() {
  Library l;
  const std::string name = absl::StrCat("libcublasLt.so.", CUBLAS_VER_MAJOR);
  void* const handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    l.problem = absl::StrCat("expected ", name, ", found none");
    return l;
  }
  Find(handle, "cublasLtCreate", l.create, l.problem);
  Find(handle, "cublasLtGetStatusString", l.status_string, l.problem);
  Find(handle, "cublasLtMatmul", l.matmul, l.problem);
  Find(handle, "cublasLtMatmulAlgoGetHeuristic", l.heuristic, l.problem);
  Find(handle, "cublasLtMatmulDescCreate", l.desc_create, l.problem);
  Find(handle, "cublasLtMatmulDescDestroy", l.desc_destroy, l.problem);
  Find(handle, "cublasLtMatmulDescSetAttribute", l.desc_set, l.problem);
  Find(handle, "cublasLtMatrixLayoutCreate", l.layout_create, l.problem);
  Find(handle, "cublasLtMatrixLayoutDestroy", l.layout_destroy, l.problem);
  Find(handle, "cublasLtMatmulPreferenceCreate", l.preference_create, l.problem);
  Find(handle, "cublasLtMatmulPreferenceDestroy", l.preference_destroy, l.problem);
  Find(handle, "cublasLtMatmulPreferenceSetAttribute", l.preference_set, l.problem);
  return l;
}

const Library& TheLibrary() {
  static const Library library = Open();
  return library;
}

absl::Status StatusOf(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(call, " failed: ", TheLibrary().status_string(status)));
}

// Descriptors of one product. The library's matrices are column-major, so what is row-major here is
// the transpose there: y^T [outputs, rows] = (w^T)^T x^T, "TN", the one form that fp8 has.
class Descriptors {
 public:
  ~Descriptors() {
    const Library& l = TheLibrary();
    if (product_ != nullptr) l.desc_destroy(product_);
    for (cublasLtMatrixLayout_t layout : {w_, x_, y_}) {
      if (layout != nullptr) l.layout_destroy(layout);
    }
    if (preference_ != nullptr) l.preference_destroy(preference_);
  }

  absl::Status Make(const CublasLtProduct& p) {
    const Library& l = TheLibrary();
    const bool fp8 = p.kind == WeightKind::kFp8;
    const cudaDataType_t values = fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
    const cudaDataType_t results = p.y_storage == Storage::kBf16 ? CUDA_R_16BF : CUDA_R_32F;
    Try(l.desc_create(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    TryLayout(&w_, values, p.inputs, p.outputs, p.inputs);
    TryLayout(&x_, values, p.inputs, p.rows, p.x_stride);
    TryLayout(&y_, results, p.outputs, p.rows, p.y_stride);
    if (!status_.ok()) return status_;
    Set(CUBLASLT_MATMUL_DESC_TRANSA, static_cast<int32_t>(CUBLAS_OP_T));
    Set(CUBLASLT_MATMUL_DESC_TRANSB, static_cast<int32_t>(CUBLAS_OP_N));
    if (fp8) {
      Set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{0});
      Set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE,
          static_cast<int32_t>(CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F));
      Set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE,
          static_cast<int32_t>(CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F));
      Set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.w_scales);
      Set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.x_scales);
    }
    Try(l.preference_create(&preference_), "cublasLtMatmulPreferenceCreate");
    if (!status_.ok()) return status_;
    const uint64_t bytes = p.workspace_bytes;
    Try(l.preference_set(preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                         sizeof(bytes)),
        "cublasLtMatmulPreferenceSetAttribute");
    return status_;
  }

  // UNIMPLEMENTED where there is none.
  absl::Status Choose(cublasLtHandle_t handle, const CublasLtProduct& p,
                      cublasLtMatmulAlgo_t* algorithm) const {
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    const cublasStatus_t status =
        TheLibrary().heuristic(handle, product_, w_, x_, y_, y_, preference_, 1, &result, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && found == 0)) {
      return absl::UnimplementedError(absl::StrCat(
          "cuBLASLt has no algorithm for ", p.rows, " rows, ", p.outputs, " outputs, ", p.inputs,
          " inputs in ", p.kind == WeightKind::kFp8 ? "block-scaled fp8" : "bf16"));
    }
    *algorithm = result.algo;
    return StatusOf(status, "cublasLtMatmulAlgoGetHeuristic");
  }

  absl::Status Multiply(cublasLtHandle_t handle, const CublasLtProduct& p,
                        const cublasLtMatmulAlgo_t& algorithm, Stream stream) const {
    const float one = 1.0f, zero = 0.0f;
    return StatusOf(
        TheLibrary().matmul(handle, product_, &one, p.w, w_, p.x, x_, &zero, p.y, y_, p.y, y_,
                            &algorithm, p.workspace, p.workspace_bytes, stream),
        "cublasLtMatmul");
  }

 private:
  void Try(cublasStatus_t status, const char* call) { status_.Update(StatusOf(status, call)); }
  void TryLayout(cublasLtMatrixLayout_t* layout, cudaDataType_t type, int64_t rows, int64_t columns,
                 int64_t stride) {
    Try(TheLibrary().layout_create(layout, type, static_cast<uint64_t>(rows),
                                   static_cast<uint64_t>(columns), stride),
        "cublasLtMatrixLayoutCreate");
  }
  template <typename T>
  void Set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    Try(TheLibrary().desc_set(product_, attribute, &value, sizeof(value)),
        "cublasLtMatmulDescSetAttribute");
  }

  absl::Status status_;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t w_ = nullptr, x_ = nullptr, y_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
};

// What the choice of an algorithm depends on, workspace aside.
using ShapeKey = std::tuple<WeightKind, Storage, int64_t, int64_t, int64_t, int64_t, int64_t>;

// Of one device: the library ties a handle to the device that is current when it is made.
struct DeviceState {
  cublasLtHandle_t handle = nullptr;
  std::map<ShapeKey, cublasLtMatmulAlgo_t> algorithms;
};

// Never destroyed: at the end of the process the driver may be gone before.
std::mutex& Mutex() {
  static auto* const mutex = new std::mutex;
  return *mutex;
}

absl::StatusOr<DeviceState*> StateOfDevice() {
  static auto* const states = new std::map<int, DeviceState>;
  int device = 0;
  TANDEM_CUDA_CHECK(cudaGetDevice(&device));
  DeviceState& state = (*states)[device];
  if (state.handle == nullptr) {
    absl::Status status = StatusOf(TheLibrary().create(&state.handle), "cublasLtCreate");
    if (!status.ok()) return status;
  }
  return &state;
}

}  // namespace

bool HasCublasLt() { return TheLibrary().problem.empty(); }

absl::Status MultiplyByCublasLt(const CublasLtProduct& p, Stream stream) {
  const std::string problem = CublasLtProblem(p);
  if (!problem.empty()) return absl::InvalidArgumentError(problem);
  if (!HasCublasLt()) return absl::UnavailableError(TheLibrary().problem);
  Descriptors descriptors;
  absl::Status status = descriptors.Make(p);
  if (!status.ok()) return status;
  const std::lock_guard<std::mutex> lock(Mutex());
  const absl::StatusOr<DeviceState*> state = StateOfDevice();
  if (!state.ok()) return state.status();
  const ShapeKey key(p.kind, p.y_storage, p.rows, p.outputs, p.inputs, p.x_stride, p.y_stride);
  auto found = (*state)->algorithms.find(key);
  if (found == (*state)->algorithms.end()) {
    cublasLtMatmulAlgo_t algorithm = {};
    status = descriptors.Choose((*state)->handle, p, &algorithm);
    if (!status.ok()) return status;
    found = (*state)->algorithms.emplace(key, algorithm).first;
  }
  return descriptors.Multiply((*state)->handle, p, found->second, stream);
}

}  // namespace tandem::gpu_worker::cuda
