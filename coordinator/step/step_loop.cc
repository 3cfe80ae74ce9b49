#include "coordinator/step/step_loop.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/check.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/status_map.h"

namespace tandem::coordinator {
namespace {

using engine::v1::SliceResult;
using engine::v1::StepPlan;
using engine::v1::StepResult;

// How long an idle loop sleeps on its inbox. Requests and changes of the cluster wake it; this is
// for a link that could not be opened, or was not wanted so soon after the last.
constexpr absl::Duration kIdleWait = absl::Seconds(1);
constexpr absl::Duration kUnlinkedWait = absl::Milliseconds(100);
constexpr absl::Duration kNotReadyWait = absl::Milliseconds(20);
constexpr absl::Duration kDescribeTimeout = absl::Seconds(2);

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

uint64_t Micros(absl::Duration duration) {
  return static_cast<uint64_t>(absl::ToInt64Microseconds(duration));
}

// At least 1, so that it is a deadline at all.
uint64_t CeilMillis(absl::Duration duration) {
  return std::max<int64_t>(1,
                           absl::ToInt64Milliseconds(absl::Ceil(duration, absl::Milliseconds(1))));
}

std::string FinishName(inference::v1::FinishReason reason) {
  return reason == inference::v1::FINISH_REASON_STOP ? "stop" : "length";
}

// What a worker says about itself must make sense before it is believed.
absl::Status CheckDescription(const engine::v1::DescribeResponse& engine,
                              const std::string& address) {
  if (engine.kv_pages() > 0 && engine.page_tokens() > 0 && engine.rows_max() > 0)
    return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("GPU worker ", address, " offers ", engine.kv_pages(),
                                             " pages of ", engine.page_tokens(), " tokens and ",
                                             engine.rows_max(), " rows"));
}

}  // namespace

StepLoop::StepLoop(const StepLoopOptions& options, ClusterView cluster, const Tokenizer* tokenizer,
                   CoordinatorMetrics* metrics, const base::Clock* clock)
    : options_(options),
      cluster_(std::move(cluster)),
      tokenizer_(tokenizer),
      metrics_(metrics),
      clock_(clock),
      inbox_(options.requests_max),
      thread_([this] { Run(); }) {}

StepLoop::~StepLoop() {
  draining_ = true;
  stopping_ = true;
  inbox_.Close();
  thread_.join();
}

absl::Status StepLoop::Submit(GenerationRequest request) {
  if (draining_) return absl::UnavailableError("the coordinator is shutting down");
  if (requests_.fetch_add(1) >= options_.requests_max || !inbox_.TryPush(std::move(request))) {
    requests_.fetch_sub(1);
    metrics_->requests_refused.Increment();
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", options_.requests_max,
                                                     " requests are running or waiting"));
  }
  return absl::OkStatus();
}

absl::Status StepLoop::Readiness() const {
  absl::Status ready = cluster_.readiness();
  if (ready.ok() && !linked_) ready = absl::UnavailableError("connecting to the GPU worker");
  return ready;
}

std::optional<engine::v1::DescribeResponse> StepLoop::engine() const {
  absl::MutexLock lock(&mutex_);
  return engine_;
}

void StepLoop::Run() {
  while (!stopping_) {
    TakeInbox();
    EndUnwanted();
    UpdateGauges();
    absl::Status ready = cluster_.readiness();
    // Also without requests, so that a lost GPU worker is replaced before somebody waits for it.
    if (ready.ok()) ready = EnsureLink();
    if (running_.empty() && waiting_.empty() && releases_.empty()) continue;
    if (ready.ok()) {
      RunStep();
    } else {
      EndUnservable(ready);
      absl::SleepFor(kNotReadyWait);
    }
  }
  const absl::Status over = absl::UnavailableError("the coordinator has shut down");
  TakeInbox();
  while (!running_.empty()) End(running_.begin(), &running_, over);
  while (!waiting_.empty()) End(waiting_.begin(), &waiting_, over);
}

