#include "lib/model/recipe.h"

#include <openssl/sha.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/model/recipe_yaml.h"
#include "lib/model/text/regex.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

// Far above any hand-written recipe; each rule is tried on each module.
constexpr size_t kRulesMax = 256;

struct FormatRow {
  WeightFormat format;
  const char* name;
  const char* kernel;
};
constexpr FormatRow kFormats[] = {
    {WeightFormat::kBf16, "bf16", "native"},       {WeightFormat::kFp8, "fp8", "fp8"},
    {WeightFormat::kMarlin8, "marlin8", "marlin"}, {WeightFormat::kMarlin4, "marlin4", "marlin"},
    {WeightFormat::kStored, "stored", "stored"},
};

const FormatRow& RowOf(WeightFormat format) { return kFormats[static_cast<size_t>(format)]; }

struct ClusterKey {
  const char* name;
  int64_t min, max;  // as the flags of the programs have them
};
constexpr ClusterKey kClusterKeys[] = {
    {"cpu_workers", 0, 64},      {"cpu_threads", 0, 1024},    {"gpu_threads", 0, 1024},
    {"replicas", 1, 16},         {"kv_tokens", 0, 1LL << 32}, {"rows_max", 1, 4096},
    {"prefill_chunk", 1, 65536}, {"sequences_max", 1, 65536}, {"context_tokens", 0, 1LL << 31},
};

bool IsMarlin(WeightFormat format) {
  return format == WeightFormat::kMarlin8 || format == WeightFormat::kMarlin4;
}

class Parser {
 public:
  explicit Parser(const std::string& file) { recipe_.file = file; }

  absl::StatusOr<Recipe> Run(const YAML::Node& root) {
    TANDEM_ASSIGN_OR_RETURN(
        const StrictMap top,
        StrictMap::Make(root, recipe_.file, "the recipe",
                        {"name", "description", "sources", "linear", "attention", "precision",
                         "cluster", "table", "hot_experts"}));
    TANDEM_RETURN_IF_ERROR(Name(top));
    TANDEM_RETURN_IF_ERROR(Sources(top));
    TANDEM_RETURN_IF_ERROR(Linear(top));
    TANDEM_ASSIGN_OR_RETURN(recipe_.attention,
                            top.Choice("attention", {"flash", "reference"}, "flash"));
    TANDEM_ASSIGN_OR_RETURN(recipe_.precision, top.Choice("precision", {"bf16", "f32"}, "bf16"));
    TANDEM_RETURN_IF_ERROR(OnlyBf16WithF32(top));
    TANDEM_RETURN_IF_ERROR(Cluster(top));
    TANDEM_RETURN_IF_ERROR(Table(top));
    TANDEM_ASSIGN_OR_RETURN(recipe_.hot_experts, top.TextOr("hot_experts", ""));
    recipe_.folder = fs::path(recipe_.file).parent_path().string();
    recipe_.digest = Digest();
    return std::move(recipe_);
  }

 private:
  absl::Status Name(const StrictMap& top) {
    TANDEM_ASSIGN_OR_RETURN(recipe_.name, top.Text("name"));
    TANDEM_ASSIGN_OR_RETURN(recipe_.description, top.TextOr("description", ""));
    constexpr char kAllowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    if (recipe_.name.size() > 64 || recipe_.name.find_first_not_of(kAllowed) != std::string::npos)
      return top.Error("name", "expected up to 64 letters, digits, dots, dashes or underscores");
    return absl::OkStatus();
  }

