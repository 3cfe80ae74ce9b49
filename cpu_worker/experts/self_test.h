// The golden self-test of real weights: before a worker reports ready, some rows of each kind of
// expert it holds are multiplied by a known input with the kernels it will serve with, and compared
// with the scalar codec in double arithmetic. It catches a kernel that is wrong on this processor,
// and it runs on the bytes as they were mapped.
#pragma once

#include "absl/status/status.h"
#include "lib/kernels/kernel_table.h"
#include "lib/model/model_weights.h"

namespace tandem::cpu_worker {

// INTERNAL names the tensor, its type, the instruction set, the output row, and expected, found and
// tolerance. The tolerance is computed: half a step of every quantized activation plus the f32
// roundings of the sums.
absl::Status SelfTestExpert(const kernels::KernelTable& table, const FfnWeights& expert);

}  // namespace tandem::cpu_worker
