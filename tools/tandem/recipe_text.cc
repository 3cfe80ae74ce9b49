// RecipeReport as text and as JSON.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "lib/base/text.h"
#include "nlohmann/json.hpp"
#include "tools/tandem/recipe_report.h"

namespace tandem::launcher {
namespace {

using nlohmann::ordered_json;

void AppendLine(std::string& out, const char* label, const std::string& value) {
  absl::StrAppendFormat(&out, "%-11s %s\n", label, value);
}

std::string TypesText(const SourceReport& source) {
  return absl::StrJoin(source.types, ", ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, entry.first, " ", base::HumanBytes(entry.second.bytes));
  });
}

std::string SourceText(const SourceReport& source) {
  return absl::StrCat(source.path, " (", source.container, ", ", source.files.size(),
                      source.files.size() == 1 ? " file): " : " files): ", TypesText(source));
}

std::string FormatOf(const AssignedModule& assigned) {
  if (assigned.module.kind == ModuleKind::kAlwaysF32) return "f32";
  return NameOf(assigned.choice.format);
}

std::string KernelOf(const AssignedModule& assigned) {
  return assigned.module.kind == ModuleKind::kFree ? assigned.choice.kernel : "native";
}

std::string ReasonOf(const AssignedModule& assigned) {
  if (assigned.module.kind != ModuleKind::kFree) return "always";
  return assigned.rule_line == 0 ? "default" : absl::StrCat("line ", assigned.rule_line);
}

// Layers that differ in nothing but their number.
struct Range {
  const ModuleReport* first;
  std::vector<int64_t> layers;
};

bool SameButLayer(const ModuleReport& a, const ModuleReport& b) {
  const AssignedModule &x = a.assigned, &y = b.assigned;
  return x.module.role == y.module.role && x.choice == y.choice && x.rule_line == y.rule_line &&
         x.module.outputs == y.module.outputs && x.module.inputs == y.module.inputs &&
         a.stored == b.stored;
}

std::vector<Range> Collapse(const std::vector<ModuleReport>& modules, bool all) {
  std::vector<Range> ranges;
  for (const ModuleReport& module : modules) {
    const auto same = std::find_if(ranges.begin(), ranges.end(), [&](const Range& range) {
      return !all && SameButLayer(*range.first, module);
    });
    Range& range = same != ranges.end() ? *same : ranges.emplace_back(Range{&module, {}});
    range.layers.push_back(module.assigned.module.layer);
  }
  return ranges;
}

// "0-3,7" of ascending layers.
std::string LayersText(const std::vector<int64_t>& layers) {
  std::string out;
  for (size_t i = 0; i < layers.size();) {
    size_t last = i;
    while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
    absl::StrAppend(&out, out.empty() ? "" : ",", layers[i]);
    if (last > i) absl::StrAppend(&out, "-", layers[last]);
    i = last + 1;
  }
  return out;
}

std::string PathText(const Range& range) {
  const LinearModule& module = range.first->assigned.module;
  if (module.layer < 0 || range.layers.size() == 1) return module.path;
  const std::string number = absl::StrCat("layers.", module.layer, ".");
  std::string path = module.path;
  return path.replace(path.find(number), number.size(),
                      absl::StrCat("layers.", LayersText(range.layers), "."));
}

void AppendModules(const RecipeReport& report, bool all, std::string& out) {
  const std::vector<Range> ranges = Collapse(report.modules, all);
  size_t width = 6;
  for (const Range& range : ranges) width = std::max(width, PathText(range).size());
  const int w = static_cast<int>(width);
  absl::StrAppendFormat(&out, "\n%-*s  %-16s %-7s %-8s %-7s %5s  %-9s %s\n", w, "linear layer",
                        "outputs x inputs", "in file", "format", "kernel", "group", "each", "why");
  for (const Range& range : ranges) {
    const AssignedModule& a = range.first->assigned;
    absl::StrAppendFormat(&out, "%-*s  %-16s %-7s %-8s %-7s %5s  %-9s %s\n", w, PathText(range),
                          absl::StrCat(a.module.outputs, " x ", a.module.inputs),
                          range.first->stored, FormatOf(a), KernelOf(a),
                          a.choice.group > 0 ? absl::StrCat(a.choice.group) : "-",
                          base::HumanBytes(range.first->bytes), ReasonOf(a));
  }
}

ordered_json SourceJson(const SourceReport& source) {
  ordered_json types = ordered_json::object();
  for (const auto& [type, count] : source.types)
    types[type] = {{"matrices", count.matrices}, {"bytes", count.bytes}};
  return {{"pattern", source.pattern}, {"path", source.path},   {"container", source.container},
          {"files", source.files},     {"bytes", source.bytes}, {"types", types}};
}

ordered_json TableJson(const RecipeTableRow& row) {
  return {{"dataset", row.dataset},
          {"row", row.row},
          {"model", row.model},
          {"cpu_weight_format", row.cpu_weight_format},
          {"cpu_kernel", row.cpu_kernel},
          {"gpu_weight_format", row.gpu_weight_format},
          {"gemm_kernel", row.gemm_kernel},
          {"mla_kernel", row.mla_kernel},
          {"siliconflow", row.siliconflow},
          {"ktrans_point", row.ktrans_point}};
}

ordered_json ModuleJson(const ModuleReport& module) {
  const AssignedModule& a = module.assigned;
  return {{"module", a.module.path},
          {"outputs", a.module.outputs},
          {"inputs", a.module.inputs},
          {"stored", module.stored},
          {"format", FormatOf(a)},
          {"kernel", KernelOf(a)},
          {"group", a.choice.group},
          {"bytes", module.bytes},
          {"why", a.module.kind != ModuleKind::kFree ? "always"
                  : a.rule_line == 0                 ? "default"
                                                     : "rule"},
          {"rule_line", a.rule_line}};
}

}  // namespace