void StepLoop::TakeInbox() {
  const bool idle = running_.empty() && waiting_.empty() && releases_.empty();
  const absl::Duration wait = linked_ ? kIdleWait : kUnlinkedWait;
  std::optional<GenerationRequest> request = inbox_.PopFor(idle ? wait : absl::ZeroDuration());
  for (; request.has_value(); request = inbox_.PopFor(absl::ZeroDuration())) {
    const uint64_t key = next_key_++;
    waiting_.emplace(key, std::make_unique<Sequence>(key, *std::move(request), tokenizer_));
    if (link_ != nullptr) RefuseWhatNeverFits();
  }
}

void StepLoop::EndUnwanted() {
  const absl::Time now = clock_->Now();
  for (Sequences* sequences : {&running_, &waiting_}) {
    for (auto it = sequences->begin(); it != sequences->end();) {
      const auto here = it++;
      const GenerationRequest& request = here->second->request;
      if (request.cancelled->load()) {
        End(here, sequences, absl::CancelledError("the client went away"));
      } else if (now >= request.deadline) {
        const absl::Status ready = cluster_.readiness();
        End(here, sequences,
            absl::DeadlineExceededError(absl::StrCat("the request's deadline is over after ",
                                                     here->second->answer.tokens(), " tokens",
                                                     ready.ok() ? "" : ": ", ready.message())));
      }
    }
  }
}

// A request with a deadline waits until then, the others ready_wait from their arrival or their
// last token.
void StepLoop::EndUnservable(const absl::Status& reason) {
  const absl::Duration now = clock_->Monotonic();
  for (Sequences* sequences : {&running_, &waiting_}) {
    for (auto it = sequences->begin(); it != sequences->end();) {
      const auto here = it++;
      const Sequence& sequence = *here->second;
      const absl::Duration since = sequence.last_token_at.value_or(sequence.request.arrival);
      if (sequence.request.deadline != absl::InfiniteFuture() || now - since < options_.ready_wait)
        continue;
      End(here, sequences,
          absl::UnavailableError(absl::StrCat("the cluster is not ready: ", reason.message())));
    }
  }
}

absl::Status StepLoop::EnsureLink() {
  const std::vector<ReadyWorker> workers = cluster_.gpu_workers();
  if (link_ != nullptr) {
    const bool still_there = std::any_of(
        workers.begin(), workers.end(),
        [this](const ReadyWorker& worker) { return worker.worker_id == link_worker_id_; });
    if (still_there) return absl::OkStatus();
    LoseLink(absl::UnavailableError("it left the cluster"), {});
  }
  if (clock_->Monotonic() < link_retry_at_)
    return absl::UnavailableError("the GPU worker was just lost");
  if (workers.empty()) return absl::UnavailableError("no GPU worker is ready");
  link_retry_at_ = clock_->Monotonic() + options_.reconnect_wait;
  // One that was just lost is listed until its lease is over; any other is better.
  const auto other = std::find_if(
      workers.begin(), workers.end(),
      [this](const ReadyWorker& worker) { return worker.worker_id != link_worker_id_; });
  return OpenLink(other == workers.end() ? workers.front() : *other);
}

absl::Status StepLoop::OpenLink(const ReadyWorker& worker) {
  link_worker_id_ = worker.worker_id;  // if it fails, another is tried next
  auto link = rpc::EngineLink::Make(worker.address);
  absl::StatusOr<engine::v1::DescribeResponse> engine = link->Describe(kDescribeTimeout);
  if (!engine.ok()) return engine.status();
  TANDEM_RETURN_IF_ERROR(CheckDescription(*engine, worker.address));
  TANDEM_CHECK(running_.empty());
  link_ = std::move(link);
  pages_.emplace(engine->kv_pages());
  releases_.clear();
  pages_to_free_.clear();
  limits_.rows_max = engine->rows_max();
  limits_.prefill_rows_max = std::min(options_.prefill_rows_max, engine->rows_max());
  limits_.sequences_max = std::min(options_.sequences_max, engine->rows_max());
  limits_.page_tokens = engine->page_tokens();
  base::LogInfo("gpu_worker_linked", {{"worker", worker.worker_id},
                                      {"address", worker.address},
                                      {"kv_pages", engine->kv_pages()},
                                      {"rows_max", engine->rows_max()},
                                      {"backend", engine->backend()}});
  {
    absl::MutexLock lock(&mutex_);
    engine_ = *std::move(engine);
  }
  linked_ = true;  // whoever sees the cluster ready also sees what it computes with
  RefuseWhatNeverFits();
  return absl::OkStatus();
}

