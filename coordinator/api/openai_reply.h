// The answer to one OpenAI call between the step loop, which makes its parts, and the HTTP server,
// which takes them when its client can. The step loop only ever leaves a part and goes on.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/api/http_exchange.h"
#include "coordinator/api/openai_request.h"
#include "coordinator/api/openai_response.h"
#include "coordinator/request/generation.h"

namespace tandem::coordinator {

// Where the step loop leaves what it has made of a call's answers, merged while nobody takes it.
class AnswerInbox {
 public:
  struct Answer {
    inference::v1::GenerateChunk chunk;  // everything since it was taken last
    bool fresh = false;                  // the chunk has something
    bool ended = false;
    absl::Status status;  // when ended
  };

  // `streams`: parts are wanted as they come, not only the end.
  AnswerInbox(size_t answers, bool streams, std::function<void()> wake);

  // Lets `generation` leave its answer as number `index` of `inbox`, which stays alive with it.
  static void Connect(const std::shared_ptr<AnswerInbox>& inbox, size_t index,
                      GenerationRequest* generation);

  // Nobody wants the answers any more.
  void Cancel() { cancelled_->store(true); }
  // All answers as they are now; chunks are taken out.
  std::vector<Answer> Take();
  // Looks without taking.
  bool AllEnded() const;
  // The first answer that failed, or OK.
  absl::Status Failure() const;

 private:
  void Send(size_t index, inference::v1::GenerateChunk chunk);
  void Finish(size_t index, const absl::Status& status);

  const bool streams_;
  const std::function<void()> wake_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  mutable absl::Mutex mutex_;
  std::vector<Answer> answers_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of chunks that nobody has taken
  size_t running_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

// Everything but the answers themselves.
struct OpenAiReplyParts {
  std::unique_ptr<OpenAiCall> call;
  OpenAiEnvelope envelope;
  std::vector<ChoiceRenderer> renderers;  // one per answer; they point to `call`
  OpenAiUsage usage;                      // the prompts' part
  std::shared_ptr<AnswerInbox> inbox;
};

class OpenAiReply final : public HttpReply {
 public:
  explicit OpenAiReply(OpenAiReplyParts parts) : parts_(std::move(parts)) {}
  ~OpenAiReply() override { parts_.inbox->Cancel(); }

  HttpPart Take(bool waited_long) override;

 private:
  HttpPart TakeWhole();
  HttpPart TakeEvents(bool waited_long);
  void AddEvents(size_t index, AnswerInbox::Answer& answer, std::string* body);

  OpenAiReplyParts parts_;
  bool head_sent_ = false;
};

}  // namespace tandem::coordinator
