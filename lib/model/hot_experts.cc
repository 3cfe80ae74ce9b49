#include "lib/model/hot_experts.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace tandem {
namespace {

using Json = nlohmann::json;

// More than any model has; bounds what a broken file can make us allocate.
constexpr size_t kLayersMax = 1024, kExpertsMax = 65536;

absl::Status Expected(const std::string& name, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": expected ", what));
}

absl::StatusOr<uint32_t> LayerNumber(const std::string& key, const std::string& name) {
  uint32_t layer = 0;
  const char* const end = key.data() + key.size();
  const auto [stop, error] = std::from_chars(key.data(), end, layer);
  if (error != std::errc() || stop != end || layer >= kLayersMax) {
    return Expected(name, absl::StrCat("layer numbers, found \"", key, "\""));
  }
  return layer;
}

// Calls take(layer, numbers) for each layer of `field`.
absl::Status ForLayers(const std::string& text, const std::string& name, const char* field,
                       std::string* digest,
                       const std::function<void(uint32_t, std::vector<uint64_t>)>& take) {
  const Json file = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!file.is_object()) return Expected(name, "a JSON object");
  const auto model = file.find("model_digest");
  if (model == file.end() || !model->is_string()) return Expected(name, "a text model_digest");
  *digest = model->get<std::string>();
  const auto layers = file.find(field);
  if (layers == file.end() || !layers->is_object()) {
    return Expected(name, absl::StrCat("an object ", field));
  }
  for (const auto& [key, list] : layers->items()) {
    TANDEM_ASSIGN_OR_RETURN(const uint32_t layer, LayerNumber(key, name));
    const bool numbers =
        list.is_array() && list.size() <= kExpertsMax &&
        std::all_of(list.begin(), list.end(), [](const Json& n) { return n.is_number_unsigned(); });
    if (!numbers) return Expected(name, absl::StrCat("a list of numbers for layer ", layer));
    take(layer, list.get<std::vector<uint64_t>>());
  }
  return absl::OkStatus();
}

std::string JsonText(const std::string& digest, const char* field, const Json& layers) {
  nlohmann::ordered_json file;
  file["model_digest"] = digest;
  file[field] = layers;
  return file.dump() + "\n";
}

}  // namespace

std::string RoutingCountsJson(const RoutingCounts& counts) {
  Json layers = Json::object();
  for (const auto& [layer, rows] : counts.rows) layers[absl::StrCat(layer)] = rows;
  return JsonText(counts.model_digest, "rows", layers);
}

std::string HotExpertsJson(const HotExperts& hot) {
  Json layers = Json::object();
  for (const auto& [layer, expert] : hot.experts) layers[absl::StrCat(layer)].push_back(expert);
  return JsonText(hot.model_digest, "experts", layers);
}

absl::StatusOr<RoutingCounts> ParseRoutingCounts(const std::string& text, const std::string& name) {
  RoutingCounts counts;
  TANDEM_RETURN_IF_ERROR(ForLayers(
      text, name, "rows", &counts.model_digest,
      [&](uint32_t layer, std::vector<uint64_t> rows) { counts.rows[layer] = std::move(rows); }));
  return counts;
}

absl::StatusOr<HotExperts> ParseHotExperts(const std::string& text, const std::string& name) {
  HotExperts hot;
  bool in_range = true;
  TANDEM_RETURN_IF_ERROR(ForLayers(text, name, "experts", &hot.model_digest,
                                   [&](uint32_t layer, const std::vector<uint64_t>& experts) {
                                     for (const uint64_t expert : experts) {
                                       in_range &= expert < kExpertsMax;
                                       hot.experts.insert({layer, static_cast<uint32_t>(expert)});
                                     }
                                   }));
  if (!in_range) return Expected(name, absl::StrCat("expert numbers below ", kExpertsMax));
  return hot;
}

HotExperts PickHotExperts(const RoutingCounts& counts, int64_t budget_bytes,
                          const std::function<int64_t(uint32_t, uint32_t)>& bytes_of) {
  struct Candidate {
    uint32_t layer, expert;
    uint64_t rows;
    int64_t bytes;
  };
  std::vector<Candidate> candidates;
  for (const auto& [layer, rows] : counts.rows) {
    for (uint32_t e = 0; e < rows.size(); ++e) {
      if (rows[e] > 0) candidates.push_back({layer, e, rows[e], bytes_of(layer, e)});
    }
  }
  // In the order of layers and ids already, which a stable sort keeps among equals.
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) {
                     return static_cast<double>(a.rows) / static_cast<double>(a.bytes) >
                            static_cast<double>(b.rows) / static_cast<double>(b.bytes);
                   });
  HotExperts hot;
  hot.model_digest = counts.model_digest;
  for (const Candidate& c : candidates) {
    if (c.bytes > budget_bytes) continue;
    budget_bytes -= c.bytes;
    hot.experts.insert({c.layer, c.expert});
  }
  return hot;
}

}  // namespace tandem