  absl::Status Sources(const StrictMap& top) {
    if (!top.Has("sources")) return absl::OkStatus();
    TANDEM_ASSIGN_OR_RETURN(const StrictMap map, StrictMap::Make(top.At("sources"), recipe_.file,
                                                                 "sources", {"dense", "experts"}));
    for (const auto& [key, source] :
         {std::pair{"dense", &recipe_.dense}, std::pair{"experts", &recipe_.experts}}) {
      if (!map.Has(key)) continue;
      TANDEM_ASSIGN_OR_RETURN(source->pattern, map.Text(key));
      source->line = map.Line(key);
      const size_t at = source->pattern.rfind("${");
      const bool is_model = absl::StartsWith(source->pattern, "${model}") &&
                            (source->pattern.size() == 8 || source->pattern[8] == '/');
      if (at != std::string::npos && (at != 0 || !is_model)) {
        return map.Error(key, absl::StrCat("expected no placeholder but ${model} as the first "
                                           "folder, found ",
                                           source->pattern));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Linear(const StrictMap& top) {
    if (!top.Has("linear")) return absl::OkStatus();
    TANDEM_ASSIGN_OR_RETURN(const StrictMap map, StrictMap::Make(top.At("linear"), recipe_.file,
                                                                 "linear", {"default", "rules"}));
    if (map.Has("default")) {
      TANDEM_ASSIGN_OR_RETURN(const StrictMap choice,
                              StrictMap::Make(map.At("default"), recipe_.file, "linear.default",
                                              {"format", "group", "kernel"}));
      TANDEM_ASSIGN_OR_RETURN(recipe_.linear_default, Choice(choice));
    }
    if (!map.Has("rules")) return absl::OkStatus();
    const YAML::Node& rules = map.At("rules");
    if (!rules.IsSequence() || rules.size() > kRulesMax) {
      return map.Error("rules", absl::StrCat("expected a list of at most ", kRulesMax, " rules"));
    }
    for (const YAML::Node& node : rules) TANDEM_RETURN_IF_ERROR(Rule(node));
    return absl::OkStatus();
  }

  absl::Status Rule(const YAML::Node& node) {
    TANDEM_ASSIGN_OR_RETURN(
        const StrictMap map,
        StrictMap::Make(node, recipe_.file, "rule", {"match", "format", "group", "kernel"}));
    LinearRule rule;
    rule.line = LineOf(node);
    TANDEM_ASSIGN_OR_RETURN(rule.match, map.Text("match"));
    const auto compiled = text::Regex::Compile(rule.match, text::EmptyMatch::kAllow);
    if (!compiled.ok()) return map.Error("match", std::string(compiled.status().message()));
    TANDEM_ASSIGN_OR_RETURN(rule.choice, Choice(map));
    recipe_.linear_rules.push_back(std::move(rule));
    return absl::OkStatus();
  }

  absl::StatusOr<LinearChoice> Choice(const StrictMap& map) const {
    LinearChoice choice;
    TANDEM_ASSIGN_OR_RETURN(const std::string format, map.Text("format"));
    const std::optional<WeightFormat> known = ParseWeightFormat(format);
    if (!known.has_value()) {
      return map.Error("format", absl::StrCat("expected bf16, fp8, marlin8, marlin4 or stored, "
                                              "found ",
                                              format));
    }
    choice.format = *known;
    if (IsMarlin(choice.format)) choice.group = kMarlinGroupDefault;
    if (map.Has("group")) {
      if (!IsMarlin(choice.format))
        return map.Error("group",
                         absl::StrCat("only marlin8 and marlin4 have groups, not ", format));
      TANDEM_ASSIGN_OR_RETURN(choice.group, map.Integer("group", 64, 128));
      if (choice.group != 64 && choice.group != 128)
        return map.Error("group", absl::StrCat("expected 64 or 128, found ", choice.group));
    }
    std::vector<std::string> kernels = {DefaultKernel(choice.format)};
    if (choice.format == WeightFormat::kBf16) kernels.push_back("onednn");
    TANDEM_ASSIGN_OR_RETURN(choice.kernel, map.Choice("kernel", kernels, kernels.front()));
    return choice;
  }

  absl::Status OnlyBf16WithF32(const StrictMap& top) const {
    if (recipe_.precision != "f32") return absl::OkStatus();
    LinearChoice plain = recipe_.linear_default;
    for (const LinearRule& rule : recipe_.linear_rules) {
      if (rule.choice != LinearChoice()) plain = rule.choice;
    }
    if (plain == LinearChoice()) return absl::OkStatus();
    return top.Error("precision", absl::StrCat("f32 keeps every weight in f32: expected no format "
                                               "or kernel but bf16 by native, found ",
                                               NameOf(plain.format), " by ", plain.kernel));
  }

  absl::Status Cluster(const StrictMap& top) {
    if (!top.Has("cluster")) return absl::OkStatus();
    std::vector<std::string> names;
    for (const ClusterKey& key : kClusterKeys) names.push_back(key.name);
    TANDEM_ASSIGN_OR_RETURN(const StrictMap map,
                            StrictMap::Make(top.At("cluster"), recipe_.file, "cluster", names));
    for (const ClusterKey& key : kClusterKeys) {
      if (!map.Has(key.name)) continue;
      TANDEM_ASSIGN_OR_RETURN(const int64_t value, map.Integer(key.name, key.min, key.max));
      recipe_.cluster.emplace_back(key.name, value);
    }
    return absl::OkStatus();
  }

  absl::Status Table(const StrictMap& top) {
    if (!top.Has("table")) return absl::OkStatus();
    RecipeTableRow row;
    const std::vector<std::pair<std::string, std::string*>> cells = {
        {"model", &row.model},
        {"cpu_weight_format", &row.cpu_weight_format},
        {"cpu_kernel", &row.cpu_kernel},
        {"gpu_weight_format", &row.gpu_weight_format},
        {"gemm_kernel", &row.gemm_kernel},
        {"mla_kernel", &row.mla_kernel},
        {"siliconflow", &row.siliconflow},
        {"ktrans_point", &row.ktrans_point}};
    std::vector<std::string> keys = {"dataset", "row"};
    for (const auto& [key, value] : cells) keys.push_back(key);
    TANDEM_ASSIGN_OR_RETURN(const StrictMap map,
                            StrictMap::Make(top.At("table"), recipe_.file, "table", keys));
    TANDEM_ASSIGN_OR_RETURN(row.dataset, map.Text("dataset"));
    TANDEM_ASSIGN_OR_RETURN(row.dataset, map.Choice("dataset", {"mmlu", "mmlu_pro"}, ""));
    TANDEM_ASSIGN_OR_RETURN(row.row, map.Integer("row", 1, 99));
    for (const auto& [key, value] : cells) {
      TANDEM_ASSIGN_OR_RETURN(*value, map.Text(key));
    }
    recipe_.table = std::move(row);
    return absl::OkStatus();
  }

  std::string Digest() const {
    std::string text = "tandem-recipe-1\n";
    // Lengths, so that no text can stand for another field.
    const auto add = [&](const std::string& field) {
      absl::StrAppend(&text, field.size(), ":", field, "\n");
    };
    const auto add_choice = [&](const LinearChoice& choice) {
      add(absl::StrCat(NameOf(choice.format), "/", choice.group, "/", choice.kernel));
    };
    add(recipe_.dense.pattern);
    add(recipe_.experts.pattern);
    add(recipe_.attention);
    add(recipe_.precision);
    add_choice(recipe_.linear_default);
    for (const LinearRule& rule : recipe_.linear_rules) {
      add(rule.match);
      add_choice(rule.choice);
    }
    unsigned char raw[SHA256_DIGEST_LENGTH];
    SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), raw);
    return absl::BytesToHexString(
        absl::string_view(reinterpret_cast<const char*>(raw), sizeof(raw)));
  }

  Recipe recipe_;
};

}  // namespace

