#include "lib/rpc/member_agent.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <random>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "lib/base/log.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status_map.h"
#include "proto/membership.grpc.pb.h"

namespace tandem::rpc {
namespace {

using namespace membership::v1;

constexpr absl::Duration kCallTimeout = absl::Seconds(2);
constexpr absl::Duration kGoodbyeTimeout = absl::Seconds(1);
constexpr absl::Duration kRetryWaitMin = absl::Milliseconds(100);
constexpr absl::Duration kRetryWaitMax = absl::Seconds(1);

std::string RandomWorkerId(WorkerKind kind) {
  std::random_device random;
  return absl::StrFormat("%s-%d-%08x", kind == WORKER_KIND_GPU ? "gpu" : "cpu", getpid(), random());
}

class GrpcMemberAgent final : public MemberAgent {
 public:
  explicit GrpcMemberAgent(MemberAgentOptions options)
      : options_(std::move(options)),
        stub_(Membership::NewStub(MakeQuietChannel(options_.coordinator_address))) {
    if (options_.registration.worker_id().empty()) {
      options_.registration.set_worker_id(RandomWorkerId(options_.registration.kind()));
    }
    thread_ = std::thread([this] { Run(); });
  }

  ~GrpcMemberAgent() override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
      if (call_in_flight_ != nullptr) call_in_flight_->TryCancel();
    }
    thread_.join();
    if (registered_) SayGoodbye();
  }

  const std::string& worker_id() const override { return options_.registration.worker_id(); }

  void SetState(WorkerState state, uint64_t epoch, uint32_t load_percent) override {
    absl::MutexLock lock(&mutex_);
    state_ = state;
    epoch_loaded_ = epoch;
    load_percent_ = load_percent;
    wake_ = true;
  }

  std::shared_ptr<const Placement> placement() const override {
    absl::MutexLock lock(&mutex_);
    return placement_;
  }

