#include "cpu_worker/server/compute_loop.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/check.h"
#include "lib/base/clock.h"
#include "lib/kernels/expert_grid.h"
#include "lib/rpc/spin_wait.h"

namespace tandem::cpu_worker {
namespace {

using experts::v1::ExpertRows;

// An idle loop is woken for calls and for its end; this often it looks of its own accord.
constexpr absl::Duration kIdleWait = absl::Seconds(10);

// Calls are merged up to this many rows: about where a pass is bound by arithmetic whatever is
// added to it.
constexpr int64_t kMergedRowsMax = 512;

// A caller may name any deadline; an hour is as good as never.
constexpr uint64_t kDeadlineMsMax = 3600 * 1000;

// Calls taken from rings ahead of their turn; the rest waits where it is.
constexpr size_t kShmCallsAhead = 64;

// A loop that never sleeps looks so often whether a caller has gone.
constexpr absl::Duration kEventsInterval = absl::Milliseconds(10);

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
        waiting(
            metrics->Gauge("tandem_expert_calls_waiting", "Calls submitted and not yet answered.")),
        grpc_calls(metrics->Counter("tandem_expert_transport_calls_total",
                                    "Calls answered, by transport.", {{"transport", "grpc"}})),
        shm_calls(metrics->Counter("tandem_expert_transport_calls_total",
                                   "Calls answered, by transport.", {{"transport", "shm"}})) {}

  // Counters are looked up once for each code: a look-up takes a microsecond.
  void CountAnswer(absl::StatusCode code, bool over_shm) {
    std::atomic<prometheus::Counter*>& known = answers.at(static_cast<size_t>(code));
    prometheus::Counter* counter = known.load();
    if (counter == nullptr) {
      counter = &metrics->Counter("tandem_expert_calls_total", "Calls answered, by status code.",
                                  {{"code", absl::StatusCodeToString(code)}});
      known.store(counter);
    }
    counter->Increment();
    (over_shm ? shm_calls : grpc_calls).Increment();
  }

