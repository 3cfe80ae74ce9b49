#include "lib/model/model_weights_agree.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/model/config_fields.h"

namespace tandem {
namespace {

// GGUF holds f32 where config.json holds decimals; f32 has a relative spacing of 2^-24 = 6e-8.
constexpr double kSameNumber = 1e-6;

class Comparison {
 public:
  Comparison(const std::string& dense_file, const std::string& experts_file)
      : dense_file_(dense_file), experts_file_(experts_file) {}

  template <typename T>
  absl::Status Same(const char* field, const T& dense, const T& experts) const {
    if (dense == experts) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("dense layers and experts are of different networks: expected ", field, " ",
                     dense, " as in ", dense_file_, ", found ", experts, " in ", experts_file_));
  }
  absl::Status Near(const char* field, double dense, double experts) const {
    if (std::abs(dense - experts) <= kSameNumber * std::abs(dense)) return absl::OkStatus();
    return Same(field, dense, experts);
  }

 private:
  const std::string dense_file_, experts_file_;
};

bool IsRouting(int64_t ModelConfig::*member) {
  return member == &ModelConfig::n_group || member == &ModelConfig::topk_group;
}

bool IsCompared(int64_t ModelConfig::*member) {
  return member != &ModelConfig::num_nextn_predict_layers &&
         member != &ModelConfig::max_position_embeddings &&
         member != &ModelConfig::fp8_block_rows && member != &ModelConfig::fp8_block_cols;
}

}  // namespace

absl::Status CheckSameNetwork(const ModelConfig& dense, const std::string& dense_file,
                              const ModelConfig& experts, const std::string& experts_file,
                              bool routing) {
  const Comparison compare(dense_file, experts_file);
  for (const ConfigIntField& field : ConfigIntFields()) {
    if (!IsCompared(field.member) || (!routing && IsRouting(field.member))) continue;
    TANDEM_RETURN_IF_ERROR(compare.Same(field.key, dense.*field.member, experts.*field.member));
  }
  TANDEM_RETURN_IF_ERROR(compare.Near("rms_norm_eps", dense.rms_norm_eps, experts.rms_norm_eps));
  TANDEM_RETURN_IF_ERROR(compare.Near("rope_theta", dense.rope_theta, experts.rope_theta));
  if (!routing) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(compare.Near("routed_scaling_factor", dense.routed_scaling_factor,
                                      experts.routed_scaling_factor));
  TANDEM_RETURN_IF_ERROR(
      compare.Same<int>("norm_topk_prob", dense.norm_topk_prob, experts.norm_topk_prob));
  TANDEM_RETURN_IF_ERROR(compare.Same<std::string>("scoring_func", NameOf(dense.scoring_func),
                                                   NameOf(experts.scoring_func)));
  return compare.Same<std::string>("topk_method", NameOf(dense.topk_method),
                                   NameOf(experts.topk_method));
}

}  // namespace tandem
