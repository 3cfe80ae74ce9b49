#include "lib/model/model_weights.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/model/config_fields.h"
#include "lib/model/config_write.h"
#include "lib/model/gguf_writer.h"
#include "lib/model/model_weights_digest.h"
#include "lib/model/safetensors_writer.h"
#include "lib/model/synth.h"
#include "lib/model/synth_plan.h"
#include "lib/model/synth_tokenizer.h"
#include "lib/tensor/codec.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kFamilies[] = {"deepseek_v3", "deepseek_v2_lite", "deepseek_v2", "kimi_k2",
                                     "moonlight"};

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

ModelConfig FamilyConfig(const std::string& family) {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  const std::string path =
      std::string(root != nullptr ? root : ".") + "/tests/model/configs/" + family + "_small.json";
  absl::StatusOr<ModelConfig> config = ParseHfConfig(ReadFile(path), path);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value();
}

// A folder of this test's own, removed at the end.
class ModelWeightsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tandem_weights_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }

  SynthOptions Options(const std::string& family, const std::string& format,
                       ContainerKind container) {
    SynthOptions options;
    options.config = FamilyConfig(family);
    options.format = *ParseSynthFormat(format, false);
    options.container = container;
    options.out = Path(family + "-" + format + (container == ContainerKind::kGguf ? ".gguf" : ""));
    options.overwrite = true;
    return options;
  }

  ModelWeights Load(const SynthOptions& options) {
    const absl::StatusOr<SynthResult> made = SynthesizeModel(options, nullptr);
    EXPECT_TRUE(made.ok()) << made.status();
    absl::StatusOr<ModelWeights> model = LoadModel(options.out);
    EXPECT_TRUE(model.ok()) << model.status();
    return std::move(model).value();
  }

  fs::path folder_;
};

// The network that was asked for, less what the container cannot tell.
std::string ExpectedText(ModelConfig config, bool fp8) {
  config.num_nextn_predict_layers = 0;
  if (!fp8) config.fp8_block_rows = config.fp8_block_cols = 0;
  return CanonicalConfigText(config);
}

void ExpectComplete(const ModelWeights& model) {
  const ModelConfig& c = model.config;
  ASSERT_EQ(static_cast<int64_t>(model.layers.size()), c.num_hidden_layers);
  EXPECT_EQ(model.digest.size(), 64u);
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const LayerWeights& layer = model.layers[i];
    const AttentionWeights& a = layer.attention;
    EXPECT_EQ(a.q.has_value(), c.q_lora_rank == 0);
    EXPECT_NE(a.kv_b.has_value(), a.k_b.has_value());
    EXPECT_EQ(a.k_b.has_value(), a.v_b.has_value());
    EXPECT_EQ(layer.dense.has_value(), !c.IsMoeLayer(i));
    EXPECT_EQ(layer.router.has_value(), c.IsMoeLayer(i));
    EXPECT_EQ(layer.router_bias.has_value(),
              c.IsMoeLayer(i) && c.topk_method == TopkMethod::kNoAuxTc);
    EXPECT_EQ(static_cast<int64_t>(layer.experts.size()), c.IsMoeLayer(i) ? c.n_routed_experts : 0);
    for (const FfnWeights& expert : layer.experts) {
      EXPECT_EQ(expert.gate.rows(), c.moe_intermediate_size);
      EXPECT_EQ(expert.up.cols(), c.hidden_size);
      EXPECT_EQ(expert.down.rows(), c.hidden_size);
      EXPECT_EQ(PlacedBytes(expert), PlacedBytes(layer.experts[0]));
    }
    if (c.IsMoeLayer(i)) {
      EXPECT_EQ(layer.shared->down.cols(), c.n_shared_experts * c.moe_intermediate_size);
    }
  }
}

TEST_F(ModelWeightsTest, LoadsEveryFamilyFromGguf) {
  for (const char* family : kFamilies) {
    for (const char* format : {"q4_K_M", "iq1_s", "q8_0"}) {
      SCOPED_TRACE(std::string(family) + " " + format);
      const SynthOptions options = Options(family, format, ContainerKind::kGguf);
      const ModelWeights model = Load(options);
      EXPECT_EQ(CanonicalConfigText(model.config), ExpectedText(options.config, false));
      EXPECT_TRUE(model.config.assumptions.empty());
      ExpectComplete(model);
      fs::remove(options.out);
    }
  }
}

