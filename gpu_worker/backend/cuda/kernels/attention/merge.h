// The one way in which two partial softmax results become one: whoever merges, parts come from left
// to right through these words, so that it does not matter who does it. For .cu files.
#pragma once

#include <cmath>

#include "gpu_worker/backend/cuda/simt/simt.h"

namespace tandem::gpu_worker::cuda {

// By what the sums so far (relative to `max`) and those of the next part (relative to `part_max`)
// are multiplied when both become relative to the larger. A part without keys has a maximum of -inf
// and no weight.
struct MergeFactors {
  float max, keep, add;
  __device__ __forceinline__ MergeFactors(float max_so_far, float part_max) {
    max = fmaxf(max_so_far, part_max);
    keep = max_so_far == -INFINITY ? 0.0f : FastExp2(max_so_far - max);
    add = part_max == -INFINITY ? 0.0f : FastExp2(part_max - max);
  }
};

// The fma is spelled out, so that no compiler chooses another. Values of a part without keys may be
// anything.
__device__ __forceinline__ float Merged(float so_far, float keep, float part, float add) {
  return fmaf(so_far, keep, add == 0.0f ? 0.0f : part * add);
}

}  // namespace tandem::gpu_worker::cuda