// A sequence must fit the pages when it runs alone, or the scheduler could never finish it. The
// answer is cut, as by the context.
void StepLoop::RefuseWhatNeverFits() {
  const uint64_t capacity_tokens = uint64_t{pages_->pages()} * limits_.page_tokens;
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    const auto here = it++;
    Sequence& sequence = *here->second;
    if (sequence.total() + uint64_t{1} > capacity_tokens) {
      End(here, &waiting_,
          absl::InvalidArgumentError(absl::StrCat("the request has ", sequence.total(),
                                                  " tokens, the KV cache of the GPU worker holds ",
                                                  capacity_tokens, " with the answer")));
    } else {
      sequence.answer.LimitTokens(capacity_tokens - sequence.prompt_size());
    }
  }
}

// A request on its last attempt may be what kills workers. It runs alone, so that, if it is, no
// other request dies with it.
StepDecision StepLoop::Decide() const {
  std::vector<SequenceView> running, waiting, suspect_running, suspect_waiting;
  const auto sort = [&](const Sequences& from, std::vector<SequenceView>* normal,
                        std::vector<SequenceView>* suspects) {
    for (const auto& [key, sequence] : from) {
      const bool last_attempt =
          sequence->attempts_lost >= options_.attempts_max - 1 && sequence->attempts_lost > 0;
      (last_attempt ? suspects : normal)->push_back(sequence->View());
    }
  };
  sort(running_, &running, &suspect_running);
  sort(waiting_, &waiting, &suspect_waiting);
  if (!suspect_running.empty())
    return ScheduleStep(limits_, {suspect_running.front()}, {}, pages_->pages_free());
  if (!suspect_waiting.empty()) {
    const StepDecision alone =
        ScheduleStep(limits_, {}, {suspect_waiting.front()}, pages_->pages_free());
    if (!alone.slices.empty()) return alone;
  }
  return ScheduleStep(limits_, running, waiting, pages_->pages_free());
}

void StepLoop::RunStep() {
  const StepDecision decision = Decide();
  Preempt(decision.preempted);
  StepPlan plan = BuildPlan(decision);
  // Nothing to do although something waits: its pages come free with a step that is already
  // planned, or it needs time.
  if (plan.slices().empty() && plan.releases().empty()) return absl::SleepFor(kNotReadyWait);
  const absl::Duration allowance = StepAllowance(decision);
  plan.set_deadline_ms(CeilMillis(allowance));
  const absl::Duration start = clock_->Monotonic();
  // A worker that keeps no deadline is lost; one that keeps an early one has done well.
  absl::StatusOr<StepResult> result = link_->RunStep(plan, options_.step_timeout);
  if (!result.ok()) return LoseLink(result.status(), decision);
  const bool late =
      result->status_code() == static_cast<uint32_t>(absl::StatusCode::kDeadlineExceeded);
  if (late && allowance < options_.step_timeout) return ExpireStep(decision);
  if (absl::Status status = CheckResult(plan, *result); !status.ok())
    return LoseLink(status, decision);
  metrics_->step_seconds.Observe(Seconds(clock_->Monotonic() - start));
  metrics_->step_compute_seconds.Observe(result->compute_us() * 1e-6);
  metrics_->step_expert_wait_seconds.Observe(result->expert_wait_us() * 1e-6);
  ApplyResult(plan, decision, *std::move(result));
}

