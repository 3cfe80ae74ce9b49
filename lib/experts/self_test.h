// The golden self-test of real weights: before a worker reports ready, some rows of each kind of
// expert it holds are multiplied by a known input with the kernels it will serve with, and compared
// with the scalar codec in double arithmetic on the file's bytes. It catches a kernel that is wrong
// on this processor and a mistake in packing.
#pragma once

#include "absl/status/status.h"
#include "lib/experts/packed_expert.h"
#include "lib/kernels/kernel_table.h"
#include "lib/model/model_weights.h"

namespace tandem {

// INTERNAL names the tensor, its type, the instruction set, the output row, and expected, found and
// tolerance. The tolerance is computed: the input may be off by half a step of its quantized form,
// and an output by the f32 roundings of its sum over the input as stored.
absl::Status SelfTestExpert(const kernels::KernelTable& table, const FfnWeights& source,
                            const PackedExpert& packed);

}  // namespace tandem
