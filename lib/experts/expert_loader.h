// Loading experts: from a model's files straight into packed panels. Threads read a megabyte at a
// time in the order of the file, prove every row and pack it in place, so that nothing is ever held
// twice and the disk sees one stream.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lib/base/thread_pool.h"
#include "lib/experts/expert_memory.h"
#include "lib/model/model_weights.h"

namespace tandem {

struct LoadOrder {
  const FfnWeights* source = nullptr;
  const StoredExpert* target = nullptr;
};

// Fills all targets. `source` is the file set the experts' tensors lie in. `fraction` follows the
// share that is done, 0..1, and a log line tells it every few seconds. Errors: DATA_LOSS naming
// file and tensor when the file is shorter than when it was opened or a row holds a scale that is
// not finite; UNAVAILABLE when it cannot be read; CANCELLED once `keep_going` (called from several
// threads, every few milliseconds) returns false. After an error the targets are unusable.
absl::Status LoadExperts(const TensorSource& source, std::span<const LoadOrder> orders,
                         base::ThreadPool* pool, const std::function<bool()>& keep_going,
                         std::atomic<double>* fraction);

// One expert's tensors as stored, in memory of their own.
struct ExpertCopy {
  std::vector<std::unique_ptr<std::byte[]>> bytes;
  FfnWeights weights;  // as the source's, but for where the data lies
};

// Errors as LoadExperts.
absl::StatusOr<ExpertCopy> CopyExpert(const TensorSource& source, const FfnWeights& expert);

}  // namespace tandem