TEST_F(ModelWeightsTest, LoadsEveryFamilyFromSafetensors) {
  for (const char* family : kFamilies) {
    for (const char* format : {"bf16", "f8_e4m3"}) {
      SCOPED_TRACE(std::string(family) + " " + format);
      SynthOptions options = Options(family, format, ContainerKind::kSafetensors);
      if (std::string(format) == "f8_e4m3")
        options.config.fp8_block_rows = options.config.fp8_block_cols = 128;
      const ModelWeights model = Load(options);
      EXPECT_EQ(
          CanonicalConfigText(model.config),
          ExpectedText(options.config, options.config.fp8_block_rows > 0 && format[0] == 'f'));
      ExpectComplete(model);
      EXPECT_EQ(model.layers[0].dense->gate.scale_inv.has_value(), format[0] == 'f');
      fs::remove_all(options.out);
    }
  }
}

std::vector<float> Row(const Matrix& matrix, int64_t row) {
  std::vector<float> values(matrix.cols());
  DequantizeMatrixRow(matrix, row, values.data());
  return values;
}

void ExpectEqualRows(const Matrix& a, const Matrix& b) {
  ASSERT_EQ(a.rows(), b.rows());
  for (const int64_t row : {int64_t{0}, a.rows() / 2, a.rows() - 1})
    EXPECT_EQ(Row(a, row), Row(b, row)) << a.view.name;
}

void ExpectEqualFfn(const FfnWeights& a, const FfnWeights& b) {
  ExpectEqualRows(a.gate, b.gate);
  ExpectEqualRows(a.up, b.up);
  ExpectEqualRows(a.down, b.down);
}

void ExpectEqualModels(const ModelWeights& a, const ModelWeights& b) {
  ExpectEqualRows(a.embedding, b.embedding);
  ExpectEqualRows(a.lm_head, b.lm_head);
  ExpectEqualRows(a.layers[0].attention.kv_a, b.layers[0].attention.kv_a);
  const LayerWeights& x = a.layers.back();
  const LayerWeights& y = b.layers.back();
  ExpectEqualRows(*x.router, *y.router);
  ExpectEqualFfn(*x.shared, *y.shared);
  for (size_t e = 0; e < x.experts.size(); ++e) ExpectEqualFfn(x.experts[e], y.experts[e]);
}

TEST_F(ModelWeightsTest, LayoutsOfOneModelHoldTheSameNumbers) {
  const ModelWeights usual = Load(Options("deepseek_v3", "bf16", ContainerKind::kSafetensors));
  for (const ExpertLayout layout :
       {ExpertLayout::kUsual, ExpertLayout::kSeparate, ExpertLayout::kStackedGateUp}) {
    for (const ContainerKind container : {ContainerKind::kGguf, ContainerKind::kSafetensors}) {
      SynthOptions options = Options("deepseek_v3", "bf16", container);
      options.experts = layout;
      options.fused_kv_b = container == ContainerKind::kGguf && layout == ExpertLayout::kSeparate;
      options.out += ".other";
      if (container == ContainerKind::kGguf) options.out += ".gguf";
      const ModelWeights other = Load(options);
      ExpectEqualModels(usual, other);
      ExpectComplete(other);
    }
  }
}

TEST_F(ModelWeightsTest, SplitKvBIsTheFusedOne) {
  const ModelWeights fused = Load(Options("deepseek_v3", "bf16", ContainerKind::kSafetensors));
  const ModelWeights split = Load(Options("deepseek_v3", "bf16", ContainerKind::kGguf));
  const ModelConfig& c = fused.config;
  const int64_t nope = c.qk_nope_head_dim, v = c.v_head_dim, head = 2;
  const Matrix& kv_b = *fused.layers[1].attention.kv_b;
  Matrix k_b, v_b;
  k_b.view = split.layers[1].attention.k_b->Slice(head);
  v_b.view = split.layers[1].attention.v_b->Slice(head);
  EXPECT_EQ(Row(v_b, 5), Row(kv_b, head * (nope + v) + nope + 5));
  const std::vector<float> k_row = Row(kv_b, head * (nope + v) + 7);
  for (int64_t l = 0; l < c.kv_lora_rank; ++l) EXPECT_EQ(Row(k_b, l)[7], k_row[l]);
}

