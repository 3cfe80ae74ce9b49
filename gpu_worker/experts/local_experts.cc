#include "gpu_worker/experts/local_experts.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gpu_worker/backend/backend.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/expert_grid.h"
#include "lib/kernels/kernel_table.h"
#include "lib/rpc/tensor_frame.h"

namespace tandem::gpu_worker {

using experts::v1::ExpertRows;

namespace {

// The steps in flight ask for one layer each, twice where rows are flagged; more is a bug that
// shows as RESOURCE_EXHAUSTED.
constexpr size_t kQueueCallsMax = 4 * kStepSlots;
// How long the thread sleeps without looking whether it shall end.
constexpr absl::Duration kIdleWait = absl::Milliseconds(200);

// What an answer's views point to.
struct Sums {
  std::vector<std::byte> values;  // [rows, hidden] int32 or [pairs, hidden] f32
  std::vector<uint8_t> flags;     // [rows]
};

}  // namespace

struct LocalExperts::Job {
  std::shared_ptr<const ExpertRows> call;
  absl::Time deadline;
  rpc::Transport::Done done;
};

class LocalExperts::Way : public rpc::Transport {
 public:
  explicit Way(LocalExperts& experts) : experts_(experts) {}

  // The rows are copied: whoever gives up a call may drop what it points to.
  void Call(const rpc::OutgoingCall& call, absl::Duration timeout, Done done) override {
    Job job = {std::make_shared<const ExpertRows>(rpc::ToMessage(call)), absl::Now() + timeout,
               std::move(done)};
    if (!experts_.queue_.TryPush(std::move(job))) {
      job.done(absl::ResourceExhaustedError("too many calls to this worker's own experts wait"));
    }
  }
  const std::string& address() const override { return address_; }

 private:
  LocalExperts& experts_;
  const std::string address_ = kAddress;
};

absl::StatusOr<std::unique_ptr<LocalExperts>> LocalExperts::Load(const Options& options,
                                                                 const HotExperts& hot) {
  TANDEM_ASSIGN_OR_RETURN(auto store, ExpertStore::Open(options.store, kernels::ActiveTable()));
  if (store->digest() != hot.model_digest) {
    return absl::FailedPreconditionError(
        absl::StrCat("the list of hot experts is of a model with digest ", hot.model_digest,
                     ", expected ", store->digest()));
  }
  std::set<ExpertKey> wanted;
  for (const auto& [layer, expert] : hot.experts) wanted.insert({layer, expert});
  TANDEM_RETURN_IF_ERROR(store->Place(wanted, [] { return true; }));
  return std::unique_ptr<LocalExperts>(new LocalExperts(std::move(store), options.threads));
}

LocalExperts::LocalExperts(std::unique_ptr<ExpertStore> store, int threads)
    : store_(std::move(store)),
      held_(store_->held()),
      pool_(threads),
      ffn_(kernels::ActiveTable(), &pool_),
      queue_(kQueueCallsMax),
      thread_([this] { ThreadMain(); }) {}

LocalExperts::~LocalExperts() {
  queue_.Close();
  thread_.join();
}

LocalReplicas LocalExperts::replicas() {
  LocalReplicas replicas;
  replicas.address = kAddress;
  for (const auto& [key, expert] : held_->experts()) {
    replicas.experts.push_back({key.layer, key.expert});
  }
  replicas.connect = [this] { return std::make_unique<Way>(*this); };
  return replicas;
}

void LocalExperts::ThreadMain() {
  while (!queue_.closed() || queue_.size() > 0) {
    std::optional<Job> job = queue_.PopFor(kIdleWait);
    if (job.has_value()) job->done(Answer(*job));
  }
}

// As a compute loop of an expert worker fills its batch (cpu_worker/server/compute_loop.cc).
FfnBatch LocalExperts::BatchOf(const Job& job, std::byte* sums, uint8_t* flags) const {
  const ExpertRows& call = *job.call;
  const ModelConfig& config = store_->config();
  const bool grid = call.reply_form() == experts::v1::REPLY_FORM_GRID_SUM;
  FfnBatch batch;
  batch.x_dtype = call.x().dtype() == tensor::v1::WIRE_DTYPE_F32 ? DType::kF32 : DType::kBF16;
  batch.activation = call.activation_form() == experts::v1::ACTIVATION_FORM_F32
                         ? ActivationForm::kF32
                         : ActivationForm::kNative;
  batch.reply = grid ? ReplyForm::kGridSum : ReplyForm::kPerExpertF32;
  batch.grid_limit = kernels::GridLimit(static_cast<int>(config.num_experts_per_tok));
  const auto* x = reinterpret_cast<const std::byte*>(call.x().data().data());
  const int64_t hidden = config.hidden_size;
  const int64_t x_row_bytes = hidden * rpc::WireDTypeBytes(call.x().dtype());
  int pair = 0;
  for (int r = 0; r < call.experts_per_row_size(); ++r) {
    FfnRow row = {.x = x + r * x_row_bytes, .flag = flags + r};
    if (grid) {
      row.grid_exponent = call.grid_exponents(r);
      row.sums = reinterpret_cast<int32_t*>(sums) + r * hidden;
    }
    batch.rows.push_back(row);
    for (uint32_t i = 0; i < call.experts_per_row(r); ++i, ++pair) {
      float* const out = grid ? nullptr : reinterpret_cast<float*>(sums) + pair * hidden;
      batch.pairs.push_back({r, call.expert_ids(pair), call.expert_weights(pair), out});
    }
  }
  return batch;
}

absl::StatusOr<rpc::Answer> LocalExperts::Answer(const Job& job) {
  if (absl::Now() >= job.deadline) {
    return absl::DeadlineExceededError("the deadline passed before this worker's own experts");
  }
  const absl::Time start = absl::Now();
  const ExpertRows& call = *job.call;
  const bool grid = call.reply_form() == experts::v1::REPLY_FORM_GRID_SUM;
  const int64_t hidden = store_->config().hidden_size;
  const int64_t rows = grid ? call.experts_per_row_size() : call.expert_ids_size();
  auto sums = std::make_shared<Sums>();
  sums->values.resize(rows * hidden * sizeof(int32_t));  // int32 and f32 are of one size
  sums->flags.resize(call.experts_per_row_size());
  ffn_.Run(BatchOf(job, sums->values.data(), sums->flags.data()),
           [&](uint32_t expert) { return held_->Find(call.layer(), expert); });
  rpc::Answer answer;
  answer.epoch = call.epoch();
  answer.row_flags = sums->flags;
  answer.sums.dtype = grid ? tensor::v1::WIRE_DTYPE_I32 : tensor::v1::WIRE_DTYPE_F32;
  answer.sums.rows = static_cast<uint32_t>(rows);
  answer.sums.cols = static_cast<uint32_t>(hidden);
  answer.sums.data = sums->values.data();
  answer.compute_ns = static_cast<uint64_t>(absl::ToInt64Nanoseconds(absl::Now() - start));
  answer.memory = std::move(sums);
  return answer;
}

}  // namespace tandem::gpu_worker
