// How a linear layer's outputs are shared out over threads, the same for every number format.
#pragma once

#include <cstdint>

#include "lib/base/thread_pool.h"

namespace tandem::gpu_worker {

// Outputs per unit of work: small enough to share out a layer of a few hundred outputs, large
// enough that one unit (64 rows of weights) costs far more than handing it over.
inline constexpr int64_t kOutputGrain = 64;

// Calls kernel(part) for shares of `outputs`: `args` with n_begin and n_end set.
template <typename Args, typename Kernel>
void ForShares(base::ThreadPool& pool, int64_t outputs, const Args& args, Kernel kernel) {
  pool.ParallelFor(outputs, kOutputGrain, [&](int64_t begin, int64_t end) {
    Args part = args;
    part.n_begin = begin;
    part.n_end = end;
    kernel(part);
  });
}

}  // namespace tandem::gpu_worker