absl::Duration StepLoop::StepAllowance(const StepDecision& decision) const {
  if (decision.slices.empty()) return options_.step_timeout;
  absl::Time last = absl::InfinitePast();
  for (const SliceDecision& slice : decision.slices) {
    last = std::max(last, running_.at(slice.key)->request.deadline);
  }
  return std::clamp(last - clock_->Now(), absl::Milliseconds(1), options_.step_timeout);
}

// The worker has dropped what the plan released, and holds its sequences as failed.
void StepLoop::ExpireStep(const StepDecision& decision) {
  FreeReleased();
  for (const SliceDecision& slice : decision.slices) {
    const auto it = running_.find(slice.key);
    TANDEM_CHECK(it != running_.end());
    End(it, &running_,
        absl::DeadlineExceededError(absl::StrCat("the request's deadline is over after ",
                                                 it->second->answer.tokens(), " tokens")));
  }
}

void StepLoop::Preempt(const std::vector<uint64_t>& keys) {
  for (const uint64_t key : keys) {
    auto node = running_.extract(key);
    TANDEM_CHECK(!node.empty());
    metrics_->preemptions.Increment();
    Retire(*node.mapped());
    waiting_.insert(std::move(node));
  }
}

// Also moves admitted sequences to running_ and gives every slice its pages.
StepPlan StepLoop::BuildPlan(const StepDecision& decision) {
  StepPlan plan;
  plan.set_step_id(next_step_id_++);
  for (const uint64_t key : decision.admitted) {
    auto node = waiting_.extract(key);
    TANDEM_CHECK(!node.empty());
    Sequence& sequence = *node.mapped();
    sequence.engine_id = next_engine_id_++;
    engine::v1::SequenceStart* start = plan.add_starts();
    start->set_sequence_id(sequence.engine_id);
    *start->mutable_sampling() = sequence.request.sampling;
    start->set_prompt_tokens(sequence.prompt_size());
    running_.insert(std::move(node));
  }
  uint32_t rows = 0;
  for (const SliceDecision& slice : decision.slices) {
    AddSlice(slice, &plan);
    rows += slice.count;
  }
  if (rows > 0) metrics_->iteration_rows.Observe(rows);
  for (const uint64_t id : releases_) plan.add_releases(id);
  return plan;
}

void StepLoop::AddSlice(const SliceDecision& slice, StepPlan* plan) {
  Sequence& sequence = *running_.at(slice.key);
  std::optional<std::vector<uint32_t>> pages = pages_->Allocate(slice.new_pages);
  TANDEM_CHECK(pages.has_value());
  if (!sequence.first_slice_at) {
    sequence.first_slice_at = clock_->Monotonic();
    metrics_->queue_seconds.Observe(Seconds(*sequence.first_slice_at - sequence.request.arrival));
  }
  engine::v1::SequenceSlice* out = plan->add_slices();
  out->set_sequence_id(sequence.engine_id);
  out->set_kind(slice.prefill ? engine::v1::SLICE_KIND_PREFILL : engine::v1::SLICE_KIND_DECODE);
  out->set_start_position(slice.start);
  out->mutable_token_ids()->Add(sequence.tokens.begin() + slice.start,
                                sequence.tokens.begin() + slice.start + slice.count);
  out->mutable_new_pages()->Add(pages->begin(), pages->end());
  out->set_sample(slice.reaches_end && sequence.request.max_tokens > 0);
  if (slice.prefill && sequence.wants_prompt_logprobs()) {
    out->set_prompt_logprobs_plus1(sequence.request.prompt_logprobs_plus1);
  }
  sequence.pages.insert(sequence.pages.end(), pages->begin(), pages->end());
}

