#include "cpu_worker/server/compute_loop.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/clock.h"
#include "lib/kernels/expert_grid.h"
#include "lib/rpc/tensor_frame.h"

namespace tandem::cpu_worker {
namespace {

using experts::v1::ExpertRows;
using experts::v1::ExpertSums;

// An idle loop wakes this often to look whether it should end: no measurable load.
constexpr absl::Duration kIdleWait = absl::Seconds(1);

// Calls are merged up to this many rows: about where a pass is bound by arithmetic whatever is
// added to it.
constexpr int64_t kMergedRowsMax = 512;

// A caller may name any deadline; an hour is as good as never.
constexpr uint64_t kDeadlineMsMax = 3600 * 1000;

// 0.1 ms to 10 s, three steps a decade: a decode pass of a small model to a prefill pass of a large
// one.
const std::vector<double> kSecondsEdges = {1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2,
                                           5e-2, 0.1,  0.2,  0.5,  1,    2,    5,    10};

absl::Duration Now() { return base::RealClock().Monotonic(); }

bool Mergeable(const CheckedCall& a, const CheckedCall& b) {
  return a.layer == b.layer && a.activation == b.activation && a.reply == b.reply &&
         a.x_dtype == b.x_dtype && a.held == b.held;
}

}  // namespace

struct ComputeLoop::Instruments {
  explicit Instruments(telemetry::Metrics* metrics)
      : metrics(metrics),
        rows(metrics->Counter("tandem_expert_rows_total", "Rows of hidden state computed.")),
        pairs(metrics->Counter("tandem_expert_pairs_total", "Row and expert pairs computed.")),
        flagged(metrics->Counter("tandem_expert_flagged_rows_total",
                                 "Rows with a value outside their grid.")),
        passes(metrics->Counter("tandem_expert_passes_total",
                                "Passes over weights; fewer than calls when calls were merged.")),
        queue_seconds(metrics->Histogram("tandem_expert_queue_seconds",
                                         "Time from a call's arrival to its start.",
                                         kSecondsEdges)),
        compute_seconds(metrics->Histogram("tandem_expert_compute_seconds",
                                           "Time of arithmetic of one pass.", kSecondsEdges)),
        waiting(metrics->Gauge("tandem_expert_calls_waiting",
                               "Calls submitted and not yet answered.")) {}

  void CountAnswer(uint32_t status_code) {
    const auto code = static_cast<absl::StatusCode>(status_code);
    metrics
        ->Counter("tandem_expert_calls_total", "Calls answered, by status code.",
                  {{"code", absl::StatusCodeToString(code)}})
        .Increment();
  }

