#include "gpu_worker/experts/dispatch.h"

#include "absl/container/flat_hash_map.h"
#include "lib/rpc/tensor_frame.h"

namespace tandem::gpu_worker {
namespace {

const ExpertWorker* FirstUsable(const PlacementTable& table, std::span<const uint32_t> replicas,
                                const absl::flat_hash_set<std::string>& avoid) {
  for (const uint32_t index : replicas) {
    const ExpertWorker& worker = table.workers()[index];
    if (worker.ready && !avoid.contains(worker.address)) return &worker;
  }
  return nullptr;
}

}  // namespace

int64_t RoutedLayer::row_bytes() const { return hidden * rpc::WireDTypeBytes(dtype); }

Dispatch PlanDispatch(const PlacementTable& table, const RoutedLayer& layer,
                      std::span<const Term> terms, const absl::flat_hash_set<std::string>& avoid) {
  Dispatch dispatch;
  absl::flat_hash_map<std::string, size_t> frame_of;
  for (const Term& term : terms) {
    const ExpertWorker* worker =
        FirstUsable(table, table.Replicas(layer.layer, layer.Expert(term)), avoid);
    if (worker == nullptr) {
      dispatch.orphans.push_back(term);
      continue;
    }
    const auto [it, added] = frame_of.try_emplace(worker->address, dispatch.frames.size());
    if (added) dispatch.frames.push_back({worker->address, {}});
    dispatch.frames[it->second].terms.push_back(term);
  }
  return dispatch;
}

std::vector<int64_t> RowsOfFrame(const Frame& frame) {
  std::vector<int64_t> rows;
  for (const Term& term : frame.terms) {
    if (rows.empty() || rows.back() != term.row) rows.push_back(term.row);
  }
  return rows;
}

void BuildCall(const RoutedLayer& layer, const Frame& frame, uint64_t epoch,
               const std::string& model_digest, experts::v1::ReplyForm form, FrameCall* out) {
  out->rows.clear();
  out->experts_per_row.clear();
  out->expert_ids.clear();
  out->expert_weights.clear();
  out->grid_exponents.clear();
  int64_t row = -1;
  for (const Term& term : frame.terms) {
    if (term.row != row) {
      row = term.row;
      out->rows.push_back(layer.x.data() + row * layer.row_bytes());
      out->experts_per_row.push_back(0);
      if (form == experts::v1::REPLY_FORM_GRID_SUM) {
        out->grid_exponents.push_back(layer.grid_exponents[row]);
      }
    }
    ++out->experts_per_row.back();
    out->expert_ids.push_back(layer.Expert(term));
    out->expert_weights.push_back(layer.Weight(term));
  }
  rpc::OutgoingCall& call = out->call;
  call.epoch = epoch;
  call.model_digest = model_digest;
  call.layer = layer.layer;
  call.reply_form = form;
  call.activation_form = layer.activation_form;
  call.dtype = layer.dtype;
  call.cols = static_cast<uint32_t>(layer.hidden);
  call.rows = out->rows;
  call.experts_per_row = out->experts_per_row;
  call.expert_ids = out->expert_ids;
  call.expert_weights = out->expert_weights;
  call.grid_exponents = out->grid_exponents;
}

}  // namespace tandem::gpu_worker