TEST_F(ModelWeightsTest, StackedFp8ExpertsTakeTheirScalesAlong) {
  SynthOptions options = Options("deepseek_v3", "f8_e4m3", ContainerKind::kSafetensors);
  const ModelWeights separate = Load(options);
  options.experts = ExpertLayout::kStackedGateUp;
  options.out += "-stacked";
  const ModelWeights stacked = Load(options);
  ExpectEqualModels(separate, stacked);
  // 352 rows of 128-row blocks: the third block would hold gate and up rows.
  SynthOptions ragged = Options("moonlight", "f8_e4m3", ContainerKind::kSafetensors);
  ragged.experts = ExpertLayout::kStackedGateUp;
  ASSERT_TRUE(SynthesizeModel(ragged, nullptr).ok());
  EXPECT_THAT(std::string(LoadModel(ragged.out).status().message()),
              HasSubstr("fp8 blocks across gate and up"));
}

TEST_F(ModelWeightsTest, TiedEmbeddings) {
  for (const ContainerKind container : {ContainerKind::kGguf, ContainerKind::kSafetensors}) {
    SynthOptions options = Options("deepseek_v2_lite", "f16", container);
    options.config.tie_word_embeddings = true;
    const ModelWeights model = Load(options);
    EXPECT_TRUE(model.config.tie_word_embeddings);
    EXPECT_EQ(model.lm_head.view.data, model.embedding.view.data);
  }
}

TEST_F(ModelWeightsTest, StopIdsOfGenerationConfigAreAdded) {
  const SynthOptions options = Options("deepseek_v3", "bf16", ContainerKind::kSafetensors);
  ASSERT_TRUE(SynthesizeModel(options, nullptr).ok());
  WriteFile(options.out + "/generation_config.json", R"({"eos_token_id": [7, 1]})");
  EXPECT_THAT(LoadModel(options.out)->config.eos_token_ids, ElementsAre(1, 7));
  WriteFile(options.out + "/generation_config.json", R"({"eos_token_id": 999999})");
  EXPECT_THAT(std::string(LoadModel(options.out).status().message()),
              HasSubstr("generation_config.json"));
  fs::remove(options.out + "/generation_config.json");
  EXPECT_THAT(LoadModel(options.out)->config.eos_token_ids, ElementsAre(1));
  fs::remove(options.out + "/config.json");
  EXPECT_EQ(LoadModel(options.out).status().code(), absl::StatusCode::kNotFound);
}

// Writes the tensors of `options` after `edit`, all zeros, with the config's keys.
void WriteEditedGguf(const SynthOptions& options,
                     const std::function<void(std::vector<TensorPlan>&, GgufKeyValues&)>& edit) {
  std::vector<TensorPlan> plans;
  for (const SynthTensor& tensor : PlanSynthTensors(options)) plans.push_back(tensor.plan);
  GgufKeyValues keys = *GgufConfigKeys(options.config, options.fused_kv_b);
  edit(plans, keys);
  absl::StatusOr<FileLayout> layout = LayOutGguf(keys, plans);
  ASSERT_TRUE(layout.ok()) << layout.status();
  const std::vector<int64_t> sizes = layout->tensor_bytes;
  absl::StatusOr<WeightFileWriter> file =
      WeightFileWriter::Create(options.out, *std::move(layout), true);
  ASSERT_TRUE(file.ok()) << file.status();
  for (const int64_t bytes : sizes) ASSERT_TRUE(file->Append(std::vector<std::byte>(bytes)).ok());
  ASSERT_TRUE(file->Finish().ok());
}

TensorPlan& Named(std::vector<TensorPlan>& plans, const std::string& name) {
  for (TensorPlan& plan : plans)
    if (plan.name == name) return plan;
  ADD_FAILURE() << "no tensor " << name;
  return plans.front();
}

void Erase(std::vector<TensorPlan>& plans, const std::string& name) {
  std::erase_if(plans, [&](const TensorPlan& plan) { return plan.name == name; });
}

class BrokenFileTest : public ModelWeightsTest {
 protected:
  using Plans = std::vector<TensorPlan>;

