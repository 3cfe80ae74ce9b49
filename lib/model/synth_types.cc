#include "lib/model/synth_types.h"

#include <optional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "lib/base/text.h"

namespace tandem {
namespace {

using R = TensorRole;

// Layers whose down projections get more bits: the first eighth, the last eighth, and every third
// between.
bool MoreBits(int64_t layer, int64_t num_layers) {
  const int64_t eighth = num_layers / 8;
  return layer < eighth || layer >= 7 * num_layers / 8 || (layer - eighth) % 3 == 2;
}
bool FirstEighth(int64_t layer, int64_t n) { return layer < n / 8; }
bool FirstTwelfth(int64_t layer, int64_t n) { return layer < n / 12; }
bool Always(int64_t, int64_t) { return true; }

// A stock mix as found in published DeepSeek-V3 files (llama.cpp's quantizer applied to 61 layers).
struct Mix {
  const char* name;
  DType base;
  DType down;  // routed and shared down projections where `down_where` holds
  bool (*down_where)(int64_t layer, int64_t num_layers);
  DType dense_down;
  DType attn_o;
  DType output;
  DType embedding;
};

constexpr Mix kMixes[] = {
    {"q2_K", DType::kQ2_K, DType::kQ3_K, Always, DType::kQ3_K, DType::kQ3_K, DType::kQ6_K,
     DType::kQ2_K},
    {"q3_K_M", DType::kQ3_K, DType::kQ4_K, Always, DType::kQ5_K, DType::kQ4_K, DType::kQ6_K,
     DType::kQ3_K},
    {"q4_K_S", DType::kQ4_K, DType::kQ5_K, FirstEighth, DType::kQ5_K, DType::kQ4_K, DType::kQ6_K,
     DType::kQ4_K},
    {"q4_K_M", DType::kQ4_K, DType::kQ6_K, MoreBits, DType::kQ6_K, DType::kQ4_K, DType::kQ6_K,
     DType::kQ4_K},
    {"q5_K_M", DType::kQ5_K, DType::kQ6_K, MoreBits, DType::kQ6_K, DType::kQ5_K, DType::kQ6_K,
     DType::kQ5_K},
    {"iq4_xs", DType::kIQ4_XS, DType::kQ5_K, FirstEighth, DType::kQ5_K, DType::kIQ4_XS,
     DType::kQ6_K, DType::kIQ4_XS},
    {"iq2_xxs", DType::kIQ2_XXS, DType::kQ2_K, FirstTwelfth, DType::kQ2_K, DType::kIQ2_XXS,
     DType::kQ5_K, DType::kQ2_K},
    {"iq1_s", DType::kIQ1_S, DType::kQ2_K, FirstTwelfth, DType::kQ2_K, DType::kIQ2_XXS,
     DType::kQ5_K, DType::kQ2_K},
    {"iq1_m", DType::kIQ1_M, DType::kQ2_K, FirstTwelfth, DType::kQ2_K, DType::kIQ2_XXS,
     DType::kQ5_K, DType::kQ2_K},
};

const Mix* MixNamed(const std::string& name) {
  for (const Mix& mix : kMixes)
    if (absl::EqualsIgnoreCase(mix.name, name)) return &mix;
  return nullptr;
}

// For rows that are no multiple of 256: the 32-block type of about the same size.
DType SmallBlockType(DType type) {
  switch (type) {
    case DType::kQ2_K:
    case DType::kQ3_K:
      return DType::kQ4_0;
    case DType::kQ4_K:
      return DType::kQ5_0;
    case DType::kQ5_K:
      return DType::kQ5_1;
    case DType::kQ6_K:
      return DType::kQ8_0;
    default:
      return DType::kIQ4_NL;
  }
}

DType Fitting(DType type, int64_t cols) {
  if (InfoOf(type).block_elems == 256 && cols % 256 != 0) type = SmallBlockType(type);
  if (cols % InfoOf(type).block_elems != 0) type = DType::kF16;
  return type;
}

bool IsPlain(R role) {
  switch (role) {
    case R::kFinalNorm:
    case R::kAttnNorm:
    case R::kFfnNorm:
    case R::kQANorm:
    case R::kKvANorm:
    case R::kRouter:
    case R::kRouterBias:
      return true;
    default:
      return false;
  }
}

DType MixedType(const Mix& mix, R role, int64_t layer, int64_t num_layers) {
  switch (role) {
    case R::kEmbedding:
      return mix.embedding;
    case R::kLmHead:
      return mix.output;
    case R::kO:
      return mix.attn_o;
    case R::kDenseDown:
      return mix.down_where(layer, num_layers) ? mix.dense_down : mix.base;
    case R::kStackedDown:
    case R::kExpertDown:
    case R::kSharedDown:
      return mix.down_where(layer, num_layers) ? mix.down : mix.base;
    default:
      return mix.base;
  }
}

}  // namespace

absl::StatusOr<SynthFormat> ParseSynthFormat(const std::string& name, bool pure) {
  SynthFormat format;
  const Mix* mix = MixNamed(name);
  const absl::StatusOr<DType> type = ParseDType(name);
  if (mix != nullptr && !(pure && type.ok())) {
    if (pure)
      return absl::InvalidArgumentError(
          absl::StrCat("format ", name, " is a mix of types and cannot be pure"));
    return SynthFormat{mix->name, mix->base, true};
  }
  if (type.ok() && *type != DType::kI32) return SynthFormat{NameOf(*type), *type, false};
  std::vector<std::string> known;
  for (const Mix& each : kMixes) known.push_back(each.name);
  return absl::InvalidArgumentError(absl::StrCat(
      "format ", name, " is not known, expected a stock mix (", absl::StrJoin(known, ", "),
      ") or a single type: ", type.ok() ? "not i32" : std::string(type.status().message())));
}

DType GgufTypeOf(const SynthFormat& format, TensorRole role, int64_t layer, int64_t num_layers,
                 int64_t cols) {
  if (IsPlain(role)) return DType::kF32;
  DType type = format.base;
  if (format.stock_mix) type = MixedType(*MixNamed(format.name), role, layer, num_layers);
  // q6_K files keep everything in q6_K but give short rows q8_0, which Fitting does.
  return Fitting(type, cols);
}

DType SafetensorsTypeOf(const SynthFormat& format, TensorRole role) {
  if (role == R::kRouterBias) return DType::kF32;
  const bool kept_wide = IsPlain(role) || role == R::kEmbedding || role == R::kLmHead;
  return format.base == DType::kF8E4M3 && kept_wide ? DType::kBF16 : format.base;
}

}  // namespace tandem
