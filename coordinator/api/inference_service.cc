#include "coordinator/api/inference_service.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <random>

#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/status_map.h"
#include "proto/inference.grpc.pb.h"

namespace tandem::coordinator {
namespace {

using namespace inference::v1;

std::string RandomRequestId() {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return absl::StrFormat("req-%016x", random());
}

// Adds `later` to `chunk`, as if they had been one.
void Merge(GenerateChunk later, GenerateChunk* chunk) {
  std::string text = chunk->text() + later.text();
  chunk->MergeFrom(later);
  chunk->set_text(std::move(text));
}

// One answer on its way out. The step loop calls Send and Finish from its thread, gRPC the On...
// functions from its own. While a chunk is being written, later ones are merged into one, so a slow
// reader costs no more memory than its answer.
class AnswerStream final : public grpc::ServerWriteReactor<GenerateChunk> {
 public:
  // The stream lives until gRPC is done with it and nobody holds it.
  static std::shared_ptr<AnswerStream> Make() {
    std::shared_ptr<AnswerStream> stream(new AnswerStream);
    stream->self_ = stream;
    return stream;
  }

  const std::shared_ptr<std::atomic<bool>>& cancelled() const { return cancelled_; }

  void Send(GenerateChunk chunk) {
    absl::MutexLock lock(&mutex_);
    if (broken_) return;
    if (writing_) {
      Merge(std::move(chunk), &waiting_);
      has_waiting_ = true;
    } else {
      Write(std::move(chunk));
    }
  }

  void End(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    ended_ = status;
    if (!writing_) Finish(rpc::ToGrpc(status));
  }

 private:
  AnswerStream() = default;

  void Write(GenerateChunk chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    writing_ = true;
    outgoing_ = std::move(chunk);
    StartWrite(&outgoing_);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) {
      broken_ = true;
      cancelled_->store(true);
    }
    if (has_waiting_ && !broken_) {
      has_waiting_ = false;
      Write(std::exchange(waiting_, {}));
    } else if (ended_) {
      Finish(rpc::ToGrpc(*ended_));
    }
  }

  void OnCancel() override { cancelled_->store(true); }

  void OnDone() override { const std::shared_ptr<AnswerStream> last_use = std::move(self_); }

  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<AnswerStream> self_;
  absl::Mutex mutex_;
  GenerateChunk outgoing_;
  GenerateChunk waiting_ ABSL_GUARDED_BY(mutex_);
  bool has_waiting_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> ended_ ABSL_GUARDED_BY(mutex_);
};

class InferenceService final : public Inference::CallbackService {
 public:
  explicit InferenceService(const InferenceParts& parts) : parts_(parts) {
    limits_.context_tokens = parts.context_tokens;
    limits_.vocab_size = parts.model->vocab_size();
    limits_.eos_token_ids = parts.model->eos_token_ids();
  }

  grpc::ServerWriteReactor<GenerateChunk>* Generate(grpc::CallbackServerContext* context,
                                                    const GenerateRequest* request) override {
    auto stream = AnswerStream::Make();
    if (absl::Status status = Submit(*context, *request, stream); !status.ok()) stream->End(status);
    return stream.get();
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const TokenizeRequest* request,
                                     TokenizeResponse* response) override {
    return Done(context, Tokenize(*request, response));
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const DetokenizeRequest* request,
                                       DetokenizeResponse* response) override {
    return Done(context, Detokenize(*request, response));
  }

  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const GetModelInfoRequest*, ModelInfo* response) override {
    FillInfo(response);
    return Done(context, absl::OkStatus());
  }