  absl::StatusOr<ModelWeights> LoadEdited(const std::function<void(Plans&, GgufKeyValues&)>& edit) {
    SynthOptions options = Options("deepseek_v3", "q8_0", ContainerKind::kGguf);
    options.config.num_nextn_predict_layers = 0;
    options.config.fp8_block_rows = options.config.fp8_block_cols = 0;
    WriteEditedGguf(options, edit);
    return LoadModel(options.out);
  }
  std::string Message(const std::function<void(Plans&)>& edit) {
    const absl::StatusOr<ModelWeights> model =
        LoadEdited([&](Plans& plans, GgufKeyValues&) { edit(plans); });
    EXPECT_FALSE(model.ok());
    const std::string message(model.status().message());
    EXPECT_THAT(message, HasSubstr(".gguf: "));
    EXPECT_THAT(message, Not(HasSubstr("\n")));
    return message;
  }
};

TEST_F(BrokenFileTest, AnUneditedFileLoads) {
  const auto model = LoadEdited([](Plans&, GgufKeyValues&) {});
  EXPECT_TRUE(model.ok()) << model.status();
}

TEST_F(BrokenFileTest, MissingTensorsAreNamedWithTheirShape) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"token_embd.weight", "[512, 256]"},
      {"output_norm.weight", "[256]"},
      {"blk.0.attn_norm.weight", "[256]"},
      {"blk.1.attn_q_b.weight", "[384, 256]"},
      {"blk.2.attn_kv_a_mqa.weight", "[288, 256]"},
      {"blk.3.ffn_gate_inp.weight", "[16, 256]"},
      {"blk.1.exp_probs_b.bias", "[16]"},
      {"blk.1.ffn_up_exps.weight", "[16, 256, 256]"},
      {"blk.1.ffn_down_exps.weight", "[16, 256, 256]"},
      {"blk.0.ffn_down.weight", "[256, 512]"},
      {"blk.1.ffn_gate_shexp.weight", "[256, 256]"}};
  for (const auto& [name, shape] : cases) {
    const std::string gone = name;
    const std::string message = Message([&](Plans& plans) { Erase(plans, gone); });
    // Without down_exps the file looks like one of separate experts; the stacked name is still the
    // one reported.
    EXPECT_THAT(message, HasSubstr("tensor " + gone + " " + shape + " is missing")) << gone;
  }
  EXPECT_THAT(Message([](Plans& plans) { Erase(plans, "blk.1.attn_k_b.weight"); }),
              HasSubstr("blk.1.attn_kv_b.weight [512, 256] is missing"));
}

TEST_F(BrokenFileTest, WrongShapesAreNamedWithBoth) {
  EXPECT_THAT(Message([](Plans& p) {
                Named(p, "blk.1.ffn_up_exps.weight").shape = {16, 256, 512};
              }),
              HasSubstr("blk.1.ffn_up_exps.weight must have shape [16, 256, 256] by the model's "
                        "config, found q8_0 "
                        "[16, 256, 512]"));
  EXPECT_THAT(Message([](Plans& p) {
                Named(p, "blk.1.ffn_up_exps.weight").shape = {15, 256, 256};
              }),
              HasSubstr("found q8_0 [15, 256, 256]"));
  EXPECT_THAT(Message([](Plans& p) {
                Named(p, "blk.0.attn_norm.weight").shape = {1, 256};
              }),
              HasSubstr("must have shape [256]"));
  EXPECT_THAT(Message([](Plans& p) { Named(p, "blk.0.attn_norm.weight").dtype = DType::kQ8_0; }),
              HasSubstr("must be f32, f16 or bf16, found q8_0 [256]"));
  EXPECT_THAT(Message([](Plans& p) { Named(p, "blk.0.ffn_up.weight").dtype = DType::kI32; }),
              HasSubstr("holds integers"));
  EXPECT_THAT(Message([](Plans& p) {
                Named(p, "token_embd.weight").shape = {513, 256};
              }),
              HasSubstr("[512, 256]"));
}

