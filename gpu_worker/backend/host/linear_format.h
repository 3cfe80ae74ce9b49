// LinearFormat: in which number format and with which arithmetic a linear layer is computed, by the
// names the command line and recipes use. Each is the arithmetic of one kernel, written down in
// docs/formats.md; a layer's bits depend on its format alone, never on rows, threads or processor
// (oneDNN's are those of one machine).
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace tandem::gpu_worker {

// kNative: bf16 weights, kernels/linear.h. kOneDnn: oneDNN's bf16 matmul, which uses AVX512_BF16
// and the like, with bits of its own. kStored: weights as the file holds them and int8 inputs for
// quantized ones (stored_linear.h). kFp8: e4m3 weights and inputs, scales per 128x128 and 1x128
// (fp8_linear.h). kMarlin8, kMarlin4: int8 and int4 weights with one scale per group of inputs,
// bf16 inputs (marlin_linear.h).
enum class LinearKernel { kNative, kOneDnn, kStored, kFp8, kMarlin8, kMarlin4 };

struct LinearFormat {
  LinearKernel kernel = LinearKernel::kNative;
  int group = 128;  // inputs that share a scale: 128 or 64; of Marlin's formats alone

  LinearFormat() = default;
  // Implicit: a kernel without a group is a format.
  LinearFormat(LinearKernel kernel_in, int group_in = 128) : kernel(kernel_in), group(group_in) {}
};

// "native", "onednn", "stored", "fp8", "marlin8" or "marlin4"; `group` counts for the last two.
// INVALID_ARGUMENT names what was expected.
absl::StatusOr<LinearFormat> ParseLinearFormat(const std::string& name, int group = 128);

// The name, with the group where there is one: "marlin4 group 64".
std::string NameOf(const LinearFormat& format);

}  // namespace tandem::gpu_worker
