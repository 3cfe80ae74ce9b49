// The formats of the GPU worker's linear layers against torch, transformers and vLLM; see MANIFEST.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/host/fp8_linear.h"
#include "gtest/gtest.h"
#include "lib/kernels/fp8_linear.h"
#include "lib/kernels/kernel_table.h"
#include "lib/kernels/marlin_pack.h"
#include "lib/model/model_weights.h"
#include "lib/tensor/codec.h"
#include "lib/tensor/golden_test_support.h"
#include "nlohmann/json.hpp"

namespace tandem {
namespace {

class FormatsGolden : public testing::Test {
 protected:
  void SetUp() override {
    const char* root = std::getenv("TANDEM_SOURCE_DIR");
    auto source = TensorSource::Open(std::string(root != nullptr ? root : ".") +
                                     "/tests/golden/formats/formats.safetensors");
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = *std::move(source);
  }

  const TensorView& Find(const std::string& name) const {
    const TensorView* view = source_->Find(name);
    if (view == nullptr) {
      ADD_FAILURE() << "no tensor " << name;
      std::abort();
    }
    return *view;
  }

  template <typename T>
  std::vector<T> Read(const std::string& name) const {
    const TensorView& view = Find(name);
    std::vector<T> values(view.size_bytes / sizeof(T));
    std::memcpy(values.data(), view.data, values.size() * sizeof(T));
    return values;
  }

  Matrix Fp8Matrix(const std::string& name) const {
    return {Find(name + ".weight"), Find(name + ".weight_scale_inv"), 128, 128};
  }

  std::shared_ptr<const TensorSource> source_;
};

TEST_F(FormatsGolden, ConversionToE4m3IsTorchsForEveryBf16Number) {
  const auto torch = Read<uint8_t>("e4m3.of_bf16");
  ASSERT_EQ(torch.size(), 32768u);
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = BF16ToF32(static_cast<uint16_t>(bits));
    const auto sign = static_cast<uint8_t>(bits >> 8 & 0x80);
    ASSERT_EQ(F32ToF8E4M3(value), torch[bits & 0x7fff] | sign) << value;
  }
}

TEST_F(FormatsGolden, WeightsAreTransformersDequantization) {
  base::ThreadPool pool(2);
  for (const std::string name : {"whole", "ragged"}) {
    const Matrix matrix = Fp8Matrix(name);
    const auto linear = gpu_worker::Fp8Linear::Create(matrix, pool);
    ASSERT_TRUE(linear.ok()) << linear.status();
    const auto want = Read<float>(name + ".dequantized");
    std::vector<float> row(matrix.cols());
    for (int64_t r = 0; r < matrix.rows(); ++r) {
      (*linear)->ReadRow(r, row.data());
      ASSERT_EQ(std::memcmp(row.data(), &want[r * matrix.cols()], row.size() * 4), 0)
          << name << " row " << r;
    }
  }
}

TEST_F(FormatsGolden, InputsAreQuantizedAsTorchDoes) {
  for (const std::string name : {"whole", "ragged"}) {
    const auto x = Read<float>(name + ".x");
    const auto codes = Read<uint8_t>(name + ".x_codes");
    const auto scales = Read<float>(name + ".x_scales");
    const int64_t cols = Find(name + ".x").cols(), blocks = kernels::Fp8Blocks(cols);
    for (const kernels::KernelTable* table : kernels::SupportedTables()) {
      for (size_t r = 0; r < x.size() / cols; ++r) {
        std::vector<uint16_t> numbers(cols);
        std::vector<float> found(blocks);
        table->quantize_fp8(&x[r * cols], cols, numbers.data(), found.data());
        for (int64_t b = 0; b < blocks; ++b) EXPECT_EQ(found[b], scales[r * blocks + b]);
        for (int64_t k = 0; k < cols; ++k) {
          ASSERT_EQ(BF16ToF32(numbers[k]), F8E4M3ToF32(codes[r * cols + k]))
              << table->isa << " " << name << " row " << r << " column " << k;
        }
      }
    }
  }
}

// Roundings as counted in fp8_linear_test.cc, one more for y itself.
TEST_F(FormatsGolden, ProductsAreFloat64sWithinTheBound) {
  base::ThreadPool pool(1);
  for (const std::string name : {"whole", "ragged"}) {
    const Matrix matrix = Fp8Matrix(name);
    const auto linear = gpu_worker::Fp8Linear::Create(matrix, pool);
    ASSERT_TRUE(linear.ok()) << linear.status();
    const auto x = Read<float>(name + ".x"), want = Read<float>(name + ".y"),
               magnitude = Read<float>(name + ".y_magnitude");
    const int64_t rows = static_cast<int64_t>(x.size()) / matrix.cols();
    std::vector<float> y(rows * matrix.rows());
    gpu_worker::Fp8Inputs inputs;
    (*linear)->Apply(pool, inputs, x.data(), matrix.cols(), rows, y.data(), matrix.rows());
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_NEAR(y[i], want[i], (8 + 1 + 2 + 4 + 1) * std::exp2(-24) * magnitude[i]) << name;
    }
  }
}