 private:
  static grpc::ServerUnaryReactor* Done(grpc::CallbackServerContext* context,
                                        const absl::Status& status) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(rpc::ToGrpc(status));
    return reactor;
  }

  absl::Status Submit(const grpc::CallbackServerContext& context, const GenerateRequest& request,
                      const std::shared_ptr<AnswerStream>& stream) {
    const absl::Duration arrival = parts_.clock->Monotonic();
    TANDEM_RETURN_IF_ERROR(CheckGenerateRequest(request, limits_));
    TANDEM_ASSIGN_OR_RETURN(std::vector<uint32_t> prompt, parts_.model->EncodePrompt(request));
    TANDEM_ASSIGN_OR_RETURN(GenerationRequest generation,
                            MakeGeneration(request, std::move(prompt), limits_));
    if (generation.id.empty()) generation.id = RandomRequestId();
    generation.arrival = arrival;
    if (context.deadline() != std::chrono::system_clock::time_point::max()) {
      generation.deadline = absl::FromChrono(context.deadline());
    }
    generation.cancelled = stream->cancelled();
    generation.send = [stream](GenerateChunk chunk) { stream->Send(std::move(chunk)); };
    generation.finish = [stream](const absl::Status& status) { stream->End(status); };
    return parts_.loop->Submit(std::move(generation));
  }

  absl::Status Tokenize(const TokenizeRequest& request, TokenizeResponse* response) const {
    std::vector<uint32_t> ids;
    if (request.input_case() == TokenizeRequest::kChat) {
      TANDEM_ASSIGN_OR_RETURN(*response->mutable_rendered(),
                              parts_.model->RenderChat(request.chat()));
      TANDEM_ASSIGN_OR_RETURN(ids, parts_.model->EncodeRendered(response->rendered()));
    } else {
      TANDEM_ASSIGN_OR_RETURN(ids, parts_.model->EncodeText(request.text(), request.add_bos(),
                                                            request.parse_special()));
    }
    response->mutable_ids()->Add(ids.begin(), ids.end());
    return absl::OkStatus();
  }

  absl::Status Detokenize(const DetokenizeRequest& request, DetokenizeResponse* response) const {
    for (const uint32_t id : request.ids()) {
      if (id > INT32_MAX) return absl::InvalidArgumentError(absl::StrCat("there is no token ", id));
    }
    const std::vector<int32_t> ids(request.ids().begin(), request.ids().end());
    TANDEM_ASSIGN_OR_RETURN(*response->mutable_text(),
                            parts_.model->tokenizer().Decode(ids, request.skip_special()));
    return absl::OkStatus();
  }

  void FillInfo(ModelInfo* info) const {
    const TextModel& model = *parts_.model;
    const ClusterSummary summary = parts_.registry->Summary();
    info->set_name(model.name());
    info->set_model_type(model.config().model_type);
    info->set_digest(summary.model_digest);
    info->set_context_tokens(parts_.context_tokens);
    info->set_vocab_size(model.vocab_size());
    if (model.tokenizer().bos_id() >= 0) info->set_bos_token_id(model.tokenizer().bos_id());
    for (const uint32_t id : model.eos_token_ids()) info->add_eos_token_ids(id);
    const absl::Status ready = parts_.loop->Readiness();
    info->set_ready(ready.ok());
    info->set_not_ready_reason(std::string(ready.message().data(), ready.message().size()));
    info->set_cpu_workers_ready(summary.cpu_workers_ready);
    info->set_gpu_workers_ready(summary.gpu_workers_ready);
    if (const auto engine = parts_.loop->engine()) {
      info->set_precision(engine->precision());
      info->set_attention(engine->attention());
      info->set_linear_formats(engine->linear_formats());
      info->set_backend(engine->backend());
      const uint64_t capacity_tokens = uint64_t{engine->kv_pages()} * engine->page_tokens();
      info->set_context_tokens(std::min<uint64_t>(parts_.context_tokens, capacity_tokens));
    }
    info->set_version(base::VersionString());
    info->set_expert_formats(model.expert_formats());
    info->set_recipe(parts_.recipe_name);
    info->set_recipe_digest(parts_.recipe_digest);
  }

  const InferenceParts parts_;
  RequestLimits limits_;
};

}  // namespace

std::shared_ptr<grpc::Service> MakeInferenceService(const InferenceParts& parts) {
  return std::make_shared<InferenceService>(parts);
}

}  // namespace tandem::coordinator
