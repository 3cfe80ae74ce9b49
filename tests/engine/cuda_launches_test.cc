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

// Of one call on one row that is decoded, in layers 0 (dense) and 1 (experts) of the shipped model;
// experts: of all calls of layer 1.
struct Counts {
  int64_t norm, project, dense, shared, experts;
  bool operator==(const Counts&) const = default;
};

void PrintTo(const Counts& c, std::ostream* os) {
  *os << c.norm << " " << c.project << " " << c.dense << " " << c.shared << " " << c.experts;
}

int64_t KernelsOf(const std::function<void()>& call) {
  const int64_t before = cuda::emulator::KernelsRun();
  call();
  return cuda::emulator::KernelsRun() - before;
}

class CudaLaunches : public testing::Test {
 protected:
  CudaLaunches() : weights_(LoadModel(SourcePath("models/quiz")).value()) {}

  void Make(Kernels kernels, LinearFormat linear,
            const std::map<std::string, LinearFormat>& linear_of = {}) {
    cuda::CudaBackendOptions options;
    options.kernels = kernels;
    options.formats.linear = linear;
    options.formats.linear_of = linear_of;
    options.kv_pages = 1;
    options.rows_max = 1;
    options.graphs = false;
    backend_ = cuda::MakeCudaBackend(weights_, options).value();
    backend_->BeginStep(
        0, {.token_ids = {7}, .positions = {0}, .segments = {{RowKind::kDecode, 0, 1, 0, kPage}}});
  }

  std::unique_ptr<DeviceRows> Rows(RowShape shape = RowShape::kHidden) const {
    return backend_->NewRows(shape, 1);
  }
  std::unique_ptr<DeviceRows> Embedded() const {
    auto x = Rows();
    backend_->Embed(*x);
    return x;
  }

  Counts Count(Kernels kernels, LinearFormat linear,
               const std::map<std::string, LinearFormat>& linear_of = {}) {
    Make(kernels, linear, linear_of);
    Backend& b = *backend_;
    const auto x = Embedded(), h = Rows(), shared = Rows();
    const auto q = Rows(RowShape::kQueries), attended = Rows(RowShape::kAttended);
    Counts counts;
    counts.norm = KernelsOf([&] { b.Norm(0, NormSite::kBeforeAttention, *x, *h); });
    counts.project = KernelsOf([&] { b.ProjectAndCache(0, *h, *q); });
    b.Norm(0, NormSite::kBeforeFfn, *x, *h);
    counts.dense = KernelsOf([&] { b.AddDenseFfn(0, *h, *x); });
    counts.experts = KernelsOf([&] {
      b.Norm(1, NormSite::kBeforeAttention, *x, *h);
      b.ProjectAndCache(1, *h, *q);
      b.Attend(1, *q, *attended);
      b.AddAttentionOutput(1, *attended, *x);
      b.Norm(1, NormSite::kBeforeFfn, *x, *h);
      b.StartRoute(1, *h, nullptr);
      b.StartReadRows(*h);
      counts.shared = KernelsOf([&] { b.SharedFfn(1, *h, *shared); });
      RouterChoice choice;
      b.FinishRoute(&choice);
      b.AddMoe(*shared, *x);
    });
    return counts;
  }

  // The row's bytes.
  std::string Read(const DeviceRows& x) {
    backend_->StartReadRows(x);
    RouterChoice choice;
    backend_->FinishRoute(&choice);
    return {reinterpret_cast<const char*>(backend_->WireRows(0).data()),
            backend_->WireRows(0).size()};
  }

  const ModelWeights weights_;
  std::unique_ptr<Backend> backend_;
};

// project: q_a with kv_a, the norm between, q_b, rotation, keys. dense: gate with up, activation,
// down, the sum. experts: project and shared, two norms, absorbed queries and their rope part,
// attention in two parts, values in two, o with its quantization and the sum, the router in two,
// the sum with the experts'.
constexpr Counts kFp8Hopper = {.norm = 1, .project = 5, .dense = 4, .shared = 3, .experts = 22};
// Portable kernels add the parts of the 512 inputs of down and o in a launch of their own.
constexpr Counts kFp8Portable = {.norm = 1, .project = 5, .dense = 5, .shared = 3, .experts = 23};
constexpr Counts kOthersPortable = {
    .norm = 1, .project = 5, .dense = 5, .shared = 3, .experts = 22};

TEST_F(CudaLaunches, AreAsFewAsCanBeWhereFormatsAgree) {
  EXPECT_EQ(Count(Kernels::kHopper, LinearKernel::kFp8), kFp8Hopper);
  EXPECT_EQ(Count(Kernels::kPortable, LinearKernel::kFp8), kFp8Portable);
  EXPECT_EQ(Count(Kernels::kPortable, LinearKernel::kNative), kOthersPortable);
  EXPECT_EQ(Count(Kernels::kPortable, LinearKernel::kMarlin4), kOthersPortable);
}

TEST_F(CudaLaunches, APairOfTwoFormatsIsOneMore) {
  const Counts found =
      Count(Kernels::kHopper, LinearKernel::kFp8,
            {{"model.layers.0.self_attn.q_a_proj", LinearKernel::kNative},
             {"model.layers.0.mlp.up_proj", LinearKernel::kMarlin8},
             {"model.layers.1.mlp.shared_experts.gate_proj", LinearKernel::kMarlin4}});
  EXPECT_EQ(found, (Counts{.norm = 1, .project = 6, .dense = 5, .shared = 4, .experts = 23}));
}

// What a norm has quantized serves the rows it has written, until they or it change.
TEST_F(CudaLaunches, RowsThatNoNormHasJustWrittenAreQuantizedByWhoReadsThem) {
  for (const Kernels kernels : {Kernels::kPortable, Kernels::kHopper}) {
    Make(kernels, LinearKernel::kFp8);
    const auto x = Embedded(), other_x = Embedded(), h = Rows(), same_h = Rows();
    backend_->Norm(0, NormSite::kBeforeFfn, *x, *h);
    backend_->Norm(0, NormSite::kBeforeFfn, *x, *same_h);
    const int64_t apart = KernelsOf([&] { backend_->AddDenseFfn(0, *h, *x); });
    const int64_t at_once = KernelsOf([&] { backend_->AddDenseFfn(0, *same_h, *other_x); });
    EXPECT_EQ(apart, at_once + 1);
    EXPECT_EQ(Read(*x), Read(*other_x));

    const auto embedded = Embedded();
    backend_->Norm(0, NormSite::kBeforeFfn, *x, *h);
    backend_->Embed(*h);  // no longer what was quantized
    const auto with_h = Embedded(), with_embedded = Embedded();
    backend_->AddDenseFfn(0, *h, *with_h);
    backend_->AddDenseFfn(0, *embedded, *with_embedded);
    EXPECT_EQ(Read(*with_h), Read(*with_embedded));
  }
}

}  // namespace
}  // namespace tandem::gpu_worker
