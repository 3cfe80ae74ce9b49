#include "tests/engine/in_process_worker.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/experts/expert_ffn.h"
#include "lib/kernels/expert_grid.h"
#include "lib/rpc/tensor_frame.h"

namespace tandem::gpu_worker {

using experts::v1::ExpertRows;
using experts::v1::ExpertSums;

const PackedExpert* PackedModel::Find(uint32_t layer, uint32_t expert) {
  std::unique_ptr<PackedCopy>& copy = copies_[{layer, expert}];
  if (copy == nullptr) {
    copy = std::make_unique<PackedCopy>(weights_.layers.at(layer).experts.at(expert));
  }
  return &copy->expert;
}

namespace {

absl::StatusOr<ExpertSums> ComputeExperts(PackedModel& model, const ExpertRows& rows) {
  const ModelWeights& weights = model.weights();
  TANDEM_ASSIGN_OR_RETURN(const rpc::PayloadView x, rpc::ReadPayload(rows.x()));
  const bool grid = rows.reply_form() == experts::v1::REPLY_FORM_GRID_SUM;
  const int64_t hidden = weights.config.hidden_size, count = x.rows, pairs = rows.expert_ids_size();
  TANDEM_CHECK_EQ(static_cast<int64_t>(x.cols), hidden);
  TANDEM_CHECK_EQ(rows.experts_per_row_size(), count);
  TANDEM_CHECK_EQ(rows.expert_weights_size(), pairs);
  std::vector<int32_t> sums(grid ? count * hidden : 0);
  std::vector<float> outputs(grid ? 0 : pairs * hidden);
  std::vector<uint8_t> flags(count);
  FfnBatch batch;
  batch.x_dtype = x.dtype == tensor::v1::WIRE_DTYPE_F32 ? DType::kF32 : DType::kBF16;
  batch.activation = rows.activation_form() == experts::v1::ACTIVATION_FORM_F32
                         ? ActivationForm::kF32
                         : ActivationForm::kNative;
  batch.reply = grid ? ReplyForm::kGridSum : ReplyForm::kPerExpertF32;
  batch.grid_limit = kernels::GridLimit(static_cast<int>(weights.config.num_experts_per_tok));
  int64_t pair = 0;
  for (int64_t r = 0; r < count; ++r) {
    const std::byte* data = x.data + r * hidden * rpc::WireDTypeBytes(x.dtype);
    batch.rows.push_back({data, grid ? rows.grid_exponents(static_cast<int>(r)) : 0,
                          grid ? sums.data() + r * hidden : nullptr, grid ? &flags[r] : nullptr});
    for (uint32_t i = 0; i < rows.experts_per_row(static_cast<int>(r)); ++i, ++pair) {
      batch.pairs.push_back({r, rows.expert_ids(static_cast<int>(pair)),
                             rows.expert_weights(static_cast<int>(pair)),
                             grid ? nullptr : outputs.data() + pair * hidden});
    }
  }
  TANDEM_CHECK_EQ(pair, pairs);
  base::ThreadPool pool(1);
  ExpertFfn ffn(kernels::ActiveTable(), &pool);
  ffn.Run(batch, [&](uint32_t e) { return model.Find(rows.layer(), e); });
  ExpertSums answer;
  answer.set_epoch(rows.epoch());
  if (grid) {
    answer.set_row_flags(std::string(flags.begin(), flags.end()));
    rpc::WritePayload(tensor::v1::WIRE_DTYPE_I32, count, hidden, sums.data(),
                      answer.mutable_sums());
  } else {
    rpc::WritePayload(tensor::v1::WIRE_DTYPE_F32, pairs, hidden, outputs.data(),
                      answer.mutable_sums());
  }
  return answer;
}

}  // namespace

class InProcessWorker : public rpc::Transport {
 public:
  InProcessWorker(InProcessCluster& cluster, std::string address)
      : cluster_(cluster), address_(std::move(address)) {}

  void Call(const rpc::OutgoingCall& call, absl::Duration timeout, Done done) override {
    const ExpertRows rows = rpc::ToMessage(call);
    cluster_.calls.push_back(rows);
    absl::StatusOr<rpc::Answer> answer = AnswerTo(rows);
    if (!cluster_.deliver) return done(std::move(answer));
    cluster_.deliver(address_, [done = std::move(done), answer = std::move(answer)]() mutable {
      done(std::move(answer));
    });
  }
  const std::string& address() const override { return address_; }

 private:
  absl::StatusOr<rpc::Answer> AnswerTo(const ExpertRows& rows) {
    if (cluster_.fault) TANDEM_RETURN_IF_ERROR(cluster_.fault(address_, rows));
    TANDEM_ASSIGN_OR_RETURN(ExpertSums sums, ComputeExperts(cluster_.model_, rows));
    if (cluster_.tamper) cluster_.tamper(rows, &sums);
    return rpc::AnswerOf(std::move(sums), address_);
  }

  InProcessCluster& cluster_;
  const std::string address_;
};

InProcessCluster::InProcessCluster(const ModelWeights& weights, int workers, int replicas)
    : model_(weights) {
  auto placement = std::make_shared<membership::v1::Placement>();
  placement->set_epoch(1);
  placement->set_model_digest(weights.digest);
  for (int w = 0; w < workers; ++w) {
    auto* worker = placement->add_workers();
    worker->set_worker_id(absl::StrCat("w", w));
    worker->set_address(absl::StrCat("worker", w, ":1"));
    worker->set_ready(true);
  }
  for (int64_t layer = 0; layer < weights.config.num_hidden_layers; ++layer) {
    if (!weights.config.IsMoeLayer(layer)) continue;
    auto* placed = placement->add_layers();
    placed->set_layer(static_cast<uint32_t>(layer));
    for (int64_t e = 0; e < weights.config.n_routed_experts; ++e) {
      auto* expert = placed->add_experts();
      for (int r = 0; r < replicas; ++r) expert->add_workers((e + r) % workers);
    }
  }
  placement_ = std::move(placement);
}

std::unique_ptr<rpc::Transport> InProcessCluster::Connect(const std::string& address) {
  return std::make_unique<InProcessWorker>(*this, address);
}

std::shared_ptr<membership::v1::Placement> InProcessCluster::NextPlacement() const {
  auto next = std::make_shared<membership::v1::Placement>(*placement_);
  next->set_epoch(next->epoch() + 1);
  return next;
}

}  // namespace tandem::gpu_worker
