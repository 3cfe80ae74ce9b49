// Models whose experts come from another source than the rest.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/model/config_write.h"
#include "lib/model/gguf_writer.h"
#include "lib/model/model_weights.h"
#include "lib/model/model_weights_names.h"
#include "lib/model/synth.h"
#include "lib/model/synth_plan.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

ModelConfig SmallV3() {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  const std::string path =
      absl::StrCat(root != nullptr ? root : ".", "/tests/model/configs/deepseek_v3_small.json");
  std::ifstream in(path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  absl::StatusOr<ModelConfig> config = ParseHfConfig(text, path);
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

class ModelSourcesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tandem_sources_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Make(const std::string& format, ContainerKind container, const ModelConfig& config) {
    SynthOptions options;
    options.config = config;
    options.format = *ParseSynthFormat(format, false);
    options.container = container;
    options.out =
        (folder_ / absl::StrCat(format, ++made_, container == ContainerKind::kGguf ? ".gguf" : ""))
            .string();
    const absl::StatusOr<SynthResult> result = SynthesizeModel(options, nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    return options.out;
  }
  std::string Gguf(const std::string& format) {
    return Make(format, ContainerKind::kGguf, SmallV3());
  }
  std::string Folder(const std::string& format) {
    return Make(format, ContainerKind::kSafetensors, SmallV3());
  }

  fs::path folder_;
  int made_ = 0;
};

std::string FileOf(const Matrix& matrix) { return matrix.view.file; }

TEST_F(ModelSourcesTest, EachSideIsReadFromItsOwnSource) {
  const ModelSources sources = {Folder("bf16"), Gguf("q4_K_M")};
  const absl::StatusOr<ModelWeights> model = LoadModel(sources);
  ASSERT_TRUE(model.ok()) << model.status();
  int experts = 0;
  for (const LayerWeights& layer : model->layers) {
    EXPECT_THAT(FileOf(layer.attention.o), StartsWith(sources.dense));
    if (layer.dense) {
      EXPECT_THAT(FileOf(layer.dense->up), StartsWith(sources.dense));
    }
    if (layer.router) {
      EXPECT_THAT(FileOf(*layer.router), StartsWith(sources.dense));
    }
    if (layer.shared) {
      EXPECT_THAT(FileOf(layer.shared->down), StartsWith(sources.dense));
    }
    for (const FfnWeights& expert : layer.experts) {
      EXPECT_EQ(FileOf(expert.gate), sources.experts);
      EXPECT_EQ(expert.up.view.dtype, DType::kQ4_K);
      // The place in the file is found in the source that the experts came from.
      EXPECT_GT(model->experts_source->PlaceOf(expert.down.view).offset, 0);
      ++experts;
    }
  }
  EXPECT_GT(experts, 0);
  EXPECT_THAT(FileOf(model->lm_head), StartsWith(sources.dense));
}

TEST_F(ModelSourcesTest, Fp8ExpertsBesideQuantizedLayersKeepTheirScales) {
  const absl::StatusOr<ModelWeights> model = LoadModel({Gguf("q8_0"), Folder("f8_e4m3")});
  ASSERT_TRUE(model.ok()) << model.status();
  const FfnWeights& expert = model->layers.back().experts.front();
  ASSERT_TRUE(expert.gate.scale_inv.has_value());
  EXPECT_GT(expert.gate.fp8_block_rows, 0);
  std::vector<float> row(expert.gate.cols());
  DequantizeMatrixRow(expert.gate, 0, row.data());
}

TEST_F(ModelSourcesTest, TheDigestCoversBothSides) {
  const std::string bf16 = Folder("bf16"), q4 = Gguf("q4_K_M"), q8 = Gguf("q8_0");
  const auto digest = [](const std::string& dense, const std::string& experts) {
    const absl::StatusOr<ModelWeights> model = LoadModel({dense, experts});
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? model->digest : "";
  };
  const std::string mixed = digest(bf16, q4);
  EXPECT_EQ(mixed.size(), 64u);
  EXPECT_EQ(mixed, digest(bf16, q4));
  EXPECT_NE(mixed, digest(bf16, q8));
  EXPECT_NE(mixed, digest(q8, q4));
  EXPECT_NE(mixed, digest(q4, bf16));
  EXPECT_EQ(digest(q4, q4), LoadModel(q4)->digest) << "one source is what it was";
  const std::string link = (folder_ / "link.gguf").string();
  fs::create_symlink(q4, link);
  EXPECT_EQ(digest(q4, link), LoadModel(q4)->digest) << "by another name, too";
  fs::copy(q4, folder_ / "copy.gguf");
  EXPECT_EQ(mixed, digest(bf16, (folder_ / "copy.gguf").string())) << "places do not count";
}

// Half a model, all zeros: its routed experts, or everything else. `old_file`: without the key that
// names the scoring function.
void WriteHalf(const std::string& path, bool experts, bool old_file = false) {
  SynthOptions options;
  options.config = SmallV3();
  options.config.num_nextn_predict_layers = 0;
  options.config.fp8_block_rows = options.config.fp8_block_cols = 0;
  options.format = *ParseSynthFormat("q8_0", false);
  options.container = ContainerKind::kGguf;
  std::vector<TensorPlan> plans;
  for (const SynthTensor& tensor : PlanSynthTensors(options)) {
    if (IsRoutedExpertName(options.container, tensor.plan.name) == experts)
      plans.push_back(tensor.plan);
  }
  ASSERT_FALSE(plans.empty());
  GgufKeyValues keys = *GgufConfigKeys(options.config, options.fused_kv_b);
  if (old_file) {
    std::erase_if(
        keys, [](const auto& entry) { return absl::EndsWith(entry.first, ".expert_gating_func"); });
  }
  const auto layout = LayOutGguf(keys, plans);
  ASSERT_TRUE(layout.ok()) << layout.status();
  auto file = WeightFileWriter::Create(path, *layout, false);
  ASSERT_TRUE(file.ok()) << file.status();
  for (const int64_t bytes : layout->tensor_bytes)
    ASSERT_TRUE(file->Append(std::vector<std::byte>(bytes)).ok());
  ASSERT_TRUE(file->Finish().ok());
}

TEST_F(ModelSourcesTest, EachFileMayHoldItsHalfOnly) {
  const std::string dense = (folder_ / "dense.gguf").string();
  const std::string experts = (folder_ / "experts.gguf").string();
  WriteHalf(dense, false);
  WriteHalf(experts, true);
  const absl::StatusOr<ModelWeights> model = LoadModel({dense, experts});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(FileOf(model->layers.back().experts.back().up), experts);
  EXPECT_FALSE(LoadModel({experts, dense}).ok()) << "the wrong way round";
  const absl::StatusOr<ModelWeights> alone = LoadModel(dense);
  ASSERT_FALSE(alone.ok());
  EXPECT_THAT(std::string(alone.status().message()),
              HasSubstr("blk.1.ffn_gate_exps.weight [16, 256, 256] is missing"));
  EXPECT_FALSE(LoadModel(experts).ok());
}

TEST_F(ModelSourcesTest, RoutingIsThatOfTheDenseSource) {
  const std::string dense = (folder_ / "dense.gguf").string();
  const std::string experts = (folder_ / "experts.gguf").string();
  WriteHalf(dense, false, /*old_file=*/true);
  WriteHalf(experts, true);
  const absl::StatusOr<ModelWeights> assumed = LoadModel({dense, experts});
  ASSERT_TRUE(assumed.ok()) << assumed.status();
  EXPECT_EQ(assumed->config.scoring_func, ScoringFunc::kSigmoid);
  EXPECT_FALSE(assumed->config.assumptions.empty());
  const absl::StatusOr<ModelWeights> as_file =
      LoadModel({dense, experts}, {.routing = OldFileRouting::kAsFile});
  ASSERT_TRUE(as_file.ok()) << as_file.status();
  EXPECT_EQ(as_file->config.scoring_func, ScoringFunc::kSoftmax);
  EXPECT_NE(as_file->digest, assumed->digest);
}

TEST_F(ModelSourcesTest, TheRopeLayoutIsThatOfTheDenseSource) {
  ModelConfig config = SmallV3();
  config.rope_layout = RopeLayout::kSplitHalves;
  const std::string dense = Make("bf16", ContainerKind::kSafetensors, config);
  const absl::StatusOr<ModelWeights> model = LoadModel({dense, Gguf("q8_0")});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->config.rope_layout, RopeLayout::kSplitHalves);
}

TEST(RoutedExpertNamesTest, OfBothContainers) {
  constexpr ContainerKind kHf = ContainerKind::kSafetensors, kGguf = ContainerKind::kGguf;
  EXPECT_TRUE(IsRoutedExpertName(kHf, "model.layers.3.mlp.experts.7.up_proj.weight"));
  EXPECT_TRUE(IsRoutedExpertName(kHf, "model.layers.3.mlp.experts.7.up_proj.weight_scale_inv"));
  EXPECT_FALSE(IsRoutedExpertName(kHf, "model.layers.3.mlp.shared_experts.up_proj.weight"));
  EXPECT_FALSE(IsRoutedExpertName(kHf, "model.layers.3.mlp.gate.weight"));
  EXPECT_TRUE(IsRoutedExpertName(kGguf, "blk.3.ffn_down_exps.weight"));
  EXPECT_TRUE(IsRoutedExpertName(kGguf, "blk.3.ffn_down.12.weight"));
  EXPECT_FALSE(IsRoutedExpertName(kGguf, "blk.3.ffn_down.weight"));
  EXPECT_FALSE(IsRoutedExpertName(kGguf, "blk.3.ffn_down_shexp.weight"));
  EXPECT_FALSE(IsRoutedExpertName(kGguf, "blk.3.exp_probs_b.bias"));
  EXPECT_FALSE(IsRoutedExpertName(kGguf, "output.weight"));
}

TEST_F(ModelSourcesTest, DifferentNetworksAreRefusedByTheFirstField) {
  const std::string dense = Folder("bf16");
  const auto refusal = [&](const ModelConfig& config) {
    const std::string experts = Make("q8_0", ContainerKind::kGguf, config);
    const absl::StatusOr<ModelWeights> model = LoadModel({dense, experts});
    EXPECT_FALSE(model.ok());
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(experts));
    return std::string(model.status().message());
  };
  ModelConfig other = SmallV3();
  other.n_routed_experts *= 2;
  EXPECT_THAT(refusal(other),
              AllOf(HasSubstr("different networks: expected n_routed_experts"),
                    HasSubstr(absl::StrCat("found ", other.n_routed_experts, " in "))));
  other = SmallV3();
  other.routed_scaling_factor += 1;
  EXPECT_THAT(refusal(other), HasSubstr("expected routed_scaling_factor"));
  other = SmallV3();
  other.num_hidden_layers += 1;
  EXPECT_THAT(refusal(other), HasSubstr("expected num_hidden_layers"));
  other = SmallV3();
  other.max_position_embeddings *= 2;
  const std::string longer = Make("q8_0", ContainerKind::kGguf, other);
  EXPECT_TRUE(LoadModel({dense, longer}).ok()) << "the context length is the dense source's";
}

}  // namespace
}  // namespace tandem