// A whole model as DeepSeek ships its own, through config, names and block sizes: every matrix has
// the values transformers gives it, as the codec reads it and as the worker's fp8 layers keep it.
TEST(DeepseekFp8Golden, EveryMatrixIsTransformersDequantization) {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  const std::string folder =
      std::string(root != nullptr ? root : ".") + "/tests/golden/formats/deepseek_fp8";
  const auto weights = LoadModel(folder);
  ASSERT_TRUE(weights.ok()) << weights.status();
  std::ifstream file(folder + "/expected.json");
  const nlohmann::json expected = nlohmann::json::parse(file, nullptr, false);
  ASSERT_TRUE(expected.is_object());
  size_t checked = 0;
  base::ThreadPool pool(1);
  const auto check = [&](const Matrix& matrix) {
    std::string name(matrix.view.name);
    name.resize(name.size() - std::string(".weight").size());
    const auto linear = gpu_worker::Fp8Linear::Create(matrix, pool);
    ASSERT_TRUE(linear.ok()) << linear.status();
    std::vector<float> read(matrix.rows() * matrix.cols()), kept(read.size());
    for (int64_t r = 0; r < matrix.rows(); ++r) {
      DequantizeMatrixRow(matrix, r, &read[r * matrix.cols()]);
      (*linear)->ReadRow(r, &kept[r * matrix.cols()]);
    }
    EXPECT_EQ(Sha256(std::span<const float>(read)), expected.value(name, "missing")) << name;
    EXPECT_EQ(Sha256(std::span<const float>(kept)), expected.value(name, "missing")) << name;
    ++checked;
  };
  const auto check_ffn = [&](const FfnWeights& ffn) {
    for (const Matrix* matrix : {&ffn.gate, &ffn.up, &ffn.down}) check(*matrix);
  };
  for (const LayerWeights& layer : weights->layers) {
    const AttentionWeights& a = layer.attention;
    ASSERT_TRUE(a.q_a.has_value() && a.q_b.has_value() && a.kv_b.has_value());
    for (const Matrix* matrix : {&*a.q_a, &*a.q_b, &a.kv_a, &*a.kv_b, &a.o}) check(*matrix);
    if (layer.dense.has_value()) check_ffn(*layer.dense);
    if (layer.shared.has_value()) check_ffn(*layer.shared);
    for (const FfnWeights& expert : layer.experts) check_ffn(expert);
  }
  EXPECT_EQ(checked, expected.size());
}

// The generator of make_formats.py.
std::vector<uint32_t> Lcg(int64_t count, int bits) {
  std::vector<uint32_t> values(count);
  uint32_t state = 1;
  for (uint32_t& value : values) {
    state = state * 1664525u + 1013904223u;
    value = state >> (32 - bits);
  }
  return values;
}

TEST_F(FormatsGolden, MarlinPackingIsVllms) {
  struct Shape {
    int bits, group;
    int64_t inputs, outputs;
  };
  for (const Shape& s : {Shape{4, 128, 256, 128}, Shape{4, 64, 128, 64}, Shape{8, 128, 256, 64},
                         Shape{8, 64, 128, 192}, Shape{4, 128, 128, 64}}) {
    const std::string name =
        absl::StrCat("marlin", s.bits, ".", s.group, ".", s.inputs, ".", s.outputs);
    const auto codes = Lcg(s.outputs * s.inputs, s.bits);
    const auto scales = Lcg(s.outputs * s.inputs / s.group, 15);
    const kernels::MarlinForm form{s.bits, s.group};
    const kernels::MarlinPacked packed = kernels::PackMarlin(
        form, {codes.begin(), codes.end()}, {scales.begin(), scales.end()}, s.outputs, s.inputs);
    EXPECT_EQ(packed.words, Read<uint32_t>(name + ".words")) << name;
    const std::vector<uint32_t> moved(packed.scales.begin(), packed.scales.end());
    EXPECT_EQ(moved, Read<uint32_t>(name + ".scales")) << name;
  }
}

}  // namespace
}  // namespace tandem
