#include "lib/model/recipe_linear.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "lib/base/status_macros.h"
#include "lib/model/recipe_yaml.h"
#include "lib/model/text/regex.h"

namespace tandem {
namespace {

using R = TensorRole;

void AddFfn(const R (&roles)[3], int64_t inter, int64_t hidden, int64_t layer,
            std::vector<LinearModule>& out) {
  out.push_back({ModulePath(roles[0], layer), roles[0], layer, inter, hidden});
  out.push_back({ModulePath(roles[1], layer), roles[1], layer, inter, hidden});
  out.push_back({ModulePath(roles[2], layer), roles[2], layer, hidden, inter});
}

void AddAttention(const ModelConfig& c, int64_t layer, std::vector<LinearModule>& out) {
  const auto add = [&](R role, int64_t outputs, int64_t inputs, ModuleKind kind) {
    out.push_back({ModulePath(role, layer), role, layer, outputs, inputs, kind});
  };
  const int64_t heads = c.num_attention_heads, q_rows = heads * c.qk_head_dim();
  if (c.q_lora_rank > 0) {
    add(R::kQA, c.q_lora_rank, c.hidden_size, ModuleKind::kFree);
    add(R::kQB, q_rows, c.q_lora_rank, ModuleKind::kFree);
  } else {
    add(R::kQ, q_rows, c.hidden_size, ModuleKind::kFree);
  }
  add(R::kKvA, c.kv_row_dim(), c.hidden_size, ModuleKind::kFree);
  add(R::kKvB, heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank,
      ModuleKind::kAlwaysBf16);
  add(R::kO, c.hidden_size, heads * c.v_head_dim, ModuleKind::kFree);
}

// A rule with its compiled expression and what became of it.
struct LiveRule {
  const LinearRule* rule;
  text::Regex regex;
  int64_t matched = 0;  // modules its expression finds
  int64_t won = 0;      // free modules it decided
  std::string fixed;    // a module it found that is not free
  ModuleKind fixed_kind = ModuleKind::kFree;
};

absl::StatusOr<std::vector<LiveRule>> Compile(const Recipe& recipe) {
  std::vector<LiveRule> rules;
  for (const LinearRule& rule : recipe.linear_rules) {
    absl::StatusOr<text::Regex> regex = text::Regex::Compile(rule.match, text::EmptyMatch::kAllow);
    if (!regex.ok())
      return RecipeError(recipe.file, rule.line, std::string(regex.status().message()));
    rules.push_back({&rule, *std::move(regex), 0, 0, "", ModuleKind::kFree});
  }
  return rules;
}

absl::Status Assign(const Recipe& recipe, std::vector<LiveRule>& rules, AssignedModule& to) {
  to.choice = recipe.linear_default;
  bool decided = false;
  for (LiveRule& live : rules) {
    const absl::StatusOr<bool> found = live.regex.Contains(to.module.path);
    if (!found.ok())
      return RecipeError(recipe.file, live.rule->line, std::string(found.status().message()));
    if (!*found) continue;
    ++live.matched;
    if (to.module.kind != ModuleKind::kFree) {
      live.fixed = to.module.path;
      live.fixed_kind = to.module.kind;
    } else if (!decided) {
      decided = true;
      ++live.won;
      to.choice = live.rule->choice;
      to.rule_line = live.rule->line;
    }
  }
  if (to.module.kind != ModuleKind::kFree) to.choice = LinearChoice();
  return absl::OkStatus();
}

absl::Status CheckRule(const Recipe& recipe, const LiveRule& live) {
  const LinearRule& rule = *live.rule;
  if (live.won > 0) return absl::OkStatus();
  const auto error = [&](const std::string& what) {
    return RecipeError(recipe.file, rule.line, absl::StrCat("rule ", rule.match, " ", what));
  };
  if (live.matched == 0) {
    return error(
        "matches no linear layer of this model (routed experts have no rules: CPU workers "
        "compute them as stored)");
  }
  if (live.fixed.empty()) return error("matches only layers that earlier rules have decided");
  if (live.fixed_kind == ModuleKind::kAlwaysBf16) {
    // Saying what is so anyway is no mistake.
    if (rule.choice == LinearChoice()) return absl::OkStatus();
    return error(absl::StrCat("asks for ", NameOf(rule.choice.format), " for ", live.fixed,
                              ", which attention takes apart and which is always bf16"));
  }
  return error(absl::StrCat("asks for ", NameOf(rule.choice.format), " for ", live.fixed,
                            ", the router, which is always f32"));
}

}  // namespace

std::vector<LinearModule> LinearModules(const ModelConfig& c) {
  std::vector<LinearModule> out;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    AddAttention(c, layer, out);
    if (!c.IsMoeLayer(layer)) {
      AddFfn({R::kDenseGate, R::kDenseUp, R::kDenseDown}, c.intermediate_size, c.hidden_size, layer,
             out);
      continue;
    }
    out.push_back({ModulePath(R::kRouter, layer), R::kRouter, layer, c.n_routed_experts,
                   c.hidden_size, ModuleKind::kAlwaysF32});
    if (c.n_shared_experts > 0) {
      AddFfn({R::kSharedGate, R::kSharedUp, R::kSharedDown},
             c.n_shared_experts * c.moe_intermediate_size, c.hidden_size, layer, out);
    }
  }
  out.push_back({ModulePath(R::kLmHead), R::kLmHead, -1, c.vocab_size, c.hidden_size});
  return out;
}

absl::StatusOr<std::vector<AssignedModule>> AssignLinear(const Recipe& recipe,
                                                         const ModelConfig& config) {
  TANDEM_ASSIGN_OR_RETURN(std::vector<LiveRule> rules, Compile(recipe));
  std::vector<AssignedModule> assigned;
  for (LinearModule& module : LinearModules(config)) {
    AssignedModule to{std::move(module), {}, 0};
    TANDEM_RETURN_IF_ERROR(Assign(recipe, rules, to));
    assigned.push_back(std::move(to));
  }
  for (const LiveRule& live : rules) TANDEM_RETURN_IF_ERROR(CheckRule(recipe, live));
  return assigned;
}

std::string FormatsText(const std::vector<AssignedModule>& modules) {
  std::map<std::string, int64_t> counts;
  for (const AssignedModule& m : modules) {
    if (m.module.kind != ModuleKind::kFree) continue;
    std::string name = NameOf(m.choice.format);
    if (m.choice.group > 0) absl::StrAppend(&name, " g", m.choice.group);
    if (m.choice.kernel != DefaultKernel(m.choice.format))
      absl::StrAppend(&name, " by ", m.choice.kernel);
    ++counts[name];
  }
  std::vector<std::pair<std::string, int64_t>> order(counts.begin(), counts.end());
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return absl::StrJoin(order, ", ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, entry.first, " (", entry.second, ")");
  });
}

}  // namespace tandem
