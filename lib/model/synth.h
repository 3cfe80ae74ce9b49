// Synthesizing models: any config, any number format, random weights with sane statistics, a
// tokenizer that starts. For tests, for benchmarks at full tensor sizes, and for trying a cluster
// without downloading 400 GB.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lib/model/config.h"
#include "lib/model/model_weights_writer.h"
#include "lib/model/synth_types.h"
#include "lib/model/tensor_source.h"

namespace tandem {

// kUsual: stacked in GGUF, one tensor per expert in safetensors. The others are what some files in
// the world look like.
enum class ExpertLayout { kUsual, kSeparate, kStackedGateUp };

struct SynthOptions {
  ModelConfig config;  // MTP layers are not made; fp8 blocks are set by the format
  SynthFormat format;
  ContainerKind container = ContainerKind::kGguf;
  std::string out;  // GGUF: the file. safetensors: the folder
  uint64_t seed = 1;
  bool overwrite = false;
  bool fused_kv_b = false;  // GGUF as before kv_b was split into k_b and v_b
  ExpertLayout experts = ExpertLayout::kUsual;
};

struct SynthResult {
  int64_t tensors = 0;
  int64_t weight_file_bytes = 0;
  std::vector<std::string> files;
};

// Called between chunks of a few MiB; false stops, removes what was written and returns CANCELLED.
using SynthProgress = std::function<bool(int64_t bytes_done, int64_t bytes_total)>;

// Equal options give equal files. One seed gives the same f32, f16 and bf16 weights (up to
// rounding) in every container and layout. INVALID_ARGUMENT or UNIMPLEMENTED name what the
// container cannot hold; see WeightFileWriter::Create for disk errors.
absl::StatusOr<SynthResult> SynthesizeModel(const SynthOptions& options,
                                            const SynthProgress& progress);

}  // namespace tandem
