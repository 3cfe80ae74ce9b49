// ShardedBackend: several ranks as one Backend. Each call is queued for every rank's thread in the
// same order, so ranks make the same collective calls in the same order; only calls that hand
// something to the host wait. What leaves the device leaves from rank 0: router choices, rows for
// the experts, device spans; of logits each rank says what it has (sharded_logits.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/shard/collective.h"
#include "gpu_worker/backend/shard/rank_threads.h"
#include "gpu_worker/backend/shard/sharded_logits.h"
#include "lib/model/config.h"

namespace tandem::gpu_worker {

// One rank. The backend holds its shard and meets the others through `collective`; that it failed
// is seen by the collective's status. What a rank's backend does differently from a whole one:
//   NewRows       makes room for its own heads' columns of kQueries and kAttended.
//   StartRoute, StartReadRows   do nothing on other ranks than the first; FinishRoute then waits
//                 until RoutedRows may be written, and leaves the choice as it is.
//   ComputeLogits computes its share of the vocabulary, which is what its RowLogits answers for.
struct RankParts {
  std::unique_ptr<Collective> collective;
  std::unique_ptr<Backend> backend;
};

struct ShardedOptions {
  int ranks = 1;
  absl::Duration call_max = absl::Seconds(120);  // for one call on one rank
  absl::Duration load_max = absl::Hours(2);      // for making one rank
  // Called once when the ranks have failed, on the thread that noticed. The default says why in the
  // log and ends the process with code 1: ranks that have lost each other cannot go on, the
  // coordinator replays their sequences on another worker and the orchestrator starts this one
  // anew. If it returns, all calls do nothing from then on.
  std::function<void(const absl::Status&)> on_failure;
};

class ShardedBackend : public Backend {
 public:
  // Calls `make(rank)` on each rank's own thread, which will make all its calls, all at once. An
  // error is that of the rank which had one first.
  static absl::StatusOr<std::unique_ptr<ShardedBackend>> Make(
      const ModelConfig& config, const std::function<absl::StatusOr<RankParts>(int rank)>& make,
      const ShardedOptions& options);
  ~ShardedBackend() override;

  // Why the ranks can do nothing more; OK before.
  absl::Status status() const { return threads_->status(); }

  const BackendInfo& info() const override { return info_; }
  std::unique_ptr<DeviceRows> NewRows(RowShape shape, int64_t rows) override;
  void BeginStep(int slot, const StepBatch& step) override;
  void SelectSlot(int slot) override;
  std::span<std::byte> WireRows(int slot) override;
  std::span<float> RoutedRows(int slot) override;
  void Embed(DeviceRows& x) override;
  void Norm(int64_t layer, NormSite site, const DeviceRows& x, DeviceRows& out) override;
  void ProjectAndCache(int64_t layer, const DeviceRows& h, DeviceRows& q) override;
  void Attend(int64_t layer, const DeviceRows& q, DeviceRows& attended) override;
  void AddAttentionOutput(int64_t layer, const DeviceRows& attended, DeviceRows& x) override;
  void AddDenseFfn(int64_t layer, const DeviceRows& h, DeviceRows& x) override;
  void StartRoute(int64_t layer, const DeviceRows& h,
                  const std::vector<uint32_t>* forced_ids) override;
  void StartReadRows(const DeviceRows& h) override;
  void FinishRoute(RouterChoice* choice) override;
  void SharedFfn(int64_t layer, const DeviceRows& h, DeviceRows& out) override;
  void AddMoe(const DeviceRows& shared, DeviceRows& x) override;
  RowLogits& ComputeLogits(std::span<const LogitRow> rows) override;
  void NoteDeviceSpans(bool on) override;
  std::vector<DeviceSpan> TakeDeviceSpans() override;

 private:
  ShardedBackend(const ModelConfig& config, const ShardedOptions& options);
  // Queues call(backend, rank) for every rank, followed by a look at the rank's collective.
  void Post(std::function<void(Backend&, int rank)> call);
  void OnFailure(const absl::Status& why);
  // Puts the question to every rank; false after a failure.
  bool AskLogits(const ShardedLogits::Question& question);

  const int64_t hidden_;
  const std::function<void(const absl::Status&)> on_failure_;
  std::vector<RankParts> ranks_;
  bool serving_ = false;  // all ranks are there; before, an error is Make's
  BackendInfo info_;
  int64_t rows_[kStepSlots] = {};  // of the slots' steps
  int slot_ = 0;                   // selected
  // Written by ranks, so that one that comes late after a failure writes to memory that is there.
  RouterChoice choice_;
  std::vector<DeviceSpan> spans_;
  std::vector<RowLogits*>
      rank_logits_;  // [ranks] of the last ComputeLogits, used by its rank alone
  ShardedLogits logits_;
  std::unique_ptr<RankThreads> threads_;  // last: ends before what its work uses
};

}  // namespace tandem::gpu_worker
