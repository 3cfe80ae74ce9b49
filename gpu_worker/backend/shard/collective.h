// Collective: what the ranks of one worker say to each other during a forward pass. Parts are put
// side by side, never added up, so all a rank needs is to gather and to meet. One object per rank;
// all ranks make the same calls in the same order.
//
// Every wait ends: a rank that does not come within the limit is an error that names it. An error
// is final and the same on all ranks; from then on every call returns it at once.
#pragma once

#include <cstddef>

#include "absl/status/status.h"

struct CUstream_st;  // CUDA's own opaque type, as in device.h

namespace tandem::gpu_worker {

class Collective {
 public:
  virtual ~Collective() = default;

  virtual int rank() const = 0;
  virtual int ranks() const = 0;

  // whole[r * bytes, (r + 1) * bytes) = rank r's part, for all ranks; `part` may be the caller's
  // own place in `whole`. `bytes` is the same on all ranks. Device memory in `stream` order with
  // collectives of devices, where the call returns before the data is there; host memory and a null
  // stream with those of threads, where it is there on return and `part` may be written again.
  virtual absl::Status AllGather(const void* part, void* whole, size_t bytes,
                                 CUstream_st* stream) = 0;
  // Call after launching a captured graph with gathers in it: what is on `stream` now has to be
  // through in time. Other gathers are watched anyway, as are those that return with the data.
  virtual void Watch(CUstream_st* stream) { (void)stream; }
  // Returns when all ranks have called it.
  virtual absl::Status Barrier() = 0;

  // Fails all ranks with `why` unless they have failed already; whoever waits returns. From any
  // thread.
  virtual void Abort(const absl::Status& why) = 0;
  // Why the ranks can do nothing more; OK before. From any thread.
  virtual absl::Status status() const = 0;
};

}  // namespace tandem::gpu_worker
