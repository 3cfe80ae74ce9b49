// Dispatch: which rows go to which expert worker. Pure functions of the router's choice and one
// placement table, so that every grouping can be tested without a network. One frame per worker and
// layer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/experts/placement_table.h"
#include "lib/rpc/expert_call.h"

namespace tandem::gpu_worker {

// The rank-th expert of a row: one term of that row's routed sum.
struct Term {
  int64_t row = 0;
  int64_t rank = 0;
};

// The routed part of one layer, for all rows of a step. Points into memory of the caller.
struct RoutedLayer {
  uint32_t layer = 0;
  int64_t hidden = 0;
  const RouterChoice* choice = nullptr;
  tensor::v1::WireDType dtype = tensor::v1::WIRE_DTYPE_BF16;
  std::span<const std::byte> x;         // [rows, hidden] of dtype
  std::vector<int32_t> grid_exponents;  // [rows]; unused in f32 mode
  experts::v1::ActivationForm activation_form = experts::v1::ACTIVATION_FORM_NATIVE;

  int64_t row_bytes() const;
  int64_t rows() const { return static_cast<int64_t>(x.size()) / row_bytes(); }
  uint32_t Expert(const Term& term) const {
    return choice->expert_ids[term.row * choice->experts_per_row + term.rank];
  }
  float Weight(const Term& term) const {
    return choice->weights[term.row * choice->experts_per_row + term.rank];
  }
};

// What one worker is asked for: terms by row, then rank.
struct Frame {
  std::string address;
  std::vector<Term> terms;
};

struct Dispatch {
  std::vector<Frame> frames;  // by worker
  std::vector<Term> orphans;  // terms whose expert has no usable worker
};

// Sends each term to the first replica that is ready and not in `avoid` (addresses). `terms` must
// be ordered by row, then rank.
Dispatch PlanDispatch(const PlacementTable& table, const RoutedLayer& layer,
                      std::span<const Term> terms, const absl::flat_hash_set<std::string>& avoid);

// What a frame asks for, in the order of the wire: each row once, with its experts and weights, and
// grid exponents for GRID_SUM. `call` points into the lists and into the layer.
struct FrameCall {
  std::vector<const std::byte*> rows;
  std::vector<uint32_t> experts_per_row, expert_ids;
  std::vector<float> expert_weights;
  std::vector<int32_t> grid_exponents;
  rpc::OutgoingCall call;
};

// Fills `out`, whose lists may be used again. `model_digest` must live as long as the call.
void BuildCall(const RoutedLayer& layer, const Frame& frame, uint64_t epoch,
               const std::string& model_digest, experts::v1::ReplyForm form, FrameCall* out);

// The distinct rows of a frame, in the order of the message.
std::vector<int64_t> RowsOfFrame(const Frame& frame);

}  // namespace tandem::gpu_worker
