#include "gpu_worker/backend/shard/nccl_group.h"

#include <cuda_runtime_api.h>

#include <deque>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "lib/base/check.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker {
namespace {

// How often the watchdog looks. Limits are seconds.
constexpr absl::Duration kLookInterval = absl::Milliseconds(20);

// Between looks at a call that NCCL works on in the background.
constexpr absl::Duration kSettleInterval = absl::Microseconds(50);

// Gathers a rank's watchdog keeps an eye on. More are in flight only when the host runs far ahead
// of the device; those before them are then late first.
constexpr size_t kWatchedMax = 64;

}  // namespace

class NcclGroup::Member final : public Collective {
 public:
  Member(std::shared_ptr<NcclGroup> group, int rank)
      : group_(std::move(group)),
        nccl_(group_->nccl_),
        rank_(rank),
        host_(group_->host_->Rank(rank)) {
    group_->Add(this);
  }
  ~Member() override {
    group_->Remove(this);
    absl::MutexLock lock(&mutex_);
    Leave();
    for (const Watched& watched : watched_) cudaEventDestroy(watched.event);
  }

  absl::Status Connect();

  int rank() const override { return rank_; }
  int ranks() const override { return group_->ranks(); }
  absl::Status AllGather(const void* part, void* whole, size_t bytes,
                         CUstream_st* stream) override {
    absl::MutexLock lock(&mutex_);
    TANDEM_RETURN_IF_ERROR(status());
    const ncclResult_t result = nccl_.AllGather(part, whole, bytes, ncclUint8, comm_, stream);
    TANDEM_RETURN_IF_ERROR(Settle("ncclAllGather", result));
    ++begun_;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream, &capture) != cudaSuccess ||
        capture != cudaStreamCaptureStatusNone) {
      return absl::OkStatus();  // nothing runs yet; Watch is called when the graph is launched
    }
    return WatchLocked(stream);
  }
  void Watch(CUstream_st* stream) override {
    absl::MutexLock lock(&mutex_);
    if (status().ok()) (void)WatchLocked(stream);
  }
  absl::Status Barrier() override { return host_->Barrier(); }
  void Abort(const absl::Status& why) override { host_->Abort(why); }
  absl::Status status() const override { return host_->status(); }

  // For the watchdog: why this rank has failed, if it has.
  absl::Status Look();
  void AbortComm() {
    absl::MutexLock lock(&mutex_);
    if (comm_ != nullptr) nccl_.CommAbort(std::exchange(comm_, nullptr));
  }
  int64_t begun() const { return begun_; }

 private:
  struct Watched {
    cudaEvent_t event = nullptr;
    absl::Time since;
  };

  absl::Status Failed(const std::string& what) {
    const absl::Status why = absl::InternalError(absl::StrCat("rank ", rank_, ": ", what));
    host_->Abort(why);
    return status();
  }
  // Waits for a call that NCCL does in the background.
  absl::Status Settle(const char* call, ncclResult_t result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WatchLocked(CUstream_st* stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Leave() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<NcclGroup> group_;
  const NcclLibrary& nccl_;
  const int rank_;
  const std::unique_ptr<Collective> host_;
  std::atomic<int64_t> begun_{0};
  absl::Mutex mutex_;
  ncclComm_t comm_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::deque<Watched> watched_ ABSL_GUARDED_BY(mutex_);
};

absl::Status NcclGroup::Member::Settle(const char* call, ncclResult_t result) {
  const absl::Time end = absl::Now() + group_->wait_max_;
  while (result == ncclInProgress) {
    TANDEM_RETURN_IF_ERROR(status());
    if (absl::Now() > end) {
      host_->Abort(absl::DeadlineExceededError(
          absl::StrCat(call, " on rank ", rank_, " of ", ranks(), " did not return within ",
                       absl::FormatDuration(group_->wait_max_))));
      return status();
    }
    absl::SleepFor(kSettleInterval);
    const ncclResult_t asked = nccl_.CommGetAsyncError(comm_, &result);
    if (asked != ncclSuccess) result = asked;
  }
  if (result != ncclSuccess) return Failed(nccl_.Describe(call, result, comm_));
  return absl::OkStatus();
}

absl::Status NcclGroup::Member::Connect() {
  {
    absl::MutexLock lock(&mutex_);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t comm = nullptr;
    const ncclResult_t result =
        nccl_.CommInitRankConfig(&comm, ranks(), group_->id_, rank_, &config);
    comm_ = comm;
    if (comm_ == nullptr) return Failed(nccl_.Describe("ncclCommInitRankConfig", result, nullptr));
    TANDEM_RETURN_IF_ERROR(Settle("ncclCommInitRankConfig", result));
  }
  // NCCL connects devices when they first speak: now, not during a capture.
  TANDEM_ASSIGN_OR_RETURN(const cuda::DeviceMemory bytes,
                          cuda::AllocateDevice(static_cast<size_t>(ranks())));
  const cuda::OwnedStream stream = cuda::NewStream();
  std::byte* const own = bytes.as<std::byte>() + rank_;
  TANDEM_RETURN_IF_ERROR(AllGather(own, bytes.data(), 1, stream.get()));
  while (cudaStreamQuery(stream.get()) == cudaErrorNotReady) {
    TANDEM_RETURN_IF_ERROR(status());  // the watchdog's, after wait_max at the latest
    absl::SleepFor(kSettleInterval);
  }
  return status();
}

absl::Status NcclGroup::Member::WatchLocked(CUstream_st* stream) {
  if (watched_.size() >= kWatchedMax) return absl::OkStatus();
  Watched watched;
  cudaError_t error = cudaEventCreateWithFlags(&watched.event, cudaEventDisableTiming);
  if (error == cudaSuccess) error = cudaEventRecord(watched.event, stream);
  if (error != cudaSuccess) return Failed(cudaGetErrorString(error));
  watched.since = absl::Now();
  watched_.push_back(watched);
  return absl::OkStatus();
}

absl::Status NcclGroup::Member::Look() {
  absl::MutexLock lock(&mutex_);
  while (!watched_.empty()) {
    const cudaError_t state = cudaEventQuery(watched_.front().event);
    if (state == cudaErrorNotReady) break;
    if (state != cudaSuccess) {
      return absl::InternalError(absl::StrCat("rank ", rank_, ": ", cudaGetErrorString(state)));
    }
    cudaEventDestroy(watched_.front().event);
    watched_.pop_front();
  }
  if (comm_ == nullptr) return absl::OkStatus();
  ncclResult_t result = ncclSuccess;
  const ncclResult_t asked = nccl_.CommGetAsyncError(comm_, &result);
  if (asked != ncclSuccess) result = asked;
  if (result != ncclSuccess && result != ncclInProgress) {
    return absl::InternalError(
        absl::StrCat("rank ", rank_, ": ", nccl_.Describe("NCCL", result, comm_)));
  }
  if (!watched_.empty() && absl::Now() - watched_.front().since > group_->wait_max_) {
    return absl::DeadlineExceededError(absl::StrCat("a gather on rank ", rank_, " of ", ranks(),
                                                    " is not through after ",
                                                    absl::FormatDuration(group_->wait_max_)));
  }
  return absl::OkStatus();
}

void NcclGroup::Member::Leave() {
  if (comm_ == nullptr) return;
  const bool quiet = status().ok() && Settle("ncclCommFinalize", nccl_.CommFinalize(comm_)).ok();
  if (quiet) {
    nccl_.CommDestroy(comm_);
  } else {
    nccl_.CommAbort(comm_);
  }
  comm_ = nullptr;
}

NcclGroup::NcclGroup(const NcclLibrary& nccl, const ncclUniqueId& id, int ranks,
                     absl::Duration wait_max)
    : nccl_(nccl),
      id_(id),
      wait_max_(wait_max),
      host_(InProcessGroup::Make(ranks, wait_max)),
      members_(ranks, nullptr),
      watchdog_([this] { WatchLoop(); }) {}

NcclGroup::~NcclGroup() {
  stopping_ = true;
  watchdog_.join();
}

absl::StatusOr<std::shared_ptr<NcclGroup>> NcclGroup::Make(int ranks, absl::Duration wait_max) {
  TANDEM_ASSIGN_OR_RETURN(const NcclLibrary* const nccl, Nccl());
  ncclUniqueId id;
  const ncclResult_t result = nccl->GetUniqueId(&id);
  if (result != ncclSuccess) {
    return absl::InternalError(nccl->Describe("ncclGetUniqueId", result, nullptr));
  }
  base::LogInfo("nccl_found", {{"version", nccl->version}, {"ranks", ranks}});
  return std::shared_ptr<NcclGroup>(new NcclGroup(*nccl, id, ranks, wait_max));
}

absl::StatusOr<std::unique_ptr<Collective>> NcclGroup::Join(int rank) {
  TANDEM_CHECK(rank >= 0 && rank < ranks());
  auto member = std::make_unique<Member>(shared_from_this(), rank);
  TANDEM_RETURN_IF_ERROR(member->Connect());
  return member;
}

void NcclGroup::Add(Member* member) {
  absl::MutexLock lock(&mutex_);
  TANDEM_CHECK(members_[member->rank()] == nullptr);
  members_[member->rank()] = member;
}

void NcclGroup::Remove(Member* member) {
  absl::MutexLock lock(&mutex_);
  members_[member->rank()] = nullptr;
}

std::string NcclGroup::Progress() const {
  std::vector<std::string> begun;
  for (const Member* member : members_) {
    begun.push_back(member == nullptr ? "gone" : absl::StrCat(member->begun()));
  }
  return absl::StrCat("gathers begun by rank: ", absl::StrJoin(begun, ", "));
}

void NcclGroup::WatchLoop() {
  // Looking at events must not spoil another thread's capture.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
  for (; !stopping_; absl::SleepFor(kLookInterval)) {
    absl::MutexLock lock(&mutex_);
    for (Member* member : members_) {
      if (member == nullptr || !status().ok()) continue;
      const absl::Status found = member->Look();
      if (found.ok()) continue;
      host_->Abort(
          absl::Status(found.code(), absl::StrCat(std::string(found.message()), "; ", Progress())));
    }
    if (status().ok()) continue;
    for (Member* member : members_) {
      if (member != nullptr) member->AbortComm();
    }
  }
}

}  // namespace tandem::gpu_worker
