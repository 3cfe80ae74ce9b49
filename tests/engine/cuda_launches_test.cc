// What a decoded row costs the CUDA backend in kernels, call by call: an input of several products
// is quantized once, where it is made, and products of the same input are one. Counted on the
// emulator; a launch is some 3 us of a GPU's time that no bandwidth makes up for.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "gpu_worker/backend/cuda/cuda_backend.h"
#include "gpu_worker/backend/cuda/emulator/launches.h"
#include "tests/engine/harness.h"

namespace tandem::gpu_worker {
namespace {

using cuda::Kernels;

constexpr uint32_t kPage[] = {0};

// Of one call on one row that is decoded, in layers 0 (dense) and 1 (experts) of the shipped model.
struct Counts {
  int64_t norm, project, dense, shared;
  bool operator==(const Counts&) const = default;
};

void PrintTo(const Counts& c, std::ostream* os) {
  *os << c.norm << " " << c.project << " " << c.dense << " " << c.shared;
}

class CudaLaunches : public testing::Test {
 protected:
  CudaLaunches() : weights_(LoadModel(SourcePath("models/quiz")).value()) {}

  Counts Count(Kernels kernels, LinearFormat linear,
               const std::map<std::string, LinearFormat>& linear_of = {}) const {
    cuda::CudaBackendOptions options;
    options.kernels = kernels;
    options.formats.linear = linear;
    options.formats.linear_of = linear_of;
    options.kv_pages = 1;
    options.rows_max = 1;
    options.graphs = false;
    const std::unique_ptr<Backend> b = cuda::MakeCudaBackend(weights_, options).value();
    const auto x = b->NewRows(RowShape::kHidden, 1), h = b->NewRows(RowShape::kHidden, 1);
    const auto q = b->NewRows(RowShape::kQueries, 1);
    b->BeginStep(
        0, {.token_ids = {7}, .positions = {0}, .segments = {{RowKind::kDecode, 0, 1, 0, kPage}}});
    b->Embed(*x);
    const auto kernels_of = [](const std::function<void()>& call) {
      const int64_t before = cuda::emulator::KernelsRun();
      call();
      return cuda::emulator::KernelsRun() - before;
    };
    Counts counts;
    counts.norm = kernels_of([&] { b->Norm(0, NormSite::kBeforeAttention, *x, *h); });
    counts.project = kernels_of([&] { b->ProjectAndCache(0, *h, *q); });
    b->Norm(0, NormSite::kBeforeFfn, *x, *h);
    counts.dense = kernels_of([&] { b->AddDenseFfn(0, *h, *x); });
    b->Norm(1, NormSite::kBeforeFfn, *x, *h);
    counts.shared = kernels_of([&] { b->SharedFfn(1, *h, *x); });
    return counts;
  }

  const ModelWeights weights_;
};

// project: q_a with kv_a, the norm between, q_b, rotation, keys. dense: gate with up, activation,
// down, the sum. Portable kernels add the parts of down's 512 inputs in a launch of its own.
constexpr Counts kFewest = {.norm = 1, .project = 5, .dense = 4, .shared = 3};
constexpr Counts kPortableFewest = {.norm = 1, .project = 5, .dense = 5, .shared = 3};

TEST_F(CudaLaunches, AreAsFewAsCanBeWhereFormatsAgree) {
  EXPECT_EQ(Count(Kernels::kReference, LinearKernel::kFp8), kFewest);
  EXPECT_EQ(Count(Kernels::kHopper, LinearKernel::kFp8), kFewest);
  EXPECT_EQ(Count(Kernels::kPortable, LinearKernel::kFp8), kPortableFewest);
  EXPECT_EQ(Count(Kernels::kPortable, LinearKernel::kNative), kPortableFewest);
  EXPECT_EQ(Count(Kernels::kPortable, LinearKernel::kMarlin4), kPortableFewest);
}

TEST_F(CudaLaunches, APairOfTwoFormatsIsOneMore) {
  const Counts found =
      Count(Kernels::kHopper, LinearKernel::kFp8,
            {{"model.layers.0.self_attn.q_a_proj", LinearKernel::kNative},
             {"model.layers.0.mlp.up_proj", LinearKernel::kMarlin8},
             {"model.layers.1.mlp.shared_experts.gate_proj", LinearKernel::kMarlin4}});
  EXPECT_EQ(found, (Counts{.norm = 1, .project = 6, .dense = 5, .shared = 4}));
}

}  // namespace
}  // namespace tandem::gpu_worker
