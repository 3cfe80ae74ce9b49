#include <algorithm>

#include "absl/time/clock.h"
#include "gpu_worker/engine/engine.h"
#include "gpu_worker/engine/row_answers.h"
#include "gpu_worker/engine/sampler.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker {
namespace {

using engine::v1::SequenceSlice;
using engine::v1::SliceResult;
using engine::v1::StepPlan;
using engine::v1::StepResult;

template <typename Message>
void SetStatus(const absl::Status& status, Message* message) {
  message->set_status_code(static_cast<uint32_t>(status.code()));
  message->set_status_message(std::string(status.message()));
}

std::vector<int64_t> RowRange(int64_t begin, int64_t count) {
  std::vector<int64_t> rows(count);
  for (int64_t i = 0; i < count; ++i) rows[i] = begin + i;
  return rows;
}

}  // namespace

Engine::Engine(const ModelConfig& config, Backend& backend, ExpertLink* experts,
               const ForwardOptions& options)
    : config_(config),
      backend_(backend),
      experts_(experts),
      trace_(options.trace),
      forward_(config, backend, experts, options),
      sequences_(backend.info().kv_pages) {
  if (trace_ == nullptr) return;
  backend_.NoteDeviceSpans(true);
  if (experts_ != nullptr) experts_->NoteFrameSpans(true);
}

StepResult Engine::Run(const StepPlan& plan, absl::Time received, const RouterProbe& probe) {
  const absl::Time started = absl::Now();
  if (trace_ != nullptr) trace_->BeginStep(plan.step_id());
  rows_ = 0;
  StepResult result;
  result.set_step_id(plan.step_id());
  absl::Status status = CheckPlan(plan, sequences_, {backend_.info().rows_max, config_.vocab_size});
  if (status.ok()) {
    status = Execute(plan, received + absl::Milliseconds(plan.deadline_ms()), probe, &result);
    for (const uint64_t id : plan.releases()) sequences_.Release(id);
  }
  if (!status.ok()) result.clear_slices();
  SetStatus(status, &result);
  result.set_compute_us(absl::ToInt64Microseconds(absl::Now() - started));
  if (trace_ != nullptr) EndTrace();
  return result;
}

void Engine::EndTrace() {
  trace_->EndStep(rows_, rows_ > 0 ? forward_.halves() : 0, backend_.TakeDeviceSpans(),
                  experts_ == nullptr ? std::vector<FrameSpan>() : experts_->TakeFrameSpans());
}

absl::Status Engine::Execute(const StepPlan& plan, absl::Time deadline, const RouterProbe& probe,
                             StepResult* result) {
  std::vector<Work> works = Admit(plan);
  const StepBatch batch = MakeBatch(works);
  std::vector<int64_t> owners;
  for (size_t i = 0; i < works.size(); ++i) {
    if (works[i].row_begin < 0) continue;
    owners.insert(owners.end(), works[i].slice->token_ids_size(),
                  static_cast<int64_t>(works[i].sequence->id));
  }
  std::vector<absl::Status> row_status;
  rows_ = batch.rows();
  if (batch.rows() > 0) {
    const absl::Status status = forward_.Run(batch, owners, deadline, &row_status, probe);
    result->set_expert_wait_us(absl::ToInt64Microseconds(forward_.times().expert_wait));
    if (!status.ok()) {
      for (const Work& work : works) work.sequence->failure = status;
      return status;
    }
  }
  for (const Work& work : works) {
    if (work.row_begin >= 0 && work.sequence->failure.ok()) {
      work.sequence->failure = row_status[work.row_begin];
    }
  }
  Answer(works, result);
  return absl::OkStatus();
}

// Takes the plan's starts, pages and tokens into the sequences. The plan has been proven.
std::vector<Engine::Work> Engine::Admit(const StepPlan& plan) {
  for (const auto& start : plan.starts()) {
    sequences_.Start(start.sequence_id(), start.sampling(), start.prompt_tokens());
  }
  std::vector<Work> works;
  for (const SequenceSlice& slice : plan.slices()) {
    Sequence* sequence = sequences_.Find(slice.sequence_id());
    for (const uint32_t page : slice.new_pages()) sequences_.AppendPage(*sequence, page);
    works.push_back({&slice, sequence, -1});
    if (!sequence->failure.ok()) continue;
    sequence->tokens.insert(sequence->tokens.end(), slice.token_ids().begin(),
                            slice.token_ids().end());
  }
  return works;
}

StepBatch Engine::MakeBatch(std::vector<Work>& works) const {
  StepBatch batch;
  for (Work& work : works) {
    if (!work.sequence->failure.ok()) continue;
    const SequenceSlice& slice = *work.slice;
    work.row_begin = batch.rows();
    batch.segments.push_back(
        {slice.kind() == engine::v1::SLICE_KIND_PREFILL ? RowKind::kPrefill : RowKind::kDecode,
         work.row_begin, slice.token_ids_size(), slice.start_position(), work.sequence->pages});
    for (int i = 0; i < slice.token_ids_size(); ++i) {
      batch.token_ids.push_back(slice.token_ids(i));
      batch.positions.push_back(static_cast<int64_t>(slice.start_position()) + i);
    }
  }
  return batch;
}

