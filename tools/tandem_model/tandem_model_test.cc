#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/tandem_model/inspect.h"
#include "tools/tandem_model/summary.h"
#include "tools/tandem_model/synth_command.h"
#include "tools/tandem_model/verify.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class TandemModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tandem_model_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  SynthFlags Flags(const std::string& family, const std::string& format,
                   const std::string& container) {
    const char* root = std::getenv("TANDEM_SOURCE_DIR");
    SynthFlags flags;
    flags.config = std::string(root != nullptr ? root : ".") + "/tests/model/configs/" + family +
                   "_small.json";
    flags.format = format;
    flags.container = container;
    flags.out = (folder_ / (container == "gguf" ? "model.gguf" : "model")).string();
    flags.force = true;
    return flags;
  }
  std::string Make(const SynthFlags& flags) {
    const absl::StatusOr<SynthOptions> options = ResolveSynthFlags(flags);
    EXPECT_TRUE(options.ok()) << options.status();
    const absl::StatusOr<SynthResult> result = SynthesizeModel(*options, nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    return flags.out;
  }

  fs::path folder_;
};

TEST_F(TandemModelTest, SummaryCountsParameters) {
  const ModelWeights model = *LoadModel(Make(Flags("deepseek_v3", "bf16", "gguf")));
  const ModelSummary summary = SummarizeModel(model);
  // By hand, from the config: per layer attention 256*256 + 384*256 + 288*256 + 4*64*256*2 +
  // 256*256 and norms 256*4; a dense ffn 3*512*256; a MoE layer 17 ffns of 3*256*256 and a router
  // 16*256 + 16; twice 512*256; one norm.
  const int64_t attention =
      256 * 256 + 384 * 256 + 288 * 256 + 2 * 4 * 64 * 256 + 256 * 256 + 4 * 256;
  const int64_t moe = 17 * 3 * 256 * 256 + 16 * 256 + 16;
  const int64_t total = 4 * attention + 3 * 512 * 256 + 3 * moe + 2 * 512 * 256 + 256;
  EXPECT_EQ(summary.parameters_total, total);
  EXPECT_EQ(summary.parameters_active, total - 3 * 12 * 3 * 256 * 256 - 511 * 256);
  EXPECT_EQ(summary.kv_bytes_per_token, 4 * (256 + 32) * 2);
  EXPECT_EQ(summary.expert_bytes_min, 3 * 256 * 256 * 2);
  EXPECT_EQ(summary.expert_bytes_max, summary.expert_bytes_min);
  EXPECT_EQ(summary.formats.at("routed experts").at("bf16").tensors, 3 * 16 * 3);
}

TEST_F(TandemModelTest, InspectTellsTheSameInBothForms) {
  const std::string path = Make(Flags("kimi_k2", "q4_K_M", "gguf"));
  const std::string text = *InspectModel(path, {});
  EXPECT_THAT(text, HasSubstr("kimi_k2 in GGUF"));
  EXPECT_THAT(text, HasSubstr("24 experts + 1 shared, top 4"));
  EXPECT_THAT(text, HasSubstr("GGUF metadata (gpt2, kimi-k2)"));
  EXPECT_THAT(text, HasSubstr("eos 511 509"));
  InspectOptions as_json;
  as_json.json = as_json.tensors = true;
  const nlohmann::json json = nlohmann::json::parse(*InspectModel(path, as_json));
  EXPECT_EQ(json["config"]["n_routed_experts"], 24);
  EXPECT_EQ(json["digest"], LoadModel(path)->digest);
  EXPECT_THAT(text, HasSubstr(json["digest"].get<std::string>()));
  EXPECT_EQ(json["tensors"].size(), LoadModel(path)->source->tensors().size());
}

TEST_F(TandemModelTest, TokenizerPresence) {
  const std::string folder = Make(Flags("moonlight", "bf16", "safetensors"));
  EXPECT_EQ(TokenizerOf(*LoadModel(folder)), "tokenizer.json");
  fs::remove(folder + "/tokenizer.json");
  EXPECT_EQ(TokenizerOf(*LoadModel(folder)), "");
  EXPECT_THAT(*InspectModel(folder, {}), HasSubstr("none in the files"));
}

// Overwrites two bytes with all ones, which is NaN as f16 and as the top half of an f32.
void PutNaN(const std::string& path, int64_t at) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(at);
  file.write("\xff\x7f", 2);
}

