// Which number format each tensor of a quantized model gets: llama.cpp's stock mixes ("q4_K_M" and
// its like, which give some tensors more bits) and the replacement types for rows that are no
// multiple of 256.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "lib/model/model_weights_names.h"
#include "lib/tensor/dtype.h"

namespace tandem {

struct SynthFormat {
  std::string name;          // as asked for
  DType base = DType::kF32;  // of most matrices
  bool stock_mix = false;
};

// A stock mix (q2_K, q3_K_M, q4_K_S, q4_K_M, q5_K_M, q6_K, iq2_xxs, iq4_xs, iq1_s, iq1_m) or any
// single type. `pure` gives every matrix the one type even where a mix of that name exists.
// INVALID_ARGUMENT lists what is known.
absl::StatusOr<SynthFormat> ParseSynthFormat(const std::string& name, bool pure);

// The type of a matrix with rows of `cols` values in a GGUF file. Norms, router and router bias are
// f32 always.
DType GgufTypeOf(const SynthFormat& format, TensorRole role, int64_t layer, int64_t num_layers,
                 int64_t cols);

// The same for safetensors: the format's type for projections; router, embedding, norms and output
// in bf16 where that is fp8; router bias f32.
DType SafetensorsTypeOf(const SynthFormat& format, TensorRole role);

}  // namespace tandem