absl::Status StepLoop::CheckResult(const StepPlan& plan, const StepResult& result) const {
  if (result.status_code() != 0) {
    const absl::Status status = rpc::StatusFromWire(result.status_code(), result.status_message());
    return absl::Status(status.code(),
                        absl::StrCat("GPU worker ", link_worker_id_, ": ", status.message()));
  }
  if (result.slices_size() != plan.slices_size()) {
    return absl::InternalError(absl::StrCat("expected results of ", plan.slices_size(),
                                            " slices from GPU worker ", link_worker_id_, ", found ",
                                            result.slices_size()));
  }
  for (int i = 0; i < plan.slices_size(); ++i) {
    if (plan.slices(i).sequence_id() == result.slices(i).sequence_id()) continue;
    return absl::InternalError(absl::StrCat(
        "expected a result of sequence ", plan.slices(i).sequence_id(), " from GPU worker ",
        link_worker_id_, ", found one of ", result.slices(i).sequence_id()));
  }
  return absl::OkStatus();
}

// The worker has dropped what the plan released; what is retired from here on is for the next.
void StepLoop::FreeReleased() {
  releases_.clear();
  pages_->Free(pages_to_free_);
  pages_to_free_.clear();
}

void StepLoop::ApplyResult(const StepPlan& plan, const StepDecision& decision, StepResult result) {
  FreeReleased();
  for (int i = 0; i < result.slices_size(); ++i) {
    ApplySlice(decision.slices[i].key, decision.slices[i], plan.slices(i).sample(),
               std::move(*result.mutable_slices(i)));
  }
}

void StepLoop::ApplySlice(uint64_t key, const SliceDecision& slice, bool sampled,
                          SliceResult result) {
  const auto it = running_.find(key);
  TANDEM_CHECK(it != running_.end());
  Sequence& sequence = *it->second;
  if (result.status_code() != 0) {
    absl::Status why = rpc::StatusFromWire(result.status_code(), result.status_message());
    // The step was cut short for its requests' sake, whatever was given up then.
    if (clock_->Now() >= sequence.request.deadline)
      why = absl::DeadlineExceededError(
          absl::StrCat("the request's deadline is over: ", why.message()));
    return End(it, &running_, why);
  }
  if (sampled && !result.has_token()) {
    return End(it, &running_,
               absl::InternalError("the GPU worker sent no token where one was asked for"));
  }
  sequence.computed += slice.count;
  if (slice.prefill && sequence.computed > sequence.prompt_counted) {
    metrics_->prompt_tokens.Increment(sequence.computed - sequence.prompt_counted);
    sequence.prompt_counted = sequence.computed;
  }
  for (auto& position : *result.mutable_prompt_logprobs()) {
    if (sequence.wants_prompt_logprobs()) sequence.prompt_logprobs.push_back(std::move(position));
  }
  if (!slice.reaches_end) return;

  inference::v1::GenerateChunk chunk;
  bool finished = true;
  if (sampled) {
    std::optional<sampling::v1::PositionLogprobs> logprobs;
    if (result.has_logprobs()) logprobs = std::move(*result.mutable_logprobs());
    sequence.tokens.push_back(result.token_id());
    sequence.attempts_lost = 0;  // further than ever: not what it is suspected of
    chunk = sequence.answer.Push(result.token_id(), result.is_stop_token(), std::move(logprobs));
    finished = sequence.answer.finished();
    CountToken(sequence);
  } else {
    chunk.set_finish_reason(inference::v1::FINISH_REASON_LENGTH);  // no token is wanted
  }
  if (sequence.wants_prompt_logprobs()) {
    if (sequence.prompt_logprobs.size() != sequence.request.prompt.size() - 1) {
      return End(it, &running_,
                 absl::InternalError(absl::StrCat(
                     "expected log probabilities of ", sequence.request.prompt.size() - 1,
                     " prompt tokens, found ", sequence.prompt_logprobs.size())));
    }
    for (auto& position : sequence.prompt_logprobs)
      *chunk.add_prompt_logprobs() = std::move(position);
    sequence.prompt_logprobs.clear();
    sequence.prompt_logprobs_sent = true;
  }
  if (finished) SetTimes(sequence, &chunk);
  const std::string reason = FinishName(chunk.finish_reason());
  sequence.request.send(std::move(chunk));
  if (finished) End(it, &running_, absl::OkStatus(), reason);
}

