#include "coordinator/api/openai_reply.h"

#include "absl/strings/str_cat.h"
#include "coordinator/api/sse.h"

namespace tandem::coordinator {
namespace {

using inference::v1::GenerateChunk;

// What a stream may leave lying for a reader that does not read: minutes of text, or seconds of
// text with many log probabilities. A whole answer is bounded by the context instead.
constexpr size_t kWaitingBytesMax = 8 << 20;

// Adds `later` to `chunk`, as if they had been one. MergeFrom appends lists and replaces text.
void Append(const GenerateChunk& later, GenerateChunk* chunk) {
  std::string text = std::move(*chunk->mutable_text());
  text += later.text();
  chunk->MergeFrom(later);
  chunk->set_text(std::move(text));
}

}  // namespace

AnswerInbox::AnswerInbox(size_t answers, bool streams, std::function<void()> wake)
    : streams_(streams), wake_(std::move(wake)), answers_(answers), running_(answers) {}

void AnswerInbox::Connect(const std::shared_ptr<AnswerInbox>& inbox, size_t index,
                          GenerationRequest* generation) {
  generation->cancelled = inbox->cancelled_;
  generation->send = [inbox, index](GenerateChunk chunk) { inbox->Send(index, std::move(chunk)); };
  generation->finish = [inbox, index](const absl::Status& status) { inbox->Finish(index, status); };
}

void AnswerInbox::Send(size_t index, GenerateChunk chunk) {
  if (cancelled_->load()) return;
  {
    absl::MutexLock lock(&mutex_);
    // One chunk may be larger: that of a long prompt's log probabilities.
    if (waiting_bytes_ > kWaitingBytesMax) {
      failure_ = absl::ResourceExhaustedError(
          absl::StrCat("the client did not read ", kWaitingBytesMax >> 20, " MiB of its answer"));
      cancelled_->store(true);
      return;
    }
    if (streams_) waiting_bytes_ += chunk.ByteSizeLong();
    Answer& answer = answers_[index];
    // The first one may hold a long prompt's log probabilities: it is moved, not merged.
    if (answer.fresh) {
      Append(chunk, &answer.chunk);
    } else {
      answer.chunk = std::move(chunk);
    }
    answer.fresh = true;
  }
  if (streams_) wake_();
}

void AnswerInbox::Finish(size_t index, const absl::Status& status) {
  bool news = streams_;
  {
    absl::MutexLock lock(&mutex_);
    Answer& answer = answers_[index];
    answer.ended = true;
    answer.status = status;
    --running_;
    if (!status.ok() && failure_.ok()) failure_ = status;
    news = news || running_ == 0 || !status.ok();
  }
  if (news) wake_();
}

std::vector<AnswerInbox::Answer> AnswerInbox::Take() {
  absl::MutexLock lock(&mutex_);
  waiting_bytes_ = 0;
  std::vector<Answer> taken(answers_.size());
  for (size_t i = 0; i < answers_.size(); ++i) {
    std::swap(taken[i].chunk, answers_[i].chunk);
    taken[i].fresh = std::exchange(answers_[i].fresh, false);
    taken[i].ended = answers_[i].ended;
    taken[i].status = answers_[i].status;
  }
  return taken;
}

bool AnswerInbox::AllEnded() const {
  absl::MutexLock lock(&mutex_);
  return running_ == 0;
}

absl::Status AnswerInbox::Failure() const {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

HttpPart OpenAiReply::Take(bool waited_long) {
  return parts_.call->stream ? TakeEvents(waited_long) : TakeWhole();
}

// One failed answer fails the call: half an answer in a whole body could not be told apart.
HttpPart OpenAiReply::TakeWhole() {
  if (const absl::Status failure = parts_.inbox->Failure(); !failure.ok()) {
    parts_.inbox->Cancel();
    return ErrorPart(ErrorOf(failure));
  }
  if (head_sent_ || !parts_.inbox->AllEnded()) return {};
  head_sent_ = true;
  std::vector<AnswerInbox::Answer> answers = parts_.inbox->Take();
  std::vector<std::string> choices;
  for (size_t i = 0; i < answers.size(); ++i) {
    choices.push_back(DumpJson(parts_.renderers[i].Whole(answers[i].chunk)));
    parts_.usage.completion_tokens += answers[i].chunk.completion_tokens();
    answers[i].chunk.Clear();
  }
  HttpPart part;
  part.head.emplace();
  part.body = WholeBody(parts_.envelope, parts_.call->chat, choices, parts_.usage);
  part.last = true;
  return part;
}

void OpenAiReply::AddEvents(size_t index, AnswerInbox::Answer& answer, std::string* body) {
  if (!answer.fresh) return;
  parts_.usage.completion_tokens += answer.chunk.completion_tokens();
  for (OutputJson& choice : parts_.renderers[index].Events(answer.chunk)) {
    *body += SseEvent(EventBody(parts_.envelope, parts_.call->chat, std::move(choice),
                                parts_.call->include_usage));
  }
}

HttpPart OpenAiReply::TakeEvents(bool waited_long) {
  const bool all_ended = parts_.inbox->AllEnded();  // first: what came before is taken below
  const absl::Status failure = parts_.inbox->Failure();
  HttpPart part;
  if (!failure.ok()) {
    parts_.inbox->Cancel();
    if (!head_sent_) return ErrorPart(ErrorOf(failure));
  }
  std::vector<AnswerInbox::Answer> answers = parts_.inbox->Take();
  for (size_t i = 0; i < answers.size(); ++i) AddEvents(i, answers[i], &part.body);
  if (!failure.ok()) {
    part.body += SseEvent(ErrorJson(ErrorOf(failure)));
    part.last = true;
  } else if (all_ended) {
    if (parts_.call->include_usage)
      part.body += SseEvent(UsageBody(parts_.envelope, parts_.call->chat, parts_.usage));
    part.body += kSseDone;
    part.last = true;
  } else if (part.body.empty() && waited_long) {
    part.body = kSsePing;
  }
  if (!part.body.empty() && !head_sent_) {
    head_sent_ = true;
    part.head.emplace();
    part.head->content_type = kSseContentType;
    // Proxies that collect answers before they pass them on would make a stream no stream.
    part.head->fields = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  }
  return part;
}

}  // namespace tandem::coordinator