void Engine::Answer(std::span<const Work> works, StepResult* result) {
  std::vector<absl::Status> statuses;
  for (const Work& work : works) {
    SliceResult* slice = result->add_slices();
    absl::Status status = work.sequence->failure;
    if (status.ok()) status = AddPromptLogprobs(work, slice);
    statuses.push_back(std::move(status));
  }
  SampleAll(works, statuses, result);
  for (size_t i = 0; i < works.size(); ++i) {
    SliceResult* slice = result->mutable_slices(static_cast<int>(i));
    if (!statuses[i].ok()) {
      works[i].sequence->failure = statuses[i];
      slice->Clear();
    }
    slice->set_sequence_id(works[i].sequence->id);
    SetStatus(statuses[i], slice);
  }
}

// One pass over the vocabulary's weights serves as many rows as the backend takes at once.
void Engine::SampleAll(std::span<const Work> works, std::span<absl::Status> statuses,
                       StepResult* result) {
  std::vector<int64_t> chosen;  // indices into works
  for (size_t i = 0; i < works.size(); ++i) {
    if (works[i].slice->sample() && statuses[i].ok()) chosen.push_back(static_cast<int64_t>(i));
  }
  const size_t group_max = backend_.info().logit_rows_max;
  for (size_t begin = 0; begin < chosen.size(); begin += group_max) {
    const size_t count = std::min(group_max, chosen.size() - begin);
    SampleGroup(works, std::span(chosen).subspan(begin, count), statuses, result);
  }
}

void Engine::SampleGroup(std::span<const Work> works, std::span<const int64_t> chosen,
                         std::span<absl::Status> statuses, StepResult* result) {
  std::vector<int64_t> rows;
  std::vector<SampleInput> inputs;
  for (const int64_t index : chosen) {
    const Work& work = works[index];
    rows.push_back(work.row_begin + work.slice->token_ids_size() - 1);
    // The tokens up to this slice's end: a later slice of the same plan has added its own already.
    const size_t seen = work.slice->start_position() + work.slice->token_ids_size();
    inputs.push_back({{},
                      &work.sequence->sampling,
                      std::span(work.sequence->tokens).first(seen),
                      work.sequence->prompt_tokens});
  }
  RowLogits& logits = forward_.ComputeLogits(rows);
  const TraceScope traced(trace_, "sampling");
  std::vector<RowAnswer> answers = NextTokens(logits, config_.vocab_size, inputs);
  for (size_t i = 0; i < chosen.size(); ++i) {
    statuses[chosen[i]] = answers[i].status;
    if (!answers[i].status.ok()) continue;
    SetToken(works[chosen[i]], std::move(answers[i]),
             result->mutable_slices(static_cast<int>(chosen[i])));
  }
}

void Engine::SetToken(const Work& work, RowAnswer answer, SliceResult* result) {
  const sampling::v1::SamplingParams& sampling = work.sequence->sampling;
  result->set_has_token(true);
  result->set_token_id(answer.token);
  const auto& stops = sampling.stop_token_ids();
  result->set_is_stop_token(!sampling.ignore_stop_tokens() &&
                            std::find(stops.begin(), stops.end(), answer.token) != stops.end());
  if (answer.logprobs.has_value()) *result->mutable_logprobs() = *std::move(answer.logprobs);
}

// Position p's log probability comes from the logits of position p - 1, which for a slice's first
// token were computed by the slice before.
absl::Status Engine::AddPromptLogprobs(const Work& work, SliceResult* result) {
  Sequence& sequence = *work.sequence;
  const SequenceSlice& slice = *work.slice;
  std::vector<float> before = std::move(sequence.last_logits);
  sequence.last_logits.clear();
  if (slice.prompt_logprobs_plus1() == 0) return absl::OkStatus();
  const int64_t top = slice.prompt_logprobs_plus1() - 1, vocab = config_.vocab_size;
  const int64_t rows = slice.token_ids_size(), group_max = backend_.info().logit_rows_max;
  const std::span<const uint32_t> tokens(slice.token_ids().data(), rows);
  if (!before.empty()) *result->add_prompt_logprobs() = Logprobs(before, tokens[0], top);
  std::vector<sampling::v1::PositionLogprobs> logprobs;
  for (int64_t begin = 0; begin < rows; begin += group_max) {
    const int64_t count = std::min(group_max, rows - begin);
    RowLogits& logits = forward_.ComputeLogits(RowRange(work.row_begin + begin, count));
    const TraceScope traced(trace_, "log probabilities");
    const std::span<const uint32_t> next =
        tokens.subspan(begin + 1, std::min(count, rows - begin - 1));
    TANDEM_RETURN_IF_ERROR(PromptLogprobs(logits, vocab, count, next, top, &logprobs));
    for (auto& position : logprobs) *result->add_prompt_logprobs() = std::move(position);
    if (begin + count == rows) logits.Rows(RowRange(count - 1, 1), &sequence.last_logits);
  }
  return absl::OkStatus();
}

}  // namespace tandem::gpu_worker