void StepLoop::CountToken(Sequence& sequence) {
  const absl::Duration now = clock_->Monotonic();
  metrics_->generation_tokens.Increment();
  if (!sequence.first_token_at) {
    sequence.first_token_at = now;
    metrics_->first_token_seconds.Observe(Seconds(now - sequence.request.arrival));
  } else {
    metrics_->inter_token_seconds.Observe(Seconds(now - *sequence.last_token_at));
  }
  sequence.last_token_at = now;
}

void StepLoop::SetTimes(const Sequence& sequence, inference::v1::GenerateChunk* chunk) const {
  const absl::Duration arrival = sequence.request.arrival;
  chunk->set_prompt_tokens(sequence.prompt_size());
  chunk->set_completion_tokens(sequence.answer.tokens());
  chunk->set_queue_us(Micros(sequence.first_slice_at.value_or(arrival) - arrival));
  if (sequence.first_token_at)
    chunk->set_first_token_us(Micros(*sequence.first_token_at - arrival));
  chunk->set_total_us(Micros(clock_->Monotonic() - arrival));
}

void StepLoop::LoseLink(const absl::Status& why, const StepDecision& decision) {
  base::LogWarning("gpu_worker_lost", {{"worker", link_worker_id_},
                                       {"reason", why.ToString()},
                                       {"requests_to_replay", running_.size()}});
  link_.reset();
  linked_ = false;
  pages_.reset();
  link_retry_at_ = clock_->Monotonic() + options_.reconnect_wait;
  for (const SliceDecision& slice : decision.slices) ++running_.at(slice.key)->attempts_lost;
  while (!running_.empty()) {
    auto node = running_.extract(running_.begin());
    node.mapped()->Rewind();
    metrics_->replays.Increment();
    waiting_.insert(std::move(node));
  }
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    const auto here = it++;
    const int lost = here->second->attempts_lost;
    if (lost < options_.attempts_max) continue;
    End(here, &waiting_,
        absl::UnavailableError(absl::StrCat("given up after ", lost,
                                            " lost steps, the last because: ", why.message())));
  }
  releases_.clear();
  pages_to_free_.clear();
}

void StepLoop::End(Sequences::iterator it, Sequences* from, const absl::Status& status,
                   const std::string& finish_reason) {
  const std::unique_ptr<Sequence> sequence = std::move(it->second);
  from->erase(it);
  Retire(*sequence);
  const absl::Duration total = clock_->Monotonic() - sequence->request.arrival;
  metrics_->CountEnd(status, finish_reason);
  metrics_->e2e_seconds.Observe(Seconds(total));
  base::Log(status.ok() ? base::LogLevel::kDebug : base::LogLevel::kInfo, "request_ended",
            {{"request", sequence->request.id},
             {"status", status.ok() ? finish_reason : status.ToString()},
             {"prompt_tokens", sequence->prompt_size()},
             {"completion_tokens", sequence->answer.tokens()},
             {"total_ms", absl::ToInt64Milliseconds(total)}});
  sequence->request.finish(status);
  requests_.fetch_sub(1);
}

void StepLoop::Retire(Sequence& sequence) {
  if (sequence.engine_id != 0) releases_.push_back(sequence.engine_id);
  pages_to_free_.insert(pages_to_free_.end(), sequence.pages.begin(), sequence.pages.end());
  sequence.Rewind();
}

void StepLoop::UpdateGauges() {
  metrics_->requests_running.Set(static_cast<double>(running_.size()));
  metrics_->requests_waiting.Set(static_cast<double>(waiting_.size()));
  const double used = pages_ ? 1.0 - double(pages_->pages_free()) / pages_->pages() : 0.0;
  metrics_->kv_cache_usage.Set(used);
}

}  // namespace tandem::coordinator
