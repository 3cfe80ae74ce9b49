// Each layer of the model that ships gets the format asked for it, and no other layer does. What
// tells them apart is their size in memory.
#include "gpu_worker/backend/host/host_weights.h"

#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "lib/base/log.h"

namespace tandem::gpu_worker {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Values and scales of a layer whose sides are multiples of its blocks or groups.
int64_t ExpectedBytes(const LinearFormat& format, const HostLinear& linear) {
  const int64_t out = linear.outputs(), in = linear.inputs();
  switch (format.kernel) {
    case LinearKernel::kFp8:
      return out * in + CeilDiv(out, 128) * CeilDiv(in, 128) * 4;
    case LinearKernel::kMarlin8:
      return out * in + out * (in / format.group) * 2;
    case LinearKernel::kMarlin4:
      return out * in / 2 + out * (in / format.group) * 2;
    default:
      return out * in * 2;
  }
}

class HostWeightsTest : public testing::Test {
 protected:
  void SetUp() override {
    base::InitLogging("test", base::LogLevel::kError, false);
    const char* root = std::getenv("TANDEM_SOURCE_DIR");
    auto model = LoadModel(absl::StrCat(root != nullptr ? root : ".", "/models/quiz"));
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = std::make_unique<ModelWeights>(*std::move(model));
  }
  HostWeights Load(const HostBackendOptions& options) {
    auto weights = LoadHostWeights(*model_, options, pool_);
    EXPECT_TRUE(weights.ok()) << weights.status();
    return *std::move(weights);
  }

  std::unique_ptr<ModelWeights> model_;
  base::ThreadPool pool_{1};
};

void Expect(const HostBackendOptions& options, const std::string& module,
            const HostLinear& linear) {
  EXPECT_EQ(linear.size_bytes(), ExpectedBytes(options.FormatOf(module), linear)) << module;
}

TEST_F(HostWeightsTest, EachLayerHasItsOwnFormat) {
  HostBackendOptions options;
  options.linear = LinearKernel::kFp8;
  options.linear_of = {{"model.layers.0.self_attn.q_a_proj", LinearKernel::kNative},
                       {"model.layers.1.self_attn.q_b_proj", {LinearKernel::kMarlin8, 128}},
                       {"model.layers.1.self_attn.kv_a_proj_with_mqa", LinearKernel::kMarlin4},
                       {"model.layers.2.self_attn.o_proj", {LinearKernel::kMarlin4, 64}},
                       {"model.layers.0.mlp.up_proj", LinearKernel::kNative},
                       {"model.layers.3.mlp.shared_experts.gate_proj", LinearKernel::kMarlin8},
                       {"model.layers.2.mlp.shared_experts.down_proj", LinearKernel::kNative},
                       {"lm_head", {LinearKernel::kMarlin8, 64}}};
  const HostWeights weights = Load(options);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const std::string layer = absl::StrCat("model.layers.", i, ".");
    const HostLayer& w = weights.layers[i];
    Expect(options, layer + "self_attn.q_a_proj", w.q_a);
    Expect(options, layer + "self_attn.q_b_proj", w.q_b);
    Expect(options, layer + "self_attn.kv_a_proj_with_mqa", w.kv_a);
    Expect(options, layer + "self_attn.o_proj", w.o);
    const std::string ffn = layer + (w.dense ? "mlp." : "mlp.shared_experts.");
    ASSERT_TRUE(w.dense || w.shared);
    Expect(options, ffn + "gate_proj", (w.dense ? *w.dense : *w.shared).gate);
    Expect(options, ffn + "up_proj", (w.dense ? *w.dense : *w.shared).up);
    Expect(options, ffn + "down_proj", (w.dense ? *w.dense : *w.shared).down);
    if (!w.router.empty()) {
      EXPECT_EQ(w.router.size_bytes(), w.router.outputs() * w.router.inputs() * 4) << "always f32";
    }
    for (const HostLinear& head : w.heads.keys) {
      EXPECT_EQ(head.size_bytes(), head.outputs() * head.inputs() * 2) << "always bf16";
    }
  }
  Expect(options, "lm_head", weights.lm_head);
  EXPECT_EQ(weights.embedding.size_bytes(),
            weights.embedding.outputs() * weights.embedding.inputs() * 2);
}

TEST_F(HostWeightsTest, ATiedHeadIsACopyOnlyInAnotherFormat) {
  model_->lm_head = model_->embedding;
  HostBackendOptions options;
  EXPECT_TRUE(Load(options).lm_head.empty());
  options.linear_of = {{"lm_head", LinearKernel::kFp8}};
  const HostWeights weights = Load(options);
  EXPECT_FALSE(weights.lm_head.empty());
  Expect(options, "lm_head", weights.head());
}

TEST_F(HostWeightsTest, OneLayerAloneCanNeedBf16) {
  HostBackendOptions options;
  options.precision = Precision::kF32;
  options.linear_of = {{"lm_head", LinearKernel::kFp8}};
  const auto backend = MakeHostBackend(*model_, options);
  ASSERT_FALSE(backend.ok());
  EXPECT_EQ(std::string(backend.status().message()),
            "linear layers in format fp8 need precision bf16, found f32");
}

}  // namespace
}  // namespace tandem::gpu_worker