TEST_F(BrokenFileTest, TensorsWithoutAPlaceAreRefused) {
  for (const char* name : {"blk.0.attn_q_a.bias", "blk.4.attn_norm.weight", "blk.1.ffn_up.weight",
                           "rope_freqs.weight"}) {
    const std::string extra = name;
    EXPECT_THAT(Message([&](Plans& p) {
                  p.push_back({extra, DType::kF32, {256}});
                }),
                HasSubstr("tensor " + extra +
                          " (f32 [256]) has no place in a deepseek_v3 model with 4 layers"));
  }
}

TEST_F(BrokenFileTest, MtpLayersAreLeftOut) {
  const auto add_mtp = [](Plans& plans, GgufKeyValues& keys) {
    for (auto& [key, value] : keys)
      if (key == "deepseek2.block_count") value = uint32_t{5};
    keys.emplace_back("deepseek2.nextn_predict_layers", uint32_t{1});
    plans.push_back({"blk.4.nextn.eh_proj.weight", DType::kF32, {256, 512}});
    plans.push_back({"blk.4.attn_norm.weight", DType::kF32, {256}});
  };
  const absl::StatusOr<ModelWeights> model = LoadEdited(add_mtp);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->layers.size(), 4u);
  EXPECT_EQ(model->config.num_nextn_predict_layers, 1);
}

TEST_F(BrokenFileTest, BothFormsOfKvBUseTheFusedOne) {
  const auto model = LoadEdited([](Plans& plans, GgufKeyValues&) {
    for (int layer = 0; layer < 4; ++layer)
      plans.push_back(
          {"blk." + std::to_string(layer) + ".attn_kv_b.weight", DType::kQ8_0, {512, 256}});
  });
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(model->layers[0].attention.kv_b.has_value());
  EXPECT_FALSE(model->layers[0].attention.k_b.has_value());
}

class BrokenFolderTest : public ModelWeightsTest {
 protected:
  // A folder of one tiny fp8 model whose tensors went through `edit`, all zeros.
  std::string Message(const std::function<void(std::vector<TensorPlan>&)>& edit) {
    SynthOptions options = Options("deepseek_v3", "f8_e4m3", ContainerKind::kSafetensors);
    options.config.num_nextn_predict_layers = 0;
    std::vector<TensorPlan> plans;
    for (const SynthTensor& tensor : PlanSynthTensors(options)) plans.push_back(tensor.plan);
    edit(plans);
    fs::create_directories(options.out);
    WriteFile(options.out + "/config.json", HfConfigJson(options.config, "bfloat16"));
    FileLayout layout = *LayOutSafetensors({}, plans);
    const std::vector<int64_t> sizes = layout.tensor_bytes;
    absl::StatusOr<WeightFileWriter> file =
        WeightFileWriter::Create(options.out + "/model.safetensors", std::move(layout), true);
    for (const int64_t bytes : sizes) EXPECT_TRUE(file->Append(std::vector<std::byte>(bytes)).ok());
    EXPECT_TRUE(file->Finish().ok());
    return std::string(LoadModel(options.out).status().message());
  }
};

TEST_F(BrokenFolderTest, NamesWhatIsWrong) {
  EXPECT_EQ(Message([](auto&) {}), "");
  const std::string down = "model.layers.1.mlp.experts.3.down_proj.weight";
  EXPECT_THAT(Message([&](auto& p) { Erase(p, down); }),
              HasSubstr("tensor " + down + " [256, 256] is missing"));
  EXPECT_THAT(Message([&](auto& p) { Erase(p, down + "_scale_inv"); }),
              HasSubstr("tensor " + down + "_scale_inv [2, 2] is missing"));
  EXPECT_THAT(Message([&](auto& p) {
                Named(p, down + "_scale_inv").shape = {2, 3};
              }),
              HasSubstr("must be f32 [2, 2], found f32 [2, 3]"));
  EXPECT_THAT(Message([&](auto& p) { Named(p, down + "_scale_inv").dtype = DType::kBF16; }),
              HasSubstr("must be f32"));
  EXPECT_THAT(Message([&](auto& p) { Named(p, down).dtype = DType::kBF16; }),
              HasSubstr(down + "_scale_inv (f32 [2, 2]) has no place"));
  EXPECT_THAT(Message([](auto& p) {
                p.push_back({"model.layers.0.self_attn.q_a_proj.bias", DType::kF32, {256}});
              }),
              HasSubstr("q_a_proj.bias"));
  EXPECT_EQ(Message([](auto& p) {
              p.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", DType::kF32, {16}});
            }),
            "");
}

