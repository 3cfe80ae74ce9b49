// Clusters started from recipes: experts from one file and everything else from another give the
// same bits for any number of expert workers, every program of a cluster runs one recipe, and a
// recipe that does not fit is told before anything starts.
#include "lib/model/recipe.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/child_process.h"
#include "tests/cluster/inference_client.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/quiz_prompts.h"

namespace tandem::cluster_test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kRequests = 4;
constexpr int kTokens = 16;

// Q4_K_M experts under bf16 files, with every format of linear layers somewhere.
constexpr char kMixed[] = R"(name: mixed
sources:
  dense: ${model}
  experts: ${model}/gguf/*Q4_K_M*
linear:
  default: {format: bf16}
  rules:
    - {match: 'layers\.1\.self_attn', format: fp8}
    - {match: 'shared_experts\.down_proj', format: marlin4, group: 64}
    - {match: 'layers\.[02]\.', format: marlin8, group: 128}
    - {match: 'layers\.3\.self_attn\.o_proj', format: stored}
cluster: {cpu_workers: 1, kv_tokens: 4096}
)";

std::string Program(const std::string& name) {
  const char* build = std::getenv("TANDEM_BINARY_DIR");
  return absl::StrCat(build != nullptr ? build : ".", "/bin/", name);
}

std::string ShippedRecipe(const std::string& name) {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  return absl::StrCat(root != nullptr ? root : ".", "/deploy/recipes/", name, ".yaml");
}

std::string TextOf(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Answered {
  std::vector<std::string> answers;
  inference::v1::ModelInfo info;
};

class RecipeClusterTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tandem_recipes_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    auto requests = QuizRequests(kRequests, kTokens, 0.0f);
    ASSERT_TRUE(requests.ok()) << requests.status();
    requests_ = *std::move(requests);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& yaml) {
    const std::string path = (folder_ / name).string();
    std::ofstream(path) << yaml;
    return path;
  }

  absl::StatusOr<LocalCluster> Start(int workers, std::vector<std::string> flags) {
    ClusterOptions options;
    options.model = QuizModelPath();
    options.cpu_workers = workers;
    options.flags = std::move(flags);
    return LocalCluster::Start(options);
  }

  Answered Answers(int workers, std::vector<std::string> flags) {
    Answered run;
    auto cluster = Start(workers, std::move(flags));
    EXPECT_TRUE(cluster.ok()) << cluster.status();
    if (!cluster.ok()) return run;
    InferenceClient client(cluster->address());
    for (const auto& request : requests_) {
      const auto answer = client.Generate(request, absl::Seconds(120));
      EXPECT_TRUE(answer.ok()) << answer.status();
      run.answers.push_back(answer.ok() ? Fingerprint(*answer) : "failed");
    }
    const auto info = client.Info();
    EXPECT_TRUE(info.ok()) << info.status();
    if (info.ok()) run.info = *info;
    EXPECT_TRUE(cluster->Stop().ok());
    return run;
  }

  fs::path folder_;
  std::vector<inference::v1::GenerateRequest> requests_;
};

TEST_F(RecipeClusterTest, MixedSourcesAndFormatsGiveTheSameBitsForAnyNumberOfWorkers) {
  const std::string recipe = "--recipe=" + Write("mixed.yaml", kMixed);
  const Answered one = Answers(1, {recipe}), two = Answers(2, {recipe});
  ASSERT_EQ(static_cast<int>(one.answers.size()), kRequests);
  EXPECT_EQ(one.answers, two.answers);
  EXPECT_NE(one.answers[0], one.answers[1]) << "different questions should not answer alike";

  EXPECT_EQ(one.info.recipe(), "mixed");
  EXPECT_EQ(one.info.recipe_digest(), ParseRecipe(kMixed, "any name")->digest);
  EXPECT_EQ(one.info.expert_formats(), "q4_K, q6_K");
  EXPECT_THAT(one.info.linear_formats(),
              AllOf(HasSubstr("fp8 (4)"), HasSubstr("marlin4 g64 (3)"), HasSubstr("marlin8 g128 ("),
                    HasSubstr("stored (1)"), HasSubstr("bf16 (")));
  EXPECT_EQ(one.info.attention(), "flash");
  EXPECT_EQ(one.info.digest(), two.info.digest());

  const Answered plain = Answers(1, {});
  EXPECT_EQ(plain.info.recipe(), "");
  EXPECT_NE(plain.info.digest(), one.info.digest());
  EXPECT_NE(plain.answers, one.answers) << "other weights, other bits";
}

TEST_F(RecipeClusterTest, EveryShippedRecipeStartsAndAnswers) {
  requests_.resize(1);
  std::map<std::string, std::string> answers;
  for (const auto& entry : fs::directory_iterator(fs::path(ShippedRecipe("x")).parent_path())) {
    SCOPED_TRACE(entry.path());
    const absl::StatusOr<Recipe> recipe = LoadRecipe(entry.path());
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    const Answered run = Answers(1, {absl::StrCat("--recipe=", entry.path().string())});
    ASSERT_EQ(run.answers.size(), 1u);
    EXPECT_EQ(run.info.recipe(), recipe->name);
    EXPECT_EQ(run.info.recipe_digest(), recipe->digest);
    EXPECT_EQ(run.info.attention(), recipe->attention);
    answers[recipe->name] = run.answers[0];
  }
  ASSERT_EQ(answers.size(), 11u);
  EXPECT_EQ(answers["mmlu-6"], answers["mmlu_pro-1"]) << "the same rows of two tables";
  EXPECT_EQ(answers["mmlu-5"], answers["mmlu_pro-2"]);
  EXPECT_EQ(answers["mmlu-7"], answers["mmlu_pro-3"]);
  std::set<std::string> distinct;
  for (const auto& [name, answer] : answers) distinct.insert(answer);
  EXPECT_EQ(distinct.size(), 8u) << "every other pair of recipes computes something else";
}

TEST_F(RecipeClusterTest, FlagsWinOverTheRecipe) {
  const Answered run = Answers(1, {"--recipe=" + ShippedRecipe("mmlu-6"), "--attention=reference",
                                   "--linear=native", "--kv-tokens=1024"});
  EXPECT_EQ(run.info.recipe(), "mmlu-6");
  EXPECT_EQ(run.info.attention(), "reference");
  EXPECT_EQ(run.info.linear_formats(), "bf16 (29)");
  EXPECT_EQ(run.info.context_tokens(), 1024u);
}

TEST_F(RecipeClusterTest, ARecipeThatDoesNotFitIsToldAtOnce) {
  const auto refusal = [&](const std::string& yaml) {
    const auto cluster = Start(1, {"--recipe=" + Write("bad.yaml", yaml)});
    EXPECT_FALSE(cluster.ok()) << yaml;
    return cluster.ok() ? "" : std::string(cluster.status().message());
  };
  EXPECT_THAT(refusal("name: x\nsources: {experts: '${model}/gguf/*Q3*'}"),
              HasSubstr("bad.yaml line 2: sources.experts: expected exactly one file or folder"));
  EXPECT_THAT(refusal("name: x\nsources: {experts: '${model}/gguf/*-Q*'}"), HasSubstr("found 2: "));
  EXPECT_THAT(refusal("name: x\nspeed: 2"), HasSubstr("bad.yaml line 2: unknown key 'speed'"));
  EXPECT_THAT(refusal("name: x\nlinear:\n  rules:\n    - {match: nothing, format: fp8}"),
              HasSubstr("bad.yaml line 4: rule nothing matches no linear layer of this model"));
}

// Waits until the log of `child` holds `text`.
bool LogSays(const std::string& path, const std::string& text) {
  const absl::Time end = absl::Now() + absl::Seconds(60);
  while (absl::Now() < end) {
    if (absl::StrContains(TextOf(path), text)) return true;
    absl::SleepFor(absl::Milliseconds(50));
  }
  return false;
}

TEST_F(RecipeClusterTest, WorkersWithAnotherRecipeAreRefused) {
  auto cluster = Start(1, {"--recipe=" + ShippedRecipe("mmlu-3")});
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  // Same weights, so that only the recipe differs.
  const std::string other = Write("other.yaml", absl::StrCat(R"(name: mmlu-3
sources: {dense: "${model}", experts: "${model}/gguf/*Q4_K_M*"}
linear: {default: {format: fp8}}
)"));
  const std::map<std::string, std::vector<std::string>> workers = {
      {"gpu_other", {Program("tandem-gpu-worker"), "--recipe", other}},
      {"gpu_none", {Program("tandem-gpu-worker")}},
      {"cpu_other", {Program("tandem-cpu-worker"), "--recipe", other}}};
  for (const auto& [name, argv] : workers) {
    SCOPED_TRACE(name);
    const std::string log = (folder_ / name).string();
    base::ChildSpec spec;
    spec.name = name;
    spec.argv = argv;
    spec.log_path = log;
    for (const std::string& arg : {std::string("--model"), QuizModelPath(),
                                   std::string("--coordinator"), cluster->address()}) {
      spec.argv.push_back(arg);
    }
    auto worker = base::ChildProcess::Start(spec);
    ASSERT_TRUE(worker.ok()) << worker.status();
    EXPECT_TRUE(LogSays(log, "expected the coordinator's: ")) << TextOf(log);
    EXPECT_TRUE(LogSays(log, name == "gpu_none" ? "runs recipe none" : "runs recipe ")) << log;
    base::StopAll({&*worker}, 20);
  }
  InferenceClient client(cluster->address());
  const auto info = client.Info();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->gpu_workers_ready(), 1u) << "those that were there go on";
  EXPECT_EQ(info->cpu_workers_ready(), 1u);
  EXPECT_TRUE(cluster->Stop().ok());
}

}  // namespace
}  // namespace tandem::cluster_test
