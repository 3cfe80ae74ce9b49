#include "gpu_worker/backend/shard/staged_collective.h"

#include <utility>

#include "lib/base/check.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker::cuda {
namespace {

class StagedCollective final : public Collective {
 public:
  StagedCollective(std::unique_ptr<Collective> host, size_t part_bytes_max, PinnedMemory part,
                   PinnedMemory whole)
      : host_(std::move(host)),
        part_bytes_max_(part_bytes_max),
        part_(std::move(part)),
        whole_(std::move(whole)) {}
  ~StagedCollective() override {
    if (last_ != nullptr) Synchronize(last_.get());
  }

  int rank() const override { return host_->rank(); }
  int ranks() const override { return host_->ranks(); }

  absl::Status AllGather(const void* part, void* whole, size_t bytes,
                         CUstream_st* stream) override {
    TANDEM_CHECK_LE(bytes, part_bytes_max_);
    if (bytes == 0) return host_->Barrier();
    CopyToHost(part_.data(), part, bytes, stream);
    Synchronize(stream);
    // The last gather may have been on another stream: its copy from whole_ must be over.
    if (last_ != nullptr) {
      Synchronize(last_.get());
    } else {
      last_ = NewEvent();
    }
    TANDEM_RETURN_IF_ERROR(host_->AllGather(part_.data(), whole_.data(), bytes, nullptr));
    CopyToDevice(whole, whole_.data(), bytes * static_cast<size_t>(ranks()), stream);
    Record(last_.get(), stream);
    return absl::OkStatus();
  }

  absl::Status Barrier() override { return host_->Barrier(); }
  void Abort(const absl::Status& why) override { host_->Abort(why); }
  absl::Status status() const override { return host_->status(); }

 private:
  const std::unique_ptr<Collective> host_;
  const size_t part_bytes_max_;
  const PinnedMemory part_, whole_;
  OwnedEvent last_;  // the last copy from whole_
};

}  // namespace

absl::StatusOr<std::unique_ptr<Collective>> MakeStagedCollective(std::unique_ptr<Collective> host,
                                                                 size_t part_bytes_max) {
  TANDEM_ASSIGN_OR_RETURN(PinnedMemory part, AllocatePinned(part_bytes_max));
  TANDEM_ASSIGN_OR_RETURN(PinnedMemory whole,
                          AllocatePinned(part_bytes_max * static_cast<size_t>(host->ranks())));
  return std::make_unique<StagedCollective>(std::move(host), part_bytes_max, std::move(part),
                                            std::move(whole));
}

}  // namespace tandem::gpu_worker::cuda