TEST_F(ModelWeightsTest, DigestIdentifiesTheWeights) {
  SynthOptions options = Options("moonlight", "q8_0", ContainerKind::kGguf);
  const std::string digest = Load(options).digest;
  // Another place, the same bytes.
  fs::copy_file(options.out, Path("copy.gguf"));
  EXPECT_EQ(LoadModel(Path("copy.gguf"))->digest, digest);
  SynthOptions seeded = options;
  seeded.seed = 2;
  EXPECT_NE(Load(seeded).digest, digest);
  SynthOptions scaled = options;
  scaled.config.routed_scaling_factor = 2.5;
  EXPECT_NE(Load(scaled).digest, digest);
  SynthOptions renamed = options;
  renamed.config.name = "another name";
  EXPECT_EQ(Load(renamed).digest, digest);
}

TEST(WeightsDigest, SamplesPerTensor) {
  EXPECT_EQ(DigestSamplesPerTensor(0), 8);
  EXPECT_EQ(DigestSamplesPerTensor(1024), 8);
  EXPECT_EQ(DigestSamplesPerTensor(2048), 4);
  EXPECT_EQ(DigestSamplesPerTensor(90000), 1);
}

TEST_F(ModelWeightsTest, SynthesisIsRepeatableAndCanBeStopped) {
  SynthOptions options = Options("moonlight", "q4_K_M", ContainerKind::kGguf);
  ASSERT_TRUE(SynthesizeModel(options, nullptr).ok());
  const std::string first = ReadFile(options.out);
  ASSERT_TRUE(SynthesizeModel(options, nullptr).ok());
  EXPECT_EQ(ReadFile(options.out), first);
  options.overwrite = false;
  EXPECT_EQ(SynthesizeModel(options, nullptr).status().code(), absl::StatusCode::kAlreadyExists);
  options.out = Path("stopped.gguf");
  int calls = 0;
  const auto stop = [&](int64_t, int64_t) { return ++calls < 5; };
  EXPECT_EQ(SynthesizeModel(options, stop).status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(fs::exists(options.out));
  EXPECT_FALSE(fs::exists(options.out + ".partial"));
}

TEST_F(ModelWeightsTest, WhatAContainerCannotHoldIsRefused) {
  const auto message = [&](const SynthOptions& options) {
    return std::string(SynthesizeModel(options, nullptr).status().message());
  };
  EXPECT_THAT(message(Options("deepseek_v3", "f8_e4m3", ContainerKind::kGguf)),
              HasSubstr("GGUF has no f8_e4m3"));
  EXPECT_THAT(message(Options("deepseek_v3", "q4_K_M", ContainerKind::kSafetensors)),
              HasSubstr("safetensors cannot hold q4_K_M"));
  SynthOptions split = Options("deepseek_v3", "bf16", ContainerKind::kGguf);
  split.config.rope_layout = RopeLayout::kSplitHalves;
  EXPECT_THAT(message(split), HasSubstr("interleaved"));
  SynthOptions small = Options("deepseek_v3", "bf16", ContainerKind::kGguf);
  small.config.vocab_size = 258;
  EXPECT_THAT(message(small), HasSubstr("vocab_size must be at least 257"));
  SynthOptions nowhere = Options("deepseek_v3", "bf16", ContainerKind::kGguf);
  nowhere.out = Path("no/such/folder/x.gguf");
  EXPECT_THAT(message(nowhere), HasSubstr("no/such/folder"));
}

TEST(SynthTokenizer, VocabularyHasEveryByteOnce) {
  const SynthVocabulary vocabulary = *MakeSynthVocabulary(FamilyConfig("kimi_k2"));
  ASSERT_EQ(vocabulary.tokens.size(), 512u);
  EXPECT_EQ(vocabulary.tokens[510], "<\uff5cbegin\u2581of\u2581sentence\uff5c>");
  EXPECT_EQ(vocabulary.tokens[511], "<\uff5cend\u2581of\u2581sentence\uff5c>");
  std::vector<std::string> sorted = vocabulary.tokens;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(std::adjacent_find(sorted.begin(), sorted.end()), sorted.end());
}

}  // namespace
}  // namespace tandem
