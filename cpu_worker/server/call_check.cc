#include "cpu_worker/server/call_check.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/kernels/expert_grid.h"
#include "lib/rpc/grpc_server.h"

namespace tandem::cpu_worker {
namespace {

using rpc::IncomingCall;

absl::Status Mismatch(const std::string& what, int64_t expected, int64_t found) {
  return absl::InvalidArgumentError(absl::StrCat(what, ": expected ", expected, ", found ", found));
}

// Room in a message for everything but the payload.
constexpr int64_t kReplyOverheadBytes = 1 << 20;

absl::Status CheckForms(const IncomingCall& call, CheckedCall* checked) {
  switch (call.reply_form) {
    case experts::v1::REPLY_FORM_GRID_SUM:
      checked->reply = ReplyForm::kGridSum;
      break;
    case experts::v1::REPLY_FORM_PER_EXPERT_F32:
      checked->reply = ReplyForm::kPerExpertF32;
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("reply_form: expected GRID_SUM or PER_EXPERT_F32, found number ",
                       static_cast<int>(call.reply_form)));
  }
  switch (call.activation_form) {
    case experts::v1::ACTIVATION_FORM_NATIVE:
      checked->activation = ActivationForm::kNative;
      return absl::OkStatus();
    case experts::v1::ACTIVATION_FORM_F32:
      checked->activation = ActivationForm::kF32;
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("activation_form: expected NATIVE or F32, found number ",
                       static_cast<int>(call.activation_form)));
  }
}

absl::Status CheckPayload(const IncomingCall& call, const ModelConfig& config,
                          CheckedCall* checked) {
  const rpc::PayloadView& x = call.x;
  if (x.dtype == tensor::v1::WIRE_DTYPE_BF16) {
    checked->x_dtype = DType::kBF16;
  } else if (x.dtype == tensor::v1::WIRE_DTYPE_F32) {
    checked->x_dtype = DType::kF32;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("x: expected bf16 or f32, found dtype number ", static_cast<int>(x.dtype)));
  }
  if (x.rows == 0) return absl::InvalidArgumentError("x: expected at least one row, found none");
  if (x.cols != config.hidden_size) {
    return Mismatch("columns of x (the model's hidden size)", config.hidden_size, x.cols);
  }
  checked->rows = x.rows;
  checked->x = x.data;
  return absl::OkStatus();
}

// The three lists fit each other and the rows.
absl::Status CheckCounts(const IncomingCall& call, const ModelConfig& config,
                         CheckedCall* checked) {
  if (static_cast<int64_t>(call.experts_per_row.size()) != checked->rows) {
    return Mismatch("length of experts_per_row (rows of x)", checked->rows,
                    static_cast<int64_t>(call.experts_per_row.size()));
  }
  int64_t pairs = 0;
  for (uint32_t count : call.experts_per_row) {
    if (count > config.num_experts_per_tok) {
      return absl::InvalidArgumentError(
          absl::StrCat("experts_per_row: expected at most ", config.num_experts_per_tok,
                       " (the model's experts per token), found ", count));
    }
    pairs += count;
  }
  checked->pairs = pairs;
  if (static_cast<int64_t>(call.expert_ids.size()) != pairs) {
    return Mismatch("length of expert_ids (sum of experts_per_row)", pairs,
                    static_cast<int64_t>(call.expert_ids.size()));
  }
  if (static_cast<int64_t>(call.expert_weights.size()) != pairs) {
    return Mismatch("length of expert_weights (sum of experts_per_row)", pairs,
                    static_cast<int64_t>(call.expert_weights.size()));
  }
  const bool grid = checked->reply == ReplyForm::kGridSum;
  if (static_cast<int64_t>(call.grid_exponents.size()) != (grid ? checked->rows : 0)) {
    return Mismatch("length of grid_exponents", grid ? checked->rows : 0,
                    static_cast<int64_t>(call.grid_exponents.size()));
  }
  const int64_t reply_rows = grid ? checked->rows : pairs;
  const int64_t reply_rows_max =
      (rpc::kMessageBytesMax - kReplyOverheadBytes) / (config.hidden_size * 4);
  if (reply_rows > reply_rows_max) {
    return absl::ResourceExhaustedError(absl::StrCat("the answer would have ", reply_rows,
                                                     " rows, a message holds ", reply_rows_max));
  }
  return absl::OkStatus();
}

absl::Status CheckNumbers(const IncomingCall& call) {
  for (float weight : call.expert_weights) {
    if (!std::isfinite(weight)) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert_weights: expected finite numbers, found ", weight));
    }
  }
  for (int32_t exponent : call.grid_exponents) {
    if (exponent < kernels::kGridExponentMin || exponent > kernels::kGridExponentMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("grid_exponents: expected ", kernels::kGridExponentMin, " to ",
                       kernels::kGridExponentMax, ", found ", exponent));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckExperts(const IncomingCall& call, const ModelConfig& config,
                          const HeldExperts& held, uint64_t epoch) {
  for (uint32_t expert : call.expert_ids) {
    if (expert >= config.n_routed_experts) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert_ids: expected below ", config.n_routed_experts, ", found ", expert));
    }
    if (held.Find(call.layer, expert) == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("this worker does not hold expert ", expert, " of layer ", call.layer,
                       " under epoch ", call.epoch, "; it has loaded epoch ", epoch));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CheckedCall> CheckCall(const IncomingCall& call, const WorkerFacts& facts,
                                      std::shared_ptr<const HeldExperts> held, uint64_t epoch) {
  const ModelConfig& config = *facts.config;
  if (call.model_digest != facts.model_digest) {
    return absl::FailedPreconditionError(
        absl::StrCat("model_digest: expected ", facts.model_digest, ", found \"",
                     base::ToAbsl(call.model_digest.substr(0, 64)), "\""));
  }
  if (call.layer >= config.num_hidden_layers || !config.IsMoeLayer(call.layer)) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer: expected one with routed experts, found ", call.layer));
  }
  CheckedCall checked;
  checked.layer = call.layer;
  TANDEM_RETURN_IF_ERROR(CheckForms(call, &checked));
  TANDEM_RETURN_IF_ERROR(CheckPayload(call, config, &checked));
  TANDEM_RETURN_IF_ERROR(CheckCounts(call, config, &checked));
  TANDEM_RETURN_IF_ERROR(CheckNumbers(call));
  TANDEM_RETURN_IF_ERROR(CheckExperts(call, config, *held, epoch));
  checked.held = std::move(held);
  return checked;
}

}  // namespace tandem::cpu_worker
