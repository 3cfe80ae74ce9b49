#include "gpu_worker/experts/dispatch.h"

#include <cstring>

#include "absl/container/flat_hash_map.h"
#include "lib/base/check.h"
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

experts::v1::ExpertRows BuildRows(const RoutedLayer& layer, const Frame& frame, uint64_t epoch,
                                  const std::string& model_digest, experts::v1::ReplyForm form) {
  experts::v1::ExpertRows message;
  message.set_epoch(epoch);
  message.set_model_digest(model_digest);
  message.set_layer(layer.layer);
  message.set_reply_form(form);
  message.set_activation_form(layer.activation_form);
  const std::vector<int64_t> rows = RowsOfFrame(frame);
  std::vector<std::byte> x(rows.size() * layer.row_bytes());
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(x.data() + i * layer.row_bytes(), layer.x.data() + rows[i] * layer.row_bytes(),
                layer.row_bytes());
    message.add_experts_per_row(0);
    if (form == experts::v1::REPLY_FORM_GRID_SUM) {
      message.add_grid_exponents(layer.grid_exponents[rows[i]]);
    }
  }
  rpc::WritePayload(layer.dtype, static_cast<uint32_t>(rows.size()),
                    static_cast<uint32_t>(layer.hidden), x.data(), message.mutable_x());
  size_t i = 0;
  for (const Term& term : frame.terms) {
    if (rows[i] != term.row) ++i;
    TANDEM_CHECK_EQ(rows[i], term.row);
    message.set_experts_per_row(static_cast<int>(i),
                                message.experts_per_row(static_cast<int>(i)) + 1);
    message.add_expert_ids(layer.Expert(term));
    message.add_expert_weights(layer.Weight(term));
  }
  return message;
}

}  // namespace tandem::gpu_worker
