#include "gpu_worker/engine/plan_check.h"

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/engine/sampler.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker {
namespace {

using engine::v1::SequenceSlice;
using engine::v1::SequenceStart;
using engine::v1::StepPlan;

// What a sequence will be after the part of the plan checked so far.
struct Planned {
  int64_t prompt_tokens = 0;
  int64_t tokens = 0;
  int64_t pages = 0;
  bool has_last_logits = false;
  bool failed = false;
};

class Checker {
 public:
  Checker(const Sequences& sequences, const PlanLimits& limits)
      : sequences_(sequences), limits_(limits) {}

  absl::Status Check(const StepPlan& plan) {
    if (plan.deadline_ms() == 0) return Bad("deadline_ms: expected at least 1, found 0");
    for (const SequenceStart& start : plan.starts()) TANDEM_RETURN_IF_ERROR(CheckStart(start));
    for (const SequenceSlice& slice : plan.slices()) TANDEM_RETURN_IF_ERROR(CheckSlice(slice));
    if (rows_ > limits_.rows_max) {
      return Bad("rows: expected at most ", limits_.rows_max, ", found ", rows_);
    }
    return absl::OkStatus();
  }

 private:
  template <typename... Parts>
  static absl::Status Bad(const Parts&... parts) {
    return absl::InvalidArgumentError(absl::StrCat("step plan refused: ", parts...));
  }

  absl::Status CheckStart(const SequenceStart& start) {
    const uint64_t id = start.sequence_id();
    if (planned_.contains(id) || sequences_.Find(id) != nullptr) {
      return Bad("sequence ", id, " is started but already lives");
    }
    if (start.prompt_tokens() == 0) return Bad("sequence ", id, " has no prompt tokens");
    const absl::Status sampling = CheckSampling(start.sampling(), limits_.vocab_size);
    if (!sampling.ok()) return Bad("sequence ", id, ": ", sampling.message());
    planned_[id].prompt_tokens = start.prompt_tokens();
    return absl::OkStatus();
  }

  Planned* Find(uint64_t id) {
    const auto it = planned_.find(id);
    if (it != planned_.end()) return &it->second;
    const Sequence* live = sequences_.Find(id);
    if (live == nullptr) return nullptr;
    Planned planned{live->prompt_tokens, static_cast<int64_t>(live->tokens.size()),
                    static_cast<int64_t>(live->pages.size()), !live->last_logits.empty(),
                    !live->failure.ok()};
    return &planned_.emplace(id, planned).first->second;
  }

  absl::Status CheckSlice(const SequenceSlice& slice) {
    Planned* sequence = Find(slice.sequence_id());
    if (sequence == nullptr) return Bad("sequence ", slice.sequence_id(), " is unknown");
    if (slice.token_ids().empty()) return Bad("slice of ", slice.sequence_id(), " has no tokens");
    rows_ += slice.token_ids_size();
    TANDEM_RETURN_IF_ERROR(CheckTokens(slice));
    TANDEM_RETURN_IF_ERROR(CheckPages(slice, *sequence));
    if (sequence->failed) return absl::OkStatus();
    TANDEM_RETURN_IF_ERROR(CheckPositions(slice, *sequence));
    TANDEM_RETURN_IF_ERROR(CheckKind(slice, *sequence));
    TANDEM_RETURN_IF_ERROR(CheckLogprobs(slice, *sequence));
    sequence->tokens += slice.token_ids_size();
    sequence->has_last_logits = slice.prompt_logprobs_plus1() > 0;
    return absl::OkStatus();
  }

  absl::Status CheckTokens(const SequenceSlice& slice) const {
    for (const uint32_t token : slice.token_ids()) {
      if (token >= limits_.vocab_size) {
        return Bad("token of sequence ", slice.sequence_id(), ": expected below ",
                   limits_.vocab_size, ", found ", token);
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckPages(const SequenceSlice& slice, Planned& sequence) {
    for (const uint32_t page : slice.new_pages()) {
      if (page >= sequences_.kv_pages()) {
        return Bad("page of sequence ", slice.sequence_id(), ": expected below ",
                   sequences_.kv_pages(), ", found ", page);
      }
      if (sequences_.IsTaken(page) || !new_pages_.insert(page).second) {
        return Bad("page ", page, " of sequence ", slice.sequence_id(), " is already taken");
      }
    }
    sequence.pages += slice.new_pages_size();
    return absl::OkStatus();
  }

  absl::Status CheckPositions(const SequenceSlice& slice, const Planned& sequence) const {
    if (slice.start_position() != sequence.tokens) {
      return Bad("start_position of sequence ", slice.sequence_id(), ": expected ", sequence.tokens,
                 ", found ", slice.start_position());
    }
    const int64_t end = sequence.tokens + slice.token_ids_size();
    if (end > sequence.pages * kPageTokens) {
      return Bad("pages of sequence ", slice.sequence_id(), ": expected at least ",
                 (end + kPageTokens - 1) / kPageTokens, " for ", end, " tokens, found ",
                 sequence.pages);
    }
    return absl::OkStatus();
  }

  absl::Status CheckKind(const SequenceSlice& slice, const Planned& sequence) const {
    const int64_t begin = sequence.tokens, end = begin + slice.token_ids_size();
    switch (slice.kind()) {
      case engine::v1::SLICE_KIND_PREFILL:
        if (end > sequence.prompt_tokens) {
          return Bad("prefill slice of sequence ", slice.sequence_id(), " ends at ", end,
                     ", expected within the prompt of ", sequence.prompt_tokens);
        }
        if (slice.sample() && end < sequence.prompt_tokens) {
          return Bad("sequence ", slice.sequence_id(), " is sampled at ", end,
                     ", inside its prompt of ", sequence.prompt_tokens);
        }
        return absl::OkStatus();
      case engine::v1::SLICE_KIND_DECODE:
        if (begin < sequence.prompt_tokens) {
          return Bad("decode slice of sequence ", slice.sequence_id(), " starts at ", begin,
                     ", expected after the prompt of ", sequence.prompt_tokens);
        }
        return absl::OkStatus();
      default:
        return Bad("slice of sequence ", slice.sequence_id(), " has unknown kind ",
                   static_cast<int>(slice.kind()));
    }
  }

  absl::Status CheckLogprobs(const SequenceSlice& slice, const Planned& sequence) const {
    if (slice.prompt_logprobs_plus1() == 0) return absl::OkStatus();
    if (slice.prompt_logprobs_plus1() - 1 > limits_.vocab_size) {
      return Bad("prompt_logprobs_plus1: expected at most ", limits_.vocab_size + 1, ", found ",
                 slice.prompt_logprobs_plus1());
    }
    if (sequence.tokens > 0 && !sequence.has_last_logits) {
      return Bad("prompt log probabilities of sequence ", slice.sequence_id(), " are asked from ",
                 sequence.tokens, " on, expected from its first slice on");
    }
    return absl::OkStatus();
  }

  const Sequences& sequences_;
  const PlanLimits limits_;
  absl::flat_hash_map<uint64_t, Planned> planned_;
  absl::flat_hash_set<uint32_t> new_pages_;
  int64_t rows_ = 0;
};

}  // namespace

absl::Status CheckPlan(const StepPlan& plan, const Sequences& sequences, const PlanLimits& limits) {
  return Checker(sequences, limits).Check(plan);
}

}  // namespace tandem::gpu_worker