std::string ReportText(const RecipeReport& report, bool all) {
  const Recipe& r = report.recipe;
  std::string out;
  AppendLine(out, "recipe", r.description.empty() ? r.name : r.name + ": " + r.description);
  if (r.table.has_value()) {
    const RecipeTableRow& t = *r.table;
    AppendLine(
        out, "table row",
        absl::StrCat(t.dataset, " ", t.row, " (", t.model, "): ",
                     absl::StrJoin({t.cpu_weight_format, t.cpu_kernel, t.gpu_weight_format,
                                    t.gemm_kernel, t.mla_kernel, t.siliconflow, t.ktrans_point},
                                   " | ")));
  }
  AppendLine(out, "dense", SourceText(report.dense));
  AppendLine(out, "experts", SourceText(report.experts));
  AppendLine(out, "linear", report.linear_formats);
  AppendLine(out, "attention", r.attention);
  AppendLine(out, "precision", r.precision);
  for (const auto& [key, value] : r.cluster) AppendLine(out, key.c_str(), absl::StrCat(value));
  AppendLine(out, "GPU worker",
             absl::StrCat(base::HumanBytes(report.gpu_worker_bytes), " of weights, ",
                          report.kv_bytes_per_token, " bytes for each token in the KV cache"));
  AppendLine(out, "CPU workers",
             absl::StrCat(base::HumanBytes(report.experts_bytes), " of experts as stored, ",
                          base::HumanBytes(report.expert_bytes_max), " the largest"));
  AppendLine(out, "weights", report.digest);
  AppendLine(out, "computation", r.digest);
  AppendModules(report, all, out);
  return out;
}

std::string ReportJson(const RecipeReport& report) {
  const Recipe& r = report.recipe;
  ordered_json out = {
      {"name", r.name},
      {"description", r.description},
      {"file", r.file},
      {"recipe_digest", r.digest},
      {"table", r.table.has_value() ? TableJson(*r.table) : ordered_json(nullptr)},
      {"model", report.model},
      {"model_name", report.config.name},
      {"model_type", report.config.model_type},
      {"digest", report.digest},
      {"sources", {{"dense", SourceJson(report.dense)}, {"experts", SourceJson(report.experts)}}},
      {"linear_formats", report.linear_formats},
      {"attention", r.attention},
      {"precision", r.precision},
      {"cluster", ordered_json::object()},
      {"memory",
       {{"gpu_worker_bytes", report.gpu_worker_bytes},
        {"kv_bytes_per_token", report.kv_bytes_per_token},
        {"experts_bytes", report.experts_bytes},
        {"expert_bytes_max", report.expert_bytes_max}}},
      {"assumptions", report.config.assumptions},
      {"linear", ordered_json::array()}};
  for (const auto& [key, value] : r.cluster) out["cluster"][key] = value;
  for (const ModuleReport& module : report.modules) out["linear"].push_back(ModuleJson(module));
  // Names from files may hold bytes that are no UTF-8.
  return out.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace tandem::launcher
