#include "gpu_worker/server/make_backend.h"

#include <algorithm>
#include <map>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "gpu_worker/backend/host/host_backend.h"

#if defined(TANDEM_HAS_CUDA)
#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/cuda/cuda_backend.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/device_experts.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#if defined(TANDEM_HAS_NCCL)
#include "gpu_worker/server/cuda_ranks.h"
#endif
#endif

namespace tandem::gpu_worker {
namespace {

Precision PrecisionOf(const WorkerOptions& o) {
  return o.precision == "f32" ? Precision::kF32 : Precision::kBf16;
}

AttentionKernel AttentionOf(const WorkerOptions& o) {
  return o.attention == "reference" ? AttentionKernel::kReference : AttentionKernel::kFlash;
}

std::map<std::string, LinearFormat> FormatsOf(const std::vector<AssignedModule>& linear) {
  std::map<std::string, LinearFormat> formats;
  for (const AssignedModule& m : linear) {
    if (m.module.kind == ModuleKind::kFree) formats[m.module.path] = BackendFormat(m.choice);
  }
  return formats;
}

absl::StatusOr<std::unique_ptr<Backend>> MakeHost(const WorkerOptions& o,
                                                  const ModelWeights& weights,
                                                  const std::vector<AssignedModule>& linear) {
  HostBackendOptions out;
  out.precision = PrecisionOf(o);
  out.attention = AttentionOf(o);
  out.linear_of = FormatsOf(linear);
  out.kv_pages = KvPages(o, weights.config, out.precision);
  out.rows_max = o.rows_max;
  out.threads = ThreadsOf(o);
  out.ranks = o.ranks;
  out.rank_wait_max = absl::Seconds(o.rank_timeout_seconds);
  return MakeHostBackend(weights, out);
}

#if defined(TANDEM_HAS_CUDA)
cuda::Kernels KernelsOf(const WorkerOptions& o) {
  if (o.kernels == "reference") return cuda::Kernels::kReference;
  if (o.kernels == "hopper") return cuda::Kernels::kHopper;
  return o.kernels == "portable" || o.precision != "f32" ? cuda::Kernels::kPortable
                                                         : cuda::Kernels::kReference;
}

// Nobody shall take an emulated device for a GPU: its answers are real, its speed is not.
absl::Status WarnOfEmulator(int device) {
  TANDEM_ASSIGN_OR_RETURN(const cuda::DeviceProperties properties, cuda::UseDevice(device));
  if (!properties.emulated) return absl::OkStatus();
  base::LogWarning("device_is_emulated",
                   {{"device", properties.name},
                    {"what", "a program for tests: the GPU is an emulator on this processor"}});
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCuda(const WorkerOptions& o,
                                                  const ModelWeights& weights,
                                                  const std::vector<AssignedModule>& linear) {
  TANDEM_RETURN_IF_ERROR(WarnOfEmulator(o.device));
  cuda::CudaBackendOptions out;
  out.formats.precision = PrecisionOf(o);
  out.formats.attention = AttentionOf(o);
  out.formats.linear_of = FormatsOf(linear);
  out.kernels = KernelsOf(o);
  out.kv_pages = o.kv_tokens == 0 ? 0 : KvPages(o, weights.config, out.formats.precision);
  out.rows_max = o.rows_max;
  out.device = o.device;
  out.pack_threads = ThreadsOf(o);
  out.graphs = o.cuda_graphs;
  if (o.ranks == 1) return cuda::MakeCudaBackend(weights, out);
#if defined(TANDEM_HAS_NCCL)
  return MakeCudaRanks(weights, out, o.ranks, absl::Seconds(o.rank_timeout_seconds));
#else
  return absl::FailedPreconditionError(
      absl::StrCat("expected a build with NCCL for --ranks ", o.ranks,
                   " with --backend cuda, found one without; use --ranks 1"));
#endif
}
#endif

#if !defined(TANDEM_HAS_CUDA)
absl::Status NoCuda() {
  return absl::FailedPreconditionError(
      "expected a build with the CUDA toolkit for --backend cuda, found one without; "
      "use --backend host");
}
#endif

}  // namespace

int ThreadsOf(const WorkerOptions& options) {
  if (options.threads > 0) return options.threads;
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const WorkerOptions& options,
                                                     const ModelWeights& weights,
                                                     const std::vector<AssignedModule>& linear) {
  if (options.backend == "host") return MakeHost(options, weights, linear);
#if defined(TANDEM_HAS_CUDA)
  return MakeCuda(options, weights, linear);
#else
  return NoCuda();
#endif
}

LocalExperts::MakeBackend MakeExpertBackend(const WorkerOptions& options) {
  if (options.backend == "host") return nullptr;
#if defined(TANDEM_HAS_CUDA)
  return [options](const ModelConfig& config) -> absl::StatusOr<std::unique_ptr<ExpertBackend>> {
    cuda::DeviceExpertsOptions out;
    out.device = options.device;
    out.hidden = config.hidden_size;
    out.inter = config.moe_intermediate_size;
    out.rows_max = options.rows_max;
    out.pairs_max = std::min(out.pairs_max, out.rows_max * config.num_experts_per_tok);
    return cuda::DeviceExperts::Make(out);
  };
#else
  return
      [](const ModelConfig&) -> absl::StatusOr<std::unique_ptr<ExpertBackend>> { return NoCuda(); };
#endif
}

}  // namespace tandem::gpu_worker
