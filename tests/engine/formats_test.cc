// What the formats of linear layers do to a trained model: the quiz model's distributions in each
// format against float arithmetic, as KL divergence over every position of some prompts.
//
// How large may it be? A format makes every weight wrong by a relative error that can be measured
// alone. A model whose weights are wrong by *random* errors of that size, multiplied in bf16, tells
// what such errors cost: KL is quadratic in them and does not ask where they come from, unless
// something is broken (a scale of another group, codes in another order, inputs quantized wrongly).
// So the two divergences must be alike. kAlike: both are means of a heavy-tailed quantity over
// correlated positions, known to a factor of about 1.5 each, and quantization errors are not quite
// random.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gpu_worker/backend/host/fp8_linear.h"
#include "gpu_worker/backend/host/marlin_linear.h"
#include "nlohmann/json.hpp"
#include "tests/engine/harness.h"

namespace tandem::gpu_worker {
namespace {

constexpr double kAlike = 3;
constexpr int kPrompts = 24;

// Copies of a model with linear layers of other values.
struct Altered {
  ModelWeights weights;
  std::vector<std::unique_ptr<std::vector<float>>> values;
};

// All linear layers that take a format, and the head.
std::vector<Matrix*> LinearLayers(ModelWeights& weights) {
  std::vector<Matrix*> all = {&weights.lm_head};
  const auto add_ffn = [&](std::optional<FfnWeights>& ffn) {
    if (!ffn.has_value()) return;
    for (Matrix* matrix : {&ffn->gate, &ffn->up, &ffn->down}) all.push_back(matrix);
  };
  for (LayerWeights& layer : weights.layers) {
    AttentionWeights& a = layer.attention;
    for (std::optional<Matrix>* matrix : {&a.q_a, &a.q_b, &a.q}) {
      if (matrix->has_value()) all.push_back(&**matrix);
    }
    for (Matrix* matrix : {&a.kv_a, &a.o}) all.push_back(matrix);
    add_ffn(layer.dense);
    add_ffn(layer.shared);
  }
  return all;
}

std::vector<float> ValuesOf(const Matrix& matrix) {
  std::vector<float> values(matrix.rows() * matrix.cols());
  for (int64_t r = 0; r < matrix.rows(); ++r) {
    DequantizeMatrixRow(matrix, r, values.data() + r * matrix.cols());
  }
  return values;
}

// The matrix as a format keeps it.
std::vector<float> ValuesIn(const LinearFormat& format, const Matrix& matrix) {
  base::ThreadPool pool(1);
  std::vector<float> values(matrix.rows() * matrix.cols());
  const auto read = [&](const auto& linear) {
    for (int64_t r = 0; r < matrix.rows(); ++r) {
      linear.ReadRow(r, values.data() + r * matrix.cols());
    }
  };
  if (format.kernel == LinearKernel::kFp8) {
    read(**Fp8Linear::Create(matrix, pool));
  } else {
    const int bits = format.kernel == LinearKernel::kMarlin8 ? 8 : 4;
    read(**MarlinLinear::Create({bits, format.group}, matrix, pool));
  }
  return values;
}

double SquareSum(const std::vector<float>& a, const std::vector<float>* minus = nullptr) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += std::pow(static_cast<double>(a[i]) - (minus == nullptr ? 0.0f : (*minus)[i]), 2);
  }
  return sum;
}

// Every linear layer's weights plus normal errors as large as those of the format in that layer;
// fp8 makes as large an error again in the inputs. *error: the largest relative error of a layer.
std::unique_ptr<Altered> WithRandomErrors(const ModelWeights& weights, const LinearFormat& format,
                                          double* error) {
  auto altered = std::make_unique<Altered>();
  altered->weights = weights;
  std::mt19937_64 random(17);
  std::normal_distribution<double> normal;
  *error = 0;
  for (Matrix* matrix : LinearLayers(altered->weights)) {
    auto values = std::make_unique<std::vector<float>>(ValuesOf(*matrix));
    const std::vector<float> kept = ValuesIn(format, *matrix);
    const double wrong = SquareSum(kept, values.get());
    *error = std::max(*error, std::sqrt(wrong / SquareSum(*values)));
    const double inputs_too = format.kernel == LinearKernel::kFp8 ? 2 : 1;
    const double deviation = std::sqrt(inputs_too * wrong / static_cast<double>(values->size()));
    for (float& value : *values) value += static_cast<float>(deviation * normal(random));
    matrix->view.dtype = DType::kF32;
    matrix->view.data = reinterpret_cast<const std::byte*>(values->data());
    matrix->view.size_bytes = static_cast<int64_t>(values->size() * sizeof(float));
    altered->values.push_back(std::move(values));
  }
  return altered;
}

class FormatsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto weights = LoadModel(SourcePath("models/quiz"));
    ASSERT_TRUE(weights.ok()) << weights.status();
    weights_ = *std::move(weights);
    std::ifstream file(SourcePath("tests/golden/quiz/prompts.json"));
    prompts_ = nlohmann::json::parse(file)["tokens"].get<std::vector<std::vector<uint32_t>>>();
    prompts_.resize(kPrompts);
    HarnessOptions options;
    exact_ = Logits(weights_, options);
  }

  // Of every position of every prompt.
  LogitRows Logits(const ModelWeights& weights, HarnessOptions options) const {
    options.threads = 2;
    Harness harness(weights, options);
    LogitRows all;
    for (int s = 0; s < kPrompts; ++s) {
      for (auto& row : harness.Run({{s, RowKind::kPrefill, prompts_[s]}})) {
        all.push_back(std::move(row));
      }
    }
    return all;
  }

  LogitRows InFormat(const ModelWeights& weights, const LinearFormat& format) const {
    HarnessOptions options;
    options.precision = Precision::kBf16;
    options.linear = format;
    return Logits(weights, options);
  }

  ModelWeights weights_;
  std::vector<std::vector<uint32_t>> prompts_;
  LogitRows exact_;
};

double LogSum(const std::vector<float>& logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - max);
  return max + std::log(sum);
}

double MeanKl(const LogitRows& p, const LogitRows& q) {
  double total = 0;
  for (size_t t = 0; t < p.size(); ++t) {
    const double lp = LogSum(p[t]), lq = LogSum(q[t]);
    for (size_t i = 0; i < p[t].size(); ++i) {
      total += std::exp(p[t][i] - lp) * ((p[t][i] - lp) - (q[t][i] - lq));
    }
  }
  return total / static_cast<double>(p.size());
}

double Agreement(const LogitRows& p, const LogitRows& q) {
  int same = 0;
  for (size_t t = 0; t < p.size(); ++t) {
    same += std::max_element(p[t].begin(), p[t].end()) - p[t].begin() ==
            std::max_element(q[t].begin(), q[t].end()) - q[t].begin();
  }
  return static_cast<double>(same) / static_cast<double>(p.size());
}

TEST_F(FormatsTest, CostWhatRandomErrorsOfTheirSizeCost) {
  const double rounding = MeanKl(exact_, InFormat(weights_, LinearKernel::kNative));
  std::printf("bf16: KL %.3g nats over %zu positions\n", rounding, exact_.size());
  std::map<LinearKernel, double> least, most;
  for (const LinearFormat& format :
       {LinearFormat(LinearKernel::kMarlin8, 64), LinearFormat(LinearKernel::kMarlin8, 128),
        LinearFormat(LinearKernel::kFp8), LinearFormat(LinearKernel::kMarlin4, 64),
        LinearFormat(LinearKernel::kMarlin4, 128)}) {
    const LogitRows logits = InFormat(weights_, format);
    const double kl = MeanKl(exact_, logits), agreement = Agreement(exact_, logits);
    double error = 0;
    const auto random = WithRandomErrors(weights_, format, &error);
    const double expected = MeanKl(exact_, InFormat(random->weights, LinearKernel::kNative));
    std::printf("%-17s error %.3f: KL %.3g nats, of random errors %.3g; same best token %.1f %%\n",
                NameOf(format).c_str(), error, kl, expected, 100 * agreement);
    EXPECT_LT(kl, expected * kAlike) << NameOf(format);
    EXPECT_GT(kl, expected / kAlike) << NameOf(format);
    EXPECT_GT(agreement, 0.9) << NameOf(format);
    const auto [low, first] = least.try_emplace(format.kernel, kl);
    low->second = std::min(low->second, kl);
    most[format.kernel] = std::max(most[format.kernel], kl);
  }
  // Errors of 0.01, 0.03 and 0.15: far enough apart for the order to be sure.
  EXPECT_GT(least[LinearKernel::kFp8], most[LinearKernel::kMarlin8]);
  EXPECT_GT(least[LinearKernel::kMarlin4], most[LinearKernel::kFp8]);
}

}  // namespace
}  // namespace tandem::gpu_worker