  telemetry::Metrics* metrics;
  prometheus::Counter& rows;
  prometheus::Counter& pairs;
  prometheus::Counter& flagged;
  prometheus::Counter& passes;
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& compute_seconds;
  prometheus::Gauge& waiting;
  prometheus::Counter& grpc_calls;
  prometheus::Counter& shm_calls;
  // By code; absl's go from 0 to 16. Answers come from the compute thread and from Submit.
  std::array<std::atomic<prometheus::Counter*>, 17> answers = {};
};

namespace {

std::shared_ptr<rpc::WakeSet> NewWakeSet() {
  absl::StatusOr<std::unique_ptr<rpc::WakeSet>> made = rpc::WakeSet::Make();
  // A process that has no descriptors left at its start cannot do anything.
  if (!made.ok()) base::CheckFailed(__FILE__, __LINE__, made.status().ToString());
  return *std::move(made);
}

}  // namespace

ComputeLoop::ComputeLoop(const Options& options)
    : options_(options),
      facts_{&options.store->config(), options.store->digest()},
      pool_(options.places),
      ffn_(*options.table, &pool_),
      instruments_(std::make_unique<Instruments>(options.metrics)),
      wake_set_(NewWakeSet()),
      queue_(options.queue_calls_max),
      thread_([this] { ThreadMain(); }) {}

ComputeLoop::~ComputeLoop() {
  draining_.store(true);
  queue_.Close();
  wake_set_->Notify();
  thread_.join();
}

void ComputeLoop::Serve(rpc::ShmServer* server) {
  TANDEM_CHECK(shm_.exchange(server) == nullptr);
  wake_set_->Notify();
}

void ComputeLoop::Submit(ExpertRows call, Done done) {
  auto message = std::make_shared<const ExpertRows>(std::move(call));
  Job job;
  job.arrived = Now();
  job.deadline =
      job.arrived + absl::Milliseconds(std::min<uint64_t>(message->deadline_ms(), kDeadlineMsMax));
  job.message_bytes = static_cast<int64_t>(message->ByteSizeLong());
  job.reply = rpc::ReplyIntoMessage(message->call_id(), std::move(done));
  calls_total_.fetch_add(1);
  calls_waiting_.fetch_add(1);
  if (draining_.load()) return Refuse(&job, absl::UnavailableError("this worker is draining"));
  absl::StatusOr<rpc::IncomingCall> incoming = rpc::IncomingOf(*message);
  if (!incoming.ok()) return Refuse(&job, incoming.status());
  job.call = *incoming;
  job.memory = std::move(message);
  const int64_t message_bytes = job.message_bytes;
  if (queue_bytes_.fetch_add(message_bytes) + message_bytes > options_.queue_bytes_max) {
    queue_bytes_.fetch_sub(message_bytes);
    return Refuse(&job, absl::ResourceExhaustedError(absl::StrCat(
                            "the queue is full: ", options_.queue_bytes_max, " bytes wait")));
  }
  if (queue_.TryPush(std::move(job))) {
    queued_.fetch_add(1);
    if (sleeping_.exchange(false)) wake_set_->Notify();
    return;
  }
  queue_bytes_.fetch_sub(message_bytes);
  if (queue_.closed()) return Refuse(&job, absl::UnavailableError("this worker is draining"));
  Refuse(&job, absl::ResourceExhaustedError(
                   absl::StrCat("the queue is full: ", options_.queue_calls_max, " calls wait")));
}

void ComputeLoop::TakeShmCall(rpc::ShmCall call) {
  Job job;
  // The caller's word for when it was sent, as far as it can be believed.
  const absl::Duration now = Now();
  job.arrived = std::max(now - absl::Milliseconds(kDeadlineMsMax),
                         std::min(now, absl::Nanoseconds(call.sent_ns)));
  job.deadline =
      job.arrived + absl::Milliseconds(std::min<uint64_t>(call.call->deadline_ms, kDeadlineMsMax));
  job.call = *call.call;
  job.memory = std::move(call.memory);
  job.reply = std::move(call.reply);
  job.over_shm = true;
  calls_total_.fetch_add(1);
  calls_waiting_.fetch_add(1);
  ready_.push_back(std::move(job));
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

void ComputeLoop::Answer(Job* job, const rpc::ReplyHead& head) {
  instruments_->CountAnswer(head.status.code(), job->over_shm);
  job->reply.send(head);
  instruments_->waiting.Set(static_cast<double>(calls_waiting_.fetch_sub(1) - 1));
}

void ComputeLoop::Refuse(Job* job, const absl::Status& status) {
  Answer(job, {.epoch = epoch_.load(), .status = status});
}

void ComputeLoop::ThreadMain() {
  pool_.BindCaller();
  for (;;) {
    std::optional<Checked> first =
        held_back_.has_value() ? std::exchange(held_back_, std::nullopt) : Next();
    if (!first.has_value()) {
      if (queue_.closed() && queue_.size() == 0) return;
      WaitForCalls();
      continue;
    }
    std::deque<Checked> batch;
    int64_t rows = first->call.rows;
    batch.push_back(std::move(*first));
    while (rows < kMergedRowsMax) {
      std::optional<Checked> next = Next();
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

void ComputeLoop::Gather() {
  if (rpc::ShmServer* const shm = shm_.load(); shm != nullptr) {
    shm->Poll(kShmCallsAhead, [this](rpc::ShmCall call) { TakeShmCall(std::move(call)); });
  }
  if (queued_.load() <= 0) return;
  std::optional<Job> job = queue_.PopFor(absl::ZeroDuration());
  if (!job.has_value()) return;
  queued_.fetch_sub(1);
  queue_bytes_.fetch_sub(job->message_bytes);
  ready_.push_back(std::move(*job));
}

void ComputeLoop::WaitForCalls() {
  const absl::Duration spin = spin_until_ - Now();
  if (spin > absl::ZeroDuration() && spin_habit_.WorthTrying()) {
    rpc::SpinWait wait(absl::ToInt64Nanoseconds(spin));
    do {
      Gather();
    } while (ready_.empty() && wait.Again());
    spin_habit_.Learn(!ready_.empty());
    if (!ready_.empty()) return;
  }
  Sleep(kIdleWait);
}

// First says that it sleeps, then looks once more: whoever adds a call either sees the one or is
// seen by the other.
void ComputeLoop::Sleep(absl::Duration wait_max) {
  rpc::ShmServer* const shm = shm_.load();
  sleeping_.store(true);
  const bool quiet = shm == nullptr || shm->AnnounceSleep();
  if (quiet && queued_.load() <= 0 && !queue_.closed()) {
    wake_set_->Wait(wait_max, [shm](uint64_t tag) {
      if (shm != nullptr) shm->OnEvent(tag);
    });
  }
  sleeping_.store(false);
  if (shm != nullptr) shm->AnnounceAwake();
  events_seen_ = Now();
}

std::optional<ComputeLoop::Job> ComputeLoop::TakeJob() {
  if (ready_.empty()) Gather();
  if (ready_.empty()) return std::nullopt;
  Job job = std::move(ready_.front());
  ready_.pop_front();
  return job;
}

std::optional<ComputeLoop::Checked> ComputeLoop::Next() {
  for (;;) {
    std::optional<Job> job = TakeJob();
    if (!job.has_value()) return std::nullopt;
    if (job->over_shm && draining_.load()) {
      Refuse(&*job, absl::UnavailableError("this worker is draining"));
      continue;
    }
    if (Now() >= job->deadline) {
      Refuse(&*job, absl::DeadlineExceededError(absl::StrCat("deadline_ms ", job->call.deadline_ms,
                                                             " passed before the start")));
      continue;
    }
    absl::StatusOr<CheckedCall> checked =
        CheckCall(job->call, facts_, options_.store->held(), epoch_.load());
    if (checked.ok()) return Checked{std::move(*job), std::move(*checked), {}};
    Refuse(&*job, checked.status());
  }
}

namespace {

// Where the sums of a call go: straight into its answer.
rpc::ReplySpace SpaceFor(const rpc::ReplyTo& reply, const CheckedCall& checked, int64_t hidden) {
  const bool grid = checked.reply == ReplyForm::kGridSum;
  return reply.space(grid ? tensor::v1::WIRE_DTYPE_I32 : tensor::v1::WIRE_DTYPE_F32,
                     static_cast<uint32_t>(grid ? checked.rows : checked.pairs),
                     static_cast<uint32_t>(hidden), static_cast<uint32_t>(checked.rows));
}

// Appends one call's rows and pairs to the batch.
void AddCall(const rpc::IncomingCall& call, const CheckedCall& checked,
             const rpc::ReplySpace& space, int64_t hidden, FfnBatch* batch) {
  const bool grid = checked.reply == ReplyForm::kGridSum;
  const int64_t x_row_bytes = hidden * InfoOf(checked.x_dtype).block_bytes;
  int64_t pair = 0;
  for (int64_t r = 0; r < checked.rows; ++r) {
    FfnRow row;
    row.x = checked.x + r * x_row_bytes;
    row.flag = space.row_flags + r;
    if (grid) {
      row.grid_exponent = call.grid_exponents[r];
      row.sums = reinterpret_cast<int32_t*>(space.sums) + r * hidden;
    }
    const int64_t row_index = static_cast<int64_t>(batch->rows.size());
    batch->rows.push_back(row);
    for (uint32_t i = 0; i < call.experts_per_row[r]; ++i, ++pair) {
      float* const out = reinterpret_cast<float*>(space.sums) + pair * hidden;
      batch->pairs.push_back(
          {row_index, call.expert_ids[pair], call.expert_weights[pair], grid ? nullptr : out});
    }
  }
}

}  // namespace

void ComputeLoop::Compute(std::deque<Checked>* batch) {
  const absl::Duration start = Now();
  if (start - events_seen_ > kEventsInterval) Sleep(absl::ZeroDuration());
  const CheckedCall& shape = batch->front().call;
  const int64_t hidden = facts_.config->hidden_size;
  FfnBatch work{
      .x_dtype = shape.x_dtype,
      .activation = shape.activation,
      .reply = shape.reply,
      .grid_limit = kernels::GridLimit(static_cast<int>(facts_.config->num_experts_per_tok)),
      .rows = {},
      .pairs = {}};
  for (Checked& checked : *batch) {
    checked.space = SpaceFor(checked.job.reply, checked.call, hidden);
    if (checked.space.row_flags == nullptr) continue;  // refused below
    AddCall(checked.job.call, checked.call, checked.space, hidden, &work);
  }
  const absl::Duration computing = Now();
  ffn_.Run(work, [&](uint32_t expert) { return shape.held->Find(shape.layer, expert); });
  const absl::Duration spent = Now() - computing;
  SendAnswers(batch, start, spent);
  instruments_->rows.Increment(static_cast<double>(work.rows.size()));
  instruments_->pairs.Increment(static_cast<double>(work.pairs.size()));
  instruments_->passes.Increment();
  instruments_->compute_seconds.Observe(absl::ToDoubleSeconds(spent));
  busy_seconds_.store(busy_seconds_.load() + absl::ToDoubleSeconds(Now() - start));
}

// Answers first, figures afterwards. Refusals come last, since answers leave in the order in which
// they were given space.
void ComputeLoop::SendAnswers(std::deque<Checked>* batch, absl::Duration start,
                              absl::Duration spent) {
  double flagged = 0;
  for (Checked& checked : *batch) {
    if (checked.space.row_flags == nullptr) continue;
    flagged += static_cast<double>(
        std::count(checked.space.row_flags, checked.space.row_flags + checked.call.rows, 1));
    Answer(
        &checked.job,
        {.epoch = epoch_.load(),
         .status = absl::OkStatus(),
         .queue_us = static_cast<uint32_t>(absl::ToInt64Microseconds(start - checked.job.arrived)),
         .compute_ns = static_cast<uint64_t>(absl::ToInt64Nanoseconds(spent))});
  }
  for (Checked& checked : *batch) {
    if (checked.space.row_flags == nullptr) {
      Refuse(&checked.job,
             absl::ResourceExhaustedError("the memory for answers to this caller is full"));
    }
    if (checked.job.over_shm) spin_until_ = Now() + options_.spin_max;
    instruments_->queue_seconds.Observe(absl::ToDoubleSeconds(start - checked.job.arrived));
  }
  instruments_->flagged.Increment(flagged);
}

}  // namespace tandem::cpu_worker
