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

// Layer by layer through main memory, which `store` has none of them in afterwards.
absl::Status GiveTo(ExpertBackend& device, const std::set<ExpertKey>& wanted, ExpertStore& store) {
  for (auto first = wanted.begin(); first != wanted.end();) {
    const auto end = wanted.lower_bound({first->layer + 1, 0});
    const std::set<ExpertKey> layer(first, end);
    TANDEM_RETURN_IF_ERROR(store.Place(layer, [] { return true; }));
    const std::shared_ptr<const HeldExperts> held = store.held();
    for (const ExpertKey& key : layer) {
      TANDEM_RETURN_IF_ERROR(
          device.Hold(key.layer, key.expert, *held->Find(key.layer, key.expert)));
    }
    first = end;
  }
  return store.Place({}, [] { return true; });
}

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
  TANDEM_ASSIGN_OR_RETURN(const int64_t bytes, store->BytesOf(wanted));
  std::unique_ptr<ExpertBackend> device;
  if (options.make_backend == nullptr) {
    TANDEM_RETURN_IF_ERROR(store->Place(wanted, [] { return true; }));
  } else {
    TANDEM_ASSIGN_OR_RETURN(device, options.make_backend(store->config()));
    TANDEM_RETURN_IF_ERROR(device->Reserve(bytes, static_cast<int64_t>(wanted.size())));
    TANDEM_RETURN_IF_ERROR(GiveTo(*device, wanted, *store));
  }
  return std::unique_ptr<LocalExperts>(new LocalExperts(std::move(store), std::move(device),
                                                        std::move(wanted), bytes, options.threads));
}

LocalExperts::LocalExperts(std::unique_ptr<ExpertStore> store,
                           std::unique_ptr<ExpertBackend> device, std::set<ExpertKey> keys,
                           int64_t weight_bytes, int threads)
    : store_(std::move(store)),
      device_(std::move(device)),
      held_(store_->held()),
      keys_(std::move(keys)),
      weight_bytes_(weight_bytes),
      pool_(device_ == nullptr ? threads : 1),  // a device leaves it nothing to do
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
  for (const ExpertKey& key : keys_) replicas.experts.push_back({key.layer, key.expert});
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
  if (device_ != nullptr && call.experts_per_row_size() > device_->rows_max()) {
    return absl::InvalidArgumentError(absl::StrCat("expected at most ", device_->rows_max(),
                                                   " rows for this worker's own experts, found ",
                                                   call.experts_per_row_size()));
  }
  auto sums = std::make_shared<Sums>();
  sums->values.resize(rows * hidden * sizeof(int32_t));  // int32 and f32 are of one size
  sums->flags.resize(call.experts_per_row_size());
  const FfnBatch batch = BatchOf(job, sums->values.data(), sums->flags.data());
  if (device_ != nullptr) {
    device_->Run(batch, call.layer());
  } else {
    ffn_.Run(batch, [&](uint32_t expert) { return held_->Find(call.layer(), expert); });
  }
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