TEST_F(TandemModelTest, VerifyFindsWhatIsNotFinite) {
  const std::string path = Make(Flags("deepseek_v3", "q8_0", "gguf"));
  const absl::StatusOr<VerifyResult> sound = VerifyModel(path, {}, nullptr);
  ASSERT_TRUE(sound.ok()) << sound.status();
  const auto offset_of = [&](const std::string& name, int64_t row) {
    const ModelWeights model = *LoadModel(path);
    const TensorView* tensor = model.source->Find(name);
    const TensorView* first = &model.source->tensors().front();
    int64_t bytes = static_cast<int64_t>(fs::file_size(path));
    for (const TensorView& t : model.source->tensors()) {
      first = t.data < first->data ? &t : first;
    }
    // The data section ends with the file: offsets count back from the last tensor's padded end.
    const TensorView& last = model.source->tensors().back();
    const int64_t section = (last.data - first->data) + (last.size_bytes + 31) / 32 * 32;
    return bytes - section + (tensor->data - first->data) + row * tensor->row_bytes();
  };
  PutNaN(path, offset_of("blk.2.ffn_up_exps.weight", 1000));
  const std::string message(VerifyModel(path, {}, nullptr).status().message());
  EXPECT_THAT(message, HasSubstr("blk.2.ffn_up_exps.weight, row 1000"));
  EXPECT_THAT(message, HasSubstr("block 0"));
  Make(Flags("deepseek_v3", "q8_0", "gguf"));
  PutNaN(path, offset_of("blk.0.attn_norm.weight", 0) + 2);
  EXPECT_THAT(std::string(VerifyModel(path, {}, nullptr).status().message()),
              HasSubstr("blk.0.attn_norm.weight, row 0: column 0: expected a finite f32"));
}

TEST_F(TandemModelTest, VerifyReportsProgressAndStops) {
  const std::string path = Make(Flags("moonlight", "bf16", "gguf"));
  int64_t last = 0, total = 0;
  ASSERT_TRUE(VerifyModel(path, {}, [&](int64_t done, int64_t all) {
                last = done, total = all;
                return true;
              }).ok());
  EXPECT_EQ(last, total);
  EXPECT_GT(total, 0);
  EXPECT_TRUE(
      absl::IsCancelled(VerifyModel(path, {}, [](int64_t, int64_t) { return false; }).status()));
}

TEST_F(TandemModelTest, SynthFlagsChangeTheConfig) {
  SynthFlags flags = Flags("deepseek_v3", "q4_K_M", "gguf");
  flags.layers = 2;
  flags.experts = 8;
  flags.set = {"hidden_size=512", "rope_scaling=null", "hidden_act=silu"};
  const absl::StatusOr<SynthOptions> options = ResolveSynthFlags(flags);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->config.num_hidden_layers, 2);
  EXPECT_EQ(options->config.n_routed_experts, 8);
  EXPECT_EQ(options->config.hidden_size, 512);
  EXPECT_FALSE(options->config.yarn.enabled);
}

TEST_F(TandemModelTest, PresetsAreWholeConfigs) {
  SynthFlags flags = Flags("deepseek_v3", "q4_K_M", "gguf");
  flags.config.clear();
  flags.preset = "v2-lite";
  const absl::StatusOr<SynthOptions> lite = ResolveSynthFlags(flags);
  ASSERT_TRUE(lite.ok()) << lite.status();
  EXPECT_EQ(lite->config.num_hidden_layers, 27);
  EXPECT_EQ(lite->config.moe_intermediate_size, 1408);
  flags.preset = "v3-layer";
  const absl::StatusOr<SynthOptions> layer = ResolveSynthFlags(flags);
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_EQ(layer->config.n_routed_experts, 256);
  EXPECT_EQ(layer->config.num_hidden_layers, 1);
}

TEST_F(TandemModelTest, SynthFlagsAreRefusedInOneSentence) {
  const auto message = [&](const std::function<void(SynthFlags&)>& change) {
    SynthFlags flags = Flags("deepseek_v3", "q4_K_M", "gguf");
    change(flags);
    const absl::StatusOr<SynthOptions> options = ResolveSynthFlags(flags);
    EXPECT_FALSE(options.ok());
    return std::string(options.status().message());
  };
  EXPECT_THAT(message([](SynthFlags& f) { f.config = "/no/config.json"; }),
              HasSubstr("/no/config.json"));
  EXPECT_THAT(message([](SynthFlags& f) { f.preset = "v2-lite"; }),
              HasSubstr("either --config or --preset"));
  EXPECT_THAT(message([](SynthFlags& f) { f.config = "", f.preset = "v9"; }),
              HasSubstr("v2-lite, v3-layer"));
  EXPECT_THAT(message([](SynthFlags& f) { f.container = "zip"; }),
              HasSubstr("gguf or safetensors, found zip"));
  EXPECT_THAT(message([](SynthFlags& f) { f.format = "q9"; }), HasSubstr("q9"));
  EXPECT_THAT(message([](SynthFlags& f) { f.set = {"novalue"}; }),
              HasSubstr("key=value, found novalue"));
  EXPECT_THAT(message([](SynthFlags& f) { f.set = {"model_type=llama"}; }),
              HasSubstr("model_type \"llama\""));
  EXPECT_THAT(message([](SynthFlags& f) { f.expert_layout = "odd"; }), HasSubstr("found odd"));
  EXPECT_THAT(message([](SynthFlags& f) { f.experts = 10; }), HasSubstr("n_group must divide"));
}

}  // namespace
}  // namespace tandem