  bool RefreshPlacement(uint64_t epoch_seen, absl::Duration wait_max) override {
    absl::MutexLock lock(&mutex_);
    refresh_ = true;
    wake_ = true;
    const auto newer = [this, epoch_seen]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return stopping_ || (placement_ != nullptr && placement_->epoch() > epoch_seen);
    };
    mutex_.AwaitWithTimeout(absl::Condition(&newer), wait_max);
    return placement_ != nullptr && placement_->epoch() > epoch_seen;
  }

  absl::Status refusal() const override {
    absl::MutexLock lock(&mutex_);
    return refusal_;
  }

 private:
  template <typename Request, typename Response>
  using Method = grpc::Status (Membership::Stub::*)(grpc::ClientContext*, const Request&,
                                                    Response*);

  template <typename Request, typename Response>
  absl::Status Call(Method<Request, Response> method, const Request& request, Response* response,
                    absl::Duration timeout = kCallTimeout) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    // Otherwise a call made while the channel backs off fails without looking whether the
    // coordinator is back. Not for the goodbye: nobody waits for a coordinator to tell it that.
    context.set_wait_for_ready(timeout != kGoodbyeTimeout);
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_ && timeout != kGoodbyeTimeout) return absl::CancelledError("stopping");
      call_in_flight_ = &context;
    }
    const grpc::Status status = ((*stub_).*method)(&context, request, response);
    absl::MutexLock lock(&mutex_);
    call_in_flight_ = nullptr;
    return FromGrpc(status);
  }

  void Run() {
    absl::Duration retry_wait = kRetryWaitMin;
    while (!Stopping()) {
      const absl::Status status = registered_ ? Beat() : Register();
      if (status.ok()) {
        retry_wait = kRetryWaitMin;
        failure_logged_ = false;
        if (registered_) Sleep(heartbeat_interval_);
        continue;
      }
      if (Stopping()) break;
      LogFailureOnce(status);
      Sleep(retry_wait);
      retry_wait = std::min(retry_wait * 2, kRetryWaitMax);
    }
  }

  absl::Status Register() {
    RegisterResponse response;
    const absl::Status status = Call<RegisterRequest, RegisterResponse>(
        &Membership::Stub::Register, options_.registration, &response);
    SetRefusal(status);
    if (!status.ok()) return status;
    heartbeat_interval_ = absl::Milliseconds(std::max(10u, response.heartbeat_interval_ms()));
    registered_ = true;
    base::LogInfo("registered",
                  {{"worker", worker_id()}, {"coordinator", options_.coordinator_address}});
    return Beat();  // tells the state and learns the epoch at once
  }

  absl::Status Beat() {
    HeartbeatRequest request;
    request.set_worker_id(worker_id());
    bool refresh = false;
    {
      absl::MutexLock lock(&mutex_);
      request.set_state(state_);
      request.set_epoch(epoch_loaded_);
      request.set_load_percent(load_percent_);
      refresh = refresh_;
      refresh_ = false;
      wake_ = false;
    }
    HeartbeatResponse response;
    const absl::Status status =
        Call<HeartbeatRequest, HeartbeatResponse>(&Membership::Stub::Heartbeat, request, &response);
    if (!status.ok()) return status;
    if (!response.known()) {
      base::LogWarning("forgotten_by_coordinator", {{"worker", worker_id()}});
      registered_ = false;
      return absl::OkStatus();
    }
    return response.epoch() != EpochFetched() || refresh ? Fetch() : absl::OkStatus();
  }

  absl::Status Fetch() {
    GetPlacementRequest request;
    request.set_worker_id(worker_id());
    auto table = std::make_shared<Placement>();
    const absl::Status status =
        Call<GetPlacementRequest, Placement>(&Membership::Stub::GetPlacement, request, table.get());
    if (!status.ok()) return status;
    if (table->epoch() == 0 || table->epoch() == EpochFetched()) return absl::OkStatus();
    if (options_.on_placement) options_.on_placement(table);
    absl::MutexLock lock(&mutex_);
    placement_ = std::move(table);
    return absl::OkStatus();
  }

  void SayGoodbye() {
    DeregisterRequest request;
    request.set_worker_id(worker_id());
    DeregisterResponse response;
    const absl::Status status = Call<DeregisterRequest, DeregisterResponse>(
        &Membership::Stub::Deregister, request, &response, kGoodbyeTimeout);
    if (!status.ok()) {
      base::LogWarning("deregister_failed",
                       {{"worker", worker_id()}, {"status", status.ToString()}});
    }
  }

  // A coordinator that is away is news once, not ten times a second.
  void LogFailureOnce(const absl::Status& status) {
    if (failure_logged_) return;
    failure_logged_ = true;
    base::LogWarning("coordinator_call_failed", {{"worker", worker_id()},
                                                 {"coordinator", options_.coordinator_address},
                                                 {"status", status.ToString()}});
  }

  // A verdict of the coordinator, not a failure to reach it.
  void SetRefusal(const absl::Status& status) {
    const bool refused = status.code() == absl::StatusCode::kFailedPrecondition ||
                         status.code() == absl::StatusCode::kInvalidArgument;
    absl::MutexLock lock(&mutex_);
    refusal_ = refused ? status : absl::OkStatus();
  }

  uint64_t EpochFetched() const {
    absl::MutexLock lock(&mutex_);
    return placement_ == nullptr ? 0 : placement_->epoch();
  }

  bool Stopping() const {
    absl::MutexLock lock(&mutex_);
    return stopping_;
  }

  void Sleep(absl::Duration wait_max) {
    // Before registration there is nothing to tell, so news do not cut the backoff. Copied, because
    // a condition is evaluated by whichever thread releases the mutex.
    const bool heed_news = registered_;
    absl::MutexLock lock(&mutex_);
    const auto woken = [this, heed_news]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return stopping_ || (wake_ && heed_news);
    };
    mutex_.AwaitWithTimeout(absl::Condition(&woken), wait_max);
  }

  MemberAgentOptions options_;
  const std::unique_ptr<Membership::Stub> stub_;
  std::thread thread_;
  // Of the agent's thread alone (and the destructor after the join).
  bool registered_ = false;
  bool failure_logged_ = false;
  absl::Duration heartbeat_interval_ = absl::Seconds(1);

  mutable absl::Mutex mutex_;
  WorkerState state_ ABSL_GUARDED_BY(mutex_) = WORKER_STATE_LOADING;
  uint64_t epoch_loaded_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t load_percent_ ABSL_GUARDED_BY(mutex_) = 0;
  std::shared_ptr<const Placement> placement_ ABSL_GUARDED_BY(mutex_);
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
  bool refresh_ ABSL_GUARDED_BY(mutex_) = false;
  bool wake_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* call_in_flight_ ABSL_GUARDED_BY(mutex_) = nullptr;  // null between calls
};

}  // namespace

std::unique_ptr<MemberAgent> MemberAgent::Start(MemberAgentOptions options) {
  return std::make_unique<GrpcMemberAgent>(std::move(options));
}

}  // namespace tandem::rpc