  telemetry::Metrics* metrics;
  prometheus::Counter& rows;
  prometheus::Counter& pairs;
  prometheus::Counter& flagged;
  prometheus::Counter& passes;
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& compute_seconds;
  prometheus::Gauge& waiting;
};

ComputeLoop::ComputeLoop(const Options& options)
    : options_(options),
      facts_{&options.store->config(), options.store->digest()},
      pool_(options.threads),
      ffn_(*options.table, &pool_),
      instruments_(std::make_unique<Instruments>(options.metrics)),
      queue_(options.queue_calls_max),
      thread_([this] { ThreadMain(); }) {}

ComputeLoop::~ComputeLoop() {
  draining_.store(true);
  queue_.Close();
  thread_.join();
}

void ComputeLoop::Submit(ExpertRows call, Done done) {
  Job job;
  job.arrived = Now();
  job.deadline =
      job.arrived + absl::Milliseconds(std::min<uint64_t>(call.deadline_ms(), kDeadlineMsMax));
  job.message_bytes = static_cast<int64_t>(call.ByteSizeLong());
  job.call = std::move(call);
  job.done = std::move(done);
  calls_total_.fetch_add(1);
  calls_waiting_.fetch_add(1);
  if (draining_.load()) return Refuse(&job, absl::UnavailableError("this worker is draining"));
  const int64_t message_bytes = job.message_bytes;
  if (queue_bytes_.fetch_add(message_bytes) + message_bytes > options_.queue_bytes_max) {
    queue_bytes_.fetch_sub(message_bytes);
    return Refuse(&job, absl::ResourceExhaustedError(absl::StrCat(
                            "the queue is full: ", options_.queue_bytes_max, " bytes wait")));
  }
  if (queue_.TryPush(std::move(job))) return;
  queue_bytes_.fetch_sub(message_bytes);
  if (queue_.closed()) return Refuse(&job, absl::UnavailableError("this worker is draining"));
  Refuse(&job, absl::ResourceExhaustedError(
                   absl::StrCat("the queue is full: ", options_.queue_calls_max, " calls wait")));
}

bool ComputeLoop::Drain(absl::Duration wait_max) {
  draining_.store(true);
  const absl::Duration end = Now() + wait_max;
  while (calls_waiting_.load() > 0) {
    if (Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

void ComputeLoop::Answer(Job* job, ExpertSums sums) {
  sums.set_call_id(job->call.call_id());
  sums.set_epoch(epoch_.load());
  instruments_->CountAnswer(sums.status_code());
  job->done(std::move(sums));
  instruments_->waiting.Set(static_cast<double>(calls_waiting_.fetch_sub(1) - 1));
}

void ComputeLoop::Refuse(Job* job, const absl::Status& status) {
  ExpertSums sums;
  sums.set_status_code(static_cast<uint32_t>(status.code()));
  sums.set_status_message(std::string(status.message()));
  Answer(job, std::move(sums));
}

void ComputeLoop::ThreadMain() {
  for (;;) {
    std::optional<Checked> first =
        held_back_.has_value() ? std::exchange(held_back_, std::nullopt) : Next(kIdleWait);
    if (!first.has_value()) {
      if (queue_.closed() && queue_.size() == 0) return;
      continue;
    }
    std::deque<Checked> batch;
    int64_t rows = first->call.rows;
    batch.push_back(std::move(*first));
    while (rows < kMergedRowsMax) {
      std::optional<Checked> next = Next(absl::ZeroDuration());
      if (!next.has_value()) break;
      if (!Mergeable(batch.front().call, next->call)) {
        held_back_ = std::move(next);
        break;
      }
      rows += next->call.rows;
      batch.push_back(std::move(*next));
    }
    Compute(&batch);
  }
}

std::optional<ComputeLoop::Checked> ComputeLoop::Next(absl::Duration wait_max) {
  for (;;) {
    std::optional<Job> job = queue_.PopFor(wait_max);
    if (!job.has_value()) return std::nullopt;
    queue_bytes_.fetch_sub(job->message_bytes);
    if (Now() >= job->deadline) {
      Refuse(&*job, absl::DeadlineExceededError(absl::StrCat(
                        "deadline_ms ", job->call.deadline_ms(), " passed before the start")));
      continue;
    }
    // The payload view points into the message, so the job must be where it stays before it is
    // checked: a moved protobuf keeps its heap data, but only a message without an arena may be
    // moved, which these are.
    absl::StatusOr<CheckedCall> checked =
        CheckCall(job->call, facts_, options_.store->held(), epoch_.load());
    if (checked.ok()) return Checked{std::move(*job), std::move(*checked)};
    Refuse(&*job, checked.status());
  }
}

namespace {

// Where the answers of a batch are written before they become messages.
struct Outputs {
  std::vector<std::vector<int32_t>> sums;   // per call [rows, hidden]
  std::vector<std::vector<uint8_t>> flags;  // per call [rows]
  std::vector<std::vector<float>> apart;    // per call [pairs, hidden]
};

// Appends one call's rows and pairs to the batch.
void AddCall(const ExpertRows& call, const CheckedCall& checked, int64_t hidden, size_t index,
             Outputs* outputs, FfnBatch* batch) {
  const bool grid = checked.reply == ReplyForm::kGridSum;
  std::vector<int32_t>& sums = outputs->sums[index];
  std::vector<uint8_t>& flags = outputs->flags[index];
  std::vector<float>& apart = outputs->apart[index];
  flags.assign(checked.rows, 0);
  if (grid) sums.assign(checked.rows * hidden, 0);
  if (!grid) apart.resize(checked.pairs * hidden);
  const int64_t x_row_bytes = hidden * InfoOf(checked.x_dtype).block_bytes;
  int64_t pair = 0;
  for (int64_t r = 0; r < checked.rows; ++r) {
    FfnRow row;
    row.x = checked.x + r * x_row_bytes;
    row.flag = &flags[r];
    if (grid) {
      row.grid_exponent = call.grid_exponents(static_cast<int>(r));
      row.sums = sums.data() + r * hidden;
    }
    const int64_t row_index = static_cast<int64_t>(batch->rows.size());
    batch->rows.push_back(row);
    for (uint32_t i = 0; i < call.experts_per_row(static_cast<int>(r)); ++i, ++pair) {
      const int at = static_cast<int>(pair);
      batch->pairs.push_back({row_index, call.expert_ids(at), call.expert_weights(at),
                              grid ? nullptr : apart.data() + pair * hidden});
    }
  }
}

ExpertSums ToMessage(const CheckedCall& checked, int64_t hidden, const Outputs& outputs,
                     size_t index) {
  ExpertSums sums;
  if (checked.reply == ReplyForm::kGridSum) {
    rpc::WritePayload(tensor::v1::WIRE_DTYPE_I32, static_cast<uint32_t>(checked.rows),
                      static_cast<uint32_t>(hidden), outputs.sums[index].data(),
                      sums.mutable_sums());
  } else {
    rpc::WritePayload(tensor::v1::WIRE_DTYPE_F32, static_cast<uint32_t>(checked.pairs),
                      static_cast<uint32_t>(hidden), outputs.apart[index].data(),
                      sums.mutable_sums());
  }
  const std::vector<uint8_t>& flags = outputs.flags[index];
  sums.set_row_flags(std::string(flags.begin(), flags.end()));
  return sums;
}

}  // namespace

void ComputeLoop::Compute(std::deque<Checked>* batch) {
  const absl::Duration start = Now();
  const CheckedCall& shape = batch->front().call;
  const int64_t hidden = facts_.config->hidden_size;
  FfnBatch work{
      .x_dtype = shape.x_dtype,
      .activation = shape.activation,
      .reply = shape.reply,
      .grid_limit = kernels::GridLimit(static_cast<int>(facts_.config->num_experts_per_tok)),
      .rows = {},
      .pairs = {}};
  Outputs outputs;
  outputs.sums.resize(batch->size());
  outputs.flags.resize(batch->size());
  outputs.apart.resize(batch->size());
  for (size_t i = 0; i < batch->size(); ++i) {
    AddCall((*batch)[i].job.call, (*batch)[i].call, hidden, i, &outputs, &work);
  }
  ffn_.Run(work, [&](uint32_t expert) { return shape.held->Find(shape.layer, expert); });
  const absl::Duration spent = Now() - start;

  for (size_t i = 0; i < batch->size(); ++i) {
    Checked& checked = (*batch)[i];
    ExpertSums sums = ToMessage(checked.call, hidden, outputs, i);
    const absl::Duration queued = start - checked.job.arrived;
    sums.set_queue_us(static_cast<uint32_t>(absl::ToInt64Microseconds(queued)));
    sums.set_compute_us(static_cast<uint32_t>(absl::ToInt64Microseconds(spent)));
    instruments_->queue_seconds.Observe(absl::ToDoubleSeconds(queued));
    instruments_->flagged.Increment(static_cast<double>(
        std::count(outputs.flags[i].begin(), outputs.flags[i].end(), uint8_t{1})));
    Answer(&checked.job, std::move(sums));
  }
  instruments_->rows.Increment(static_cast<double>(work.rows.size()));
  instruments_->pairs.Increment(static_cast<double>(work.pairs.size()));
  instruments_->passes.Increment();
  instruments_->compute_seconds.Observe(absl::ToDoubleSeconds(spent));
  busy_seconds_.store(busy_seconds_.load() + absl::ToDoubleSeconds(Now() - start));
}

}  // namespace tandem::cpu_worker
