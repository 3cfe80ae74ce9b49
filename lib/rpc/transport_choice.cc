#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "lib/base/log.h"
#include "lib/rpc/shm_transport.h"
#include "lib/rpc/transport.h"

namespace tandem::rpc {
namespace {

// A worker that was not found on this host is looked for again so often: it may have been about to
// open its socket. Looking costs a few microseconds.
constexpr absl::Duration kLookAgain = absl::Seconds(1);

class ChosenTransport final : public Transport {
 public:
  ChosenTransport(const std::string& address, TransportChoice choice)
      : choice_(choice), shm_(ShmTransport::Make(address)), grpc_(MakeGrpcTransport(address)) {}

  void Call(const OutgoingCall& call, absl::Duration timeout, Done done) override {
    Way(call).Call(call, timeout, std::move(done));
  }

  bool CanPoll() override { return shm_->CanPoll(); }
  void StartPolling() override { shm_->StartPolling(); }
  bool Poll() override { return shm_->Poll(); }
  void StopPolling() override { shm_->StopPolling(); }

  const std::string& address() const override { return shm_->address(); }

 private:
  Transport& Way(const OutgoingCall& call) {
    absl::MutexLock lock(&mutex_);
    const bool shm = UseShm();
    if (!shm || shm_->Fits(call)) return shm ? static_cast<Transport&>(*shm_) : *grpc_;
    if (!std::exchange(told_large_, true)) {
      base::LogWarning(
          "shm_call_too_large",
          {{"worker", address()}, {"payload_bytes", call.payload_bytes()}, {"instead", "grpc"}});
    }
    return *grpc_;
  }

  bool UseShm() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    // Without shared memory its own Call says so.
    if (choice_ == TransportChoice::kAuto && absl::Now() < look_again_at_) return false;
    const absl::Status status = shm_->Attach();
    Tell(status);
    if (choice_ == TransportChoice::kShm) return true;
    if (!status.ok()) look_again_at_ = absl::Now() + kLookAgain;
    return status.ok();
  }

  void Tell(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const int state = status.ok() ? 1 : 0;
    if (std::exchange(told_state_, state) == state) return;
    if (!status.ok() && choice_ == TransportChoice::kShm) {
      base::LogWarning("expert_worker_without_shm",
                       {{"worker", address()}, {"why", status.ToString()}});
      return;
    }
    base::LogInfo("expert_transport",
                  {{"worker", address()},
                   {"transport", status.ok() ? "shm" : "grpc"},
                   {"why", status.ok() ? "it is on this host" : status.ToString()}});
  }

  const TransportChoice choice_;
  const std::unique_ptr<ShmTransport> shm_;
  const std::unique_ptr<Transport> grpc_;
  absl::Mutex mutex_;
  absl::Time look_again_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int told_state_ ABSL_GUARDED_BY(mutex_) = -1;
  bool told_large_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

std::optional<TransportChoice> ParseTransportChoice(std::string_view text) {
  if (text == "auto") return TransportChoice::kAuto;
  if (text == "grpc") return TransportChoice::kGrpc;
  if (text == "shm") return TransportChoice::kShm;
  return std::nullopt;
}

std::unique_ptr<Transport> MakeTransport(const std::string& address, TransportChoice choice) {
  if (choice == TransportChoice::kGrpc) return MakeGrpcTransport(address);
  return std::make_unique<ChosenTransport>(address, choice);
}

}  // namespace tandem::rpc
