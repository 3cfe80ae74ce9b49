#include "gpu_worker/engine/row_answers.h"

#include <algorithm>

#include "absl/status/statusor.h"
#include "gpu_worker/engine/logit_needs.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker {
namespace {

using sampling::v1::PositionLogprobs;

// Rows that are in host memory at once, 10 MB of the largest vocabulary.
constexpr int64_t kWholeRowsMax = 16;

std::span<const uint32_t> ListedIds(const SampleInput& row) {
  const auto& ids = row.params->logprob_token_ids();
  return {ids.data(), static_cast<size_t>(ids.size())};
}

// Calls body(i, row) for every row of `rows`, read whole, a few at a time.
template <typename Body>
void ForWholeRows(RowLogits& logits, int64_t vocab, std::span<const int64_t> rows, Body body) {
  std::vector<float> values;
  for (size_t begin = 0; begin < rows.size(); begin += kWholeRowsMax) {
    const size_t count = std::min<size_t>(kWholeRowsMax, rows.size() - begin);
    logits.Rows(rows.subspan(begin, count), &values);
    for (size_t i = 0; i < count; ++i) {
      body(begin + i, std::span<const float>(values).subspan(i * vocab, vocab));
    }
  }
}

// One group of rows: what each needs, asked for all of them together.
class Group {
 public:
  Group(RowLogits& logits, int64_t vocab, std::span<const SampleInput> rows)
      : logits_(logits), vocab_(vocab), rows_(rows), answers_(rows.size()), parts_(rows.size()) {}

  std::vector<RowAnswer> Answer(int64_t* whole_rows) {
    std::vector<int64_t> whole = AskForBest();
    AskForTokens();
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (InParts(i)) FindKnown(i);
    }
    AskForSums();
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (InParts(i) && !AnswerFromParts(i)) whole.push_back(static_cast<int64_t>(i));
    }
    ForWholeRows(logits_, vocab_, whole,
                 [&](size_t i, std::span<const float> row) { AnswerFromRow(whole[i], row); });
    if (whole_rows != nullptr) *whole_rows += static_cast<int64_t>(whole.size());
    return std::move(answers_);
  }

 private:
  // What is known of a row that is not read whole.
  struct Parts {
    LogitNeeds needs;
    std::vector<TokenLogit> touched, listed;  // raw
    std::vector<TokenLogit> adjusted;         // touched, after bias and penalties
    std::vector<TokenLogit> known;            // the same of all that are known, in order
    uint64_t weight_sum = 0, log_sum = 0;     // WeightSum's, raw
  };

  bool InParts(size_t i) const { return answers_[i].status.ok() && !parts_[i].needs.whole; }

  // Returns the rows that are needed whole from the start; what is not finite among them is found
  // as well.
  std::vector<int64_t> AskForBest() {
    int64_t k = 1;
    for (size_t i = 0; i < rows_.size(); ++i) {
      parts_[i].needs = NeedsOf(rows_[i], vocab_);
      if (!parts_[i].needs.whole) k = std::max(k, parts_[i].needs.best);
    }
    logits_.Best(k, &best_);
    TANDEM_CHECK_EQ(best_.not_finite.size(), rows_.size());
    std::vector<int64_t> whole;
    for (size_t i = 0; i < rows_.size(); ++i) {
      answers_[i].status = CheckFinite(best_.not_finite[i]);
      if (answers_[i].status.ok() && parts_[i].needs.whole) {
        whole.push_back(static_cast<int64_t>(i));
      }
    }
    return whole;
  }

  void AskForTokens() {
    std::vector<LogitPlace> places;
    ForTokens([&](size_t i, uint32_t id, std::vector<TokenLogit>&) {
      places.push_back({static_cast<uint32_t>(i), id});
    });
    if (places.empty()) return;
    std::vector<float> values;
    logits_.At(places, &values);
    size_t next = 0;
    ForTokens([&](size_t, uint32_t id, std::vector<TokenLogit>& to) {
      to.push_back({id, values[next++]});
    });
  }
  template <typename Body>
  void ForTokens(Body body) {
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (!InParts(i)) continue;
      for (const uint32_t id : parts_[i].needs.touched) body(i, id, parts_[i].touched);
      for (const uint32_t id : ListedIds(rows_[i])) body(i, id, parts_[i].listed);
    }
  }

  void FindKnown(size_t i) {
    const std::span<const TokenLogit> best = best_.row(static_cast<int64_t>(i));
    Parts& parts = parts_[i];
    if (parts.touched.empty()) {
      parts.known.assign(best.begin(), best.end());
      return;
    }
    parts.adjusted = AdjustTouched(rows_[i], parts.touched);
    parts.known = AdjustBest(best, parts.adjusted, vocab_);
  }

  void AskForSums() {
    std::vector<WeightSumAsk> asks;
    ForSums([&](const WeightSumAsk& ask, uint64_t&) { asks.push_back(ask); });
    if (asks.empty()) return;
    std::vector<uint64_t> sums;
    logits_.WeightSums(asks, &sums);
    size_t next = 0;
    ForSums([&](const WeightSumAsk&, uint64_t& to) { to = sums[next++]; });
  }
  template <typename Body>
  void ForSums(Body body) {
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (!InParts(i)) continue;
      Parts& parts = parts_[i];
      const auto row = static_cast<uint32_t>(i);
      if (parts.needs.weight_sum && !parts.known.empty()) {
        body({row, parts.known[0].logit, rows_[i].params->temperature()}, parts.weight_sum);
      }
      if (parts.needs.log_sum) body({row, Highest(i), 1.0f}, parts.log_sum);
    }
  }
  float Highest(size_t i) const { return best_.row(static_cast<int64_t>(i))[0].logit; }

  // False where the parts do not decide the token.
  bool AnswerFromParts(size_t i) {
    const Parts& parts = parts_[i];
    const SampleInput& row = rows_[i];
    KnownTokens known = {parts.known, vocab_, parts.weight_sum};
    if (parts.needs.weight_sum && !parts.touched.empty() && !parts.known.empty()) {
      known.weight_sum = AdjustWeightSum(parts.touched, parts.adjusted, row.params->temperature(),
                                         parts.known[0].logit, parts.weight_sum);
    }
    const std::optional<uint32_t> token = SampleFromBest(*row.params, known, row.tokens.size());
    if (!token.has_value()) return false;
    answers_[i].token = *token;
    if (!parts.needs.log_sum) return true;
    const std::span<const TokenLogit> best = best_.row(static_cast<int64_t>(i));
    answers_[i].logprobs = LogprobsOf(LogSum(Highest(i), parts.log_sum), Raw(i, *token),
                                      best.first(row.params->top_logprobs()), parts.listed);
    return true;
  }

  // The raw logit of a token that was chosen: it is a touched one or among the best.
  TokenLogit Raw(size_t i, uint32_t token) const {
    const auto is_it = [token](const TokenLogit& t) { return t.id == token; };
    const std::vector<TokenLogit>& touched = parts_[i].touched;
    const auto found = std::find_if(touched.begin(), touched.end(), is_it);
    if (found != touched.end()) return *found;
    const std::span<const TokenLogit> best = best_.row(static_cast<int64_t>(i));
    const auto known = std::find_if(best.begin(), best.end(), is_it);
    TANDEM_CHECK(known != best.end());
    return *known;
  }

  void AnswerFromRow(int64_t i, std::span<const float> logits) {
    SampleInput input = rows_[i];
    input.logits = logits;
    answers_[i].token = SampleToken(input);
    if (!WantsLogprobs(*input.params)) return;
    answers_[i].logprobs =
        Logprobs(logits, answers_[i].token, input.params->top_logprobs(), ListedIds(input));
  }

  RowLogits& logits_;
  const int64_t vocab_;
  const std::span<const SampleInput> rows_;
  std::vector<RowAnswer> answers_;
  std::vector<Parts> parts_;
  BestLogits best_;
};

}  // namespace