std::string HotExpertsPath(const Recipe& recipe) {
  if (recipe.hot_experts.empty()) return "";
  return (fs::path(recipe.folder) / recipe.hot_experts).string();
}

const char* NameOf(WeightFormat format) { return RowOf(format).name; }

const char* DefaultKernel(WeightFormat format) { return RowOf(format).kernel; }

std::optional<WeightFormat> ParseWeightFormat(const std::string& name) {
  for (const FormatRow& row : kFormats) {
    if (name == row.name) return row.format;
  }
  return std::nullopt;
}

absl::StatusOr<Recipe> ParseRecipe(const std::string& yaml, const std::string& file) {
  if (static_cast<int64_t>(yaml.size()) > kRecipeBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": expected a recipe of at most ",
                                                   kRecipeBytesMax, " bytes, found ", yaml.size()));
  }
  try {
    return Parser(file).Run(YAML::Load(yaml));
  } catch (const YAML::Exception& error) {
    return RecipeError(file, error.mark.line + 1, error.msg);
  }
}

absl::StatusOr<Recipe> LoadRecipe(const std::string& path) {
  std::error_code error;
  const uintmax_t bytes = fs::file_size(path, error);
  if (error)
    return absl::NotFoundError(absl::StrCat("cannot read recipe ", path, ": ", error.message()));
  if (bytes > static_cast<uintmax_t>(kRecipeBytesMax)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a recipe of at most ",
                                                   kRecipeBytesMax, " bytes, found ", bytes));
  }
  std::ifstream in(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  return ParseRecipe(text, path);
}

}  // namespace tandem
