// ModelWeights: a model's tensors by what they do, not by what a file calls them. Hugging Face and
// GGUF names, fused and split kv_b, stacked and separate experts all end here, with every shape
// checked against the config.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/config.h"
#include "lib/model/tensor_source.h"

namespace tandem {

// One matrix [rows, cols] with, for fp8, its block scales. Rows are output features (x W^T), as in
// both containers.
struct Matrix {
  TensorView view;
  std::optional<TensorView>
      scale_inv;               // f32 [ceil(rows/fp8_block_rows), ceil(cols/fp8_block_cols)]
  int64_t fp8_block_rows = 0;  // 0 without scales, like the next
  int64_t fp8_block_cols = 0;

  int64_t rows() const { return view.rows(); }
  int64_t cols() const { return view.cols(); }
};

struct FfnWeights {
  Matrix gate;  // [inter, hidden]
  Matrix up;    // [inter, hidden]
  Matrix down;  // [hidden, inter]
};

struct AttentionWeights {
  // With q_lora: q_a [q_lora, hidden], q_a_norm [q_lora] f32, q_b [heads * qk_head, q_lora].
  // Without: q [heads * qk_head, hidden].
  std::optional<Matrix> q_a, q_b, q;
  std::optional<TensorView> q_a_norm;
  Matrix kv_a;           // [kv_lora + rope, hidden]
  TensorView kv_a_norm;  // [kv_lora] f32, f16 or bf16
  // Either fused kv_b [heads * (nope + v), kv_lora] ...
  std::optional<Matrix> kv_b;
  // ... or split: k_b [heads, kv_lora, nope] (already transposed for absorption) and v_b [heads, v,
  // kv_lora].
  std::optional<TensorView> k_b, v_b;
  Matrix o;  // [hidden, heads * v]
};

struct LayerWeights {
  TensorView attn_norm;  // [hidden]
  TensorView ffn_norm;   // [hidden]
  AttentionWeights attention;
  std::optional<FfnWeights> dense;        // dense layers
  std::optional<Matrix> router;           // [experts, hidden]
  std::optional<TensorView> router_bias;  // [experts], noaux_tc only
  std::optional<FfnWeights> shared;       // n_shared_experts fused
  std::vector<FfnWeights> experts;        // [n_routed_experts] in MoE layers, else empty
};

struct ModelWeights {
  ModelConfig config;
  std::shared_ptr<const TensorSource> source;          // keeps every view but the experts' alive
  std::shared_ptr<const TensorSource> experts_source;  // keeps theirs; often the same one
  Matrix embedding;                                    // [vocab, hidden]
  TensorView final_norm;
  Matrix lm_head;  // [vocab, hidden]; the embedding itself when tied
  std::vector<LayerWeights> layers;
  // 64 hex digits. SHA-256 over the config (all fields but name), then for every tensor of the
  // files, sorted by name: name, type, shape and sampled bytes. Equal for all who open the same
  // weights with the same routing option, wherever the files lie; model_weights_digest.h says what
  // is sampled.
  std::string digest;
};

struct LoadOptions {
  OldFileRouting routing = OldFileRouting::kAssume;
};

// Where a model's files lie: `experts` holds the routed experts, `dense` everything else, the
// config and the tokenizer too. Equal paths, or two that lead to one file or folder, are one
// source.
struct ModelSources {
  std::string dense;
  std::string experts;
};

// Opens `path` (see TensorSource::Open; a folder needs config.json unless it is GGUF) and resolves
// every tensor of every layer. Reads headers, small tensors' names and the digest's samples only:
// weights stay unread on disk. A missing tensor, a wrong shape or a tensor that nothing uses (an
// attention bias, say) gives one sentence naming file, tensor, expected and found.
// Multi-token-prediction layers are recognised and left out. The stop ids are those of config.json,
// then those that generation_config.json adds.
absl::StatusOr<ModelWeights> LoadModel(const std::string& path, const LoadOptions& options = {});

// The same with routed experts from another source than the rest. Config, routing and RoPE layout
// are the dense source's; routed experts in the dense source and all else in the experts' are not
// looked at. INVALID_ARGUMENT when the two configs are of different networks: one sentence naming
// the first field that differs. The digest covers what is used of both.
absl::StatusOr<ModelWeights> LoadModel(const ModelSources& sources,
                                       const LoadOptions& options = {});

// The config that LoadModel(path) starts from (multi-token-prediction layers as the config counts
// them), without looking at tensors.
absl::StatusOr<ModelConfig> LoadConfig(const std::string& path, const LoadOptions& options = {});

// Writes row `row` of `matrix` to `dst` [cols] f32, applying fp8 block scales.
void DequantizeMatrixRow(const Matrix& matrix, int64_t row, float* dst);

// The fp8 block scales of rows [first, first + rows), each row with its own copy:
// [rows][scale columns]; empty when the matrix has none.
std::vector<float> BlockScalesOfRows(const Matrix& matrix, int64_t first, int64_t rows);

// Bytes of a matrix with its scales, and of one expert (gate, up and down): what placing it on a
// worker costs as stored.
int64_t MatrixBytes(const Matrix& matrix);
int64_t PlacedBytes(const FfnWeights& expert);

}  // namespace tandem