std::vector<RowAnswer> NextTokens(RowLogits& logits, int64_t vocab,
                                  std::span<const SampleInput> rows, int64_t* whole_rows) {
  return Group(logits, vocab, rows).Answer(whole_rows);
}

absl::Status PromptLogprobs(RowLogits& logits, int64_t vocab, int64_t rows,
                            std::span<const uint32_t> next, int64_t top,
                            std::vector<PositionLogprobs>* logprobs) {
  const int64_t best_max = std::min(kBestLogitsMax, vocab);
  BestLogits best;
  const bool whole = top > best_max;
  logits.Best(whole ? 1 : std::max<int64_t>(1, top), &best);
  TANDEM_CHECK_EQ(static_cast<int64_t>(best.not_finite.size()), rows);
  for (int64_t r = 0; r < rows; ++r) TANDEM_RETURN_IF_ERROR(CheckFinite(best.not_finite[r]));
  logprobs->resize(next.size());
  if (whole) {
    std::vector<int64_t> all(next.size());
    for (size_t r = 0; r < all.size(); ++r) all[r] = static_cast<int64_t>(r);
    ForWholeRows(logits, vocab, all, [&](size_t r, std::span<const float> row) {
      (*logprobs)[r] = Logprobs(row, next[r], top);
    });
    return absl::OkStatus();
  }
  std::vector<WeightSumAsk> asks;
  std::vector<LogitPlace> places;
  for (uint32_t r = 0; r < next.size(); ++r) {
    asks.push_back({r, best.row(r)[0].logit, 1.0f});
    places.push_back({r, next[r]});
  }
  std::vector<uint64_t> sums;
  std::vector<float> values;
  logits.WeightSums(asks, &sums);
  logits.At(places, &values);
  for (size_t r = 0; r < next.size(); ++r) {
    (*logprobs)[r] = LogprobsOf(LogSum(asks[r].highest, sums[r]), {next[r], values[r]},
                                best.row(static_cast<int64_t>(r)).first(top));
  }
  return absl::OkStatus();
}

}  // namespace tandem::gpu_worker
