#include "lib/model/synth.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/model/config_write.h"
#include "lib/model/gguf_writer.h"
#include "lib/model/safetensors_writer.h"
#include "lib/model/synth_blocks.h"
#include "lib/model/synth_plan.h"
#include "lib/model/synth_tokenizer.h"
#include "lib/tensor/codec.h"
#include "nlohmann/json.hpp"

namespace tandem {
namespace {

constexpr int64_t kChunkBytes = 4 << 20;
constexpr int64_t kFp8Block = 128;  // DeepSeek-V3's, where the config names none

// Streams tensors' bytes into a file and reports progress.
class Filler {
 public:
  Filler(WeightFileWriter& file, int64_t bytes_total, const SynthProgress& progress)
      : file_(file), bytes_total_(bytes_total), progress_(progress) {}

  absl::Status Write(const SynthTensor& tensor) {
    switch (tensor.fill) {
      case SynthFill::kRows:
        return WriteRows(tensor, tensor.plan.dtype);
      case SynthFill::kRouter:
        return WriteRouter(tensor);
      case SynthFill::kTransposedHeads:
        // Blocks cannot be transposed: their codes are as random one way as the other.
        return InfoOf(tensor.plan.dtype).is_quantized ? WriteBlockHeads(tensor)
                                                      : WriteTransposed(tensor);
      case SynthFill::kNorm:
        return WriteVector(tensor, 1.0f, 0.1f);
      // Small against sigmoid scores, which lie around one half.
      case SynthFill::kRouterBias:
        return WriteVector(tensor, 0.0f, 0.02f);
      case SynthFill::kFp8Scales:
        return WriteScales(tensor);
    }
    return absl::InternalError("unknown fill");
  }

 private:
  absl::Status WriteRows(const SynthTensor& tensor, DType type) {
    const RandomRows rows(type, tensor.plan.shape.back(), tensor.std_dev);
    for (const SynthPiece& piece : tensor.pieces)
      TANDEM_RETURN_IF_ERROR(WritePiece(rows, piece.seed, piece.first_row, piece.rows));
    return absl::OkStatus();
  }

  absl::Status WritePiece(const RandomRows& rows, uint64_t seed, int64_t first_row, int64_t count) {
    const int64_t rows_max = std::max<int64_t>(1, kChunkBytes / rows.row_bytes());
    for (int64_t begin = 0; begin < count; begin += rows_max) {
      const int64_t rows_now = std::min(rows_max, count - begin);
      chunk_.resize(rows_now * rows.row_bytes());
      for (int64_t r = 0; r < rows_now; ++r)
        rows.Fill(MixSeed(seed, first_row + begin + r), chunk_.data() + r * rows.row_bytes());
      TANDEM_RETURN_IF_ERROR(Flush());
    }
    return absl::OkStatus();
  }

  // Converters keep a bf16 router as f32: the same numbers.
  absl::Status WriteRouter(const SynthTensor& tensor) {
    const int64_t cols = tensor.plan.shape.back();
    const RandomRows rows(DType::kBF16, cols, tensor.std_dev);
    std::vector<std::byte> row(rows.row_bytes());
    std::vector<float> values(tensor.pieces[0].rows * cols);
    for (int64_t r = 0; r < tensor.pieces[0].rows; ++r) {
      rows.Fill(MixSeed(tensor.pieces[0].seed, r), row.data());
      DequantizeRow(DType::kBF16, row.data(), cols, &values[r * cols]);
    }
    return WriteFloats(tensor.plan.dtype, values);
  }

  absl::Status WriteBlockHeads(const SynthTensor& tensor) {
    const RandomRows rows(tensor.plan.dtype, tensor.plan.shape.back(), tensor.std_dev);
    for (const SynthPiece& piece : tensor.pieces)
      TANDEM_RETURN_IF_ERROR(
          WritePiece(rows, MixSeed(piece.seed, piece.first_row), 0, tensor.source_cols));
    return absl::OkStatus();
  }

  // Per head: kv_b rows [nope, kv_lora] become [kv_lora, nope].
  absl::Status WriteTransposed(const SynthTensor& tensor) {
    const int64_t cols = tensor.source_cols;
    const RandomRows rows(DType::kF32, cols, tensor.std_dev);
    for (const SynthPiece& piece : tensor.pieces) {
      std::vector<float> head(piece.rows * cols), turned(piece.rows * cols);
      for (int64_t r = 0; r < piece.rows; ++r)
        rows.Fill(MixSeed(piece.seed, piece.first_row + r),
                  reinterpret_cast<std::byte*>(&head[r * cols]));
      for (int64_t r = 0; r < piece.rows; ++r)
        for (int64_t col = 0; col < cols; ++col)
          turned[col * piece.rows + r] = head[r * cols + col];
      TANDEM_RETURN_IF_ERROR(WriteFloats(tensor.plan.dtype, turned));
    }
    return absl::OkStatus();
  }

  // Rounded to bf16 whatever the file's type, so that all containers hold equal numbers.
  absl::Status WriteVector(const SynthTensor& tensor, float middle, float half_width) {
    RandomBits bits(tensor.pieces[0].seed);
    std::vector<float> values(tensor.plan.shape[0]);
    for (float& value : values) {
      const float unit = static_cast<float>(static_cast<int32_t>(bits.Next() >> 32)) * 0x1p-31f;
      value = BF16ToF32(F32ToBF16(middle + half_width * unit));
    }
    return WriteFloats(tensor.plan.dtype, values);
  }

  absl::Status WriteScales(const SynthTensor& tensor) {
    std::vector<float> values;
    for (const SynthPiece& piece : tensor.pieces) {
      RandomBits bits(piece.seed);
      for (int64_t i = 0; i < piece.rows * tensor.plan.shape.back(); ++i) {
        const float unit = static_cast<float>(bits.Next() >> 40) * 0x1p-24f;
        values.push_back(Fp8ScaleInv(tensor.std_dev) * (0.7f + 0.6f * unit));
      }
    }
    return WriteFloats(tensor.plan.dtype, values);
  }

  absl::Status WriteFloats(DType type, const std::vector<float>& values) {
    const int64_t count = static_cast<int64_t>(values.size());
    TANDEM_ASSIGN_OR_RETURN(const int64_t bytes, RowBytes(type, count));
    chunk_.resize(bytes);
    TANDEM_RETURN_IF_ERROR(QuantizeRow(type, values.data(), count, chunk_.data()));
    return Flush();
  }

  absl::Status Flush() {
    TANDEM_RETURN_IF_ERROR(file_.Append(chunk_));
    bytes_done_ += static_cast<int64_t>(chunk_.size());
    if (progress_ == nullptr || progress_(bytes_done_, bytes_total_)) return absl::OkStatus();
    return absl::CancelledError("stopped; the partial file was removed");
  }

  WeightFileWriter& file_;
  const int64_t bytes_total_;
  const SynthProgress& progress_;
  int64_t bytes_done_ = 0;
  std::vector<std::byte> chunk_;
};

absl::Status WriteWeights(const std::string& path, FileLayout layout,
                          const std::vector<SynthTensor>& tensors, const SynthOptions& options,
                          const SynthProgress& progress, SynthResult& result) {
  int64_t bytes_total = 0;
  for (const int64_t bytes : layout.tensor_bytes) bytes_total += bytes;
  result.weight_file_bytes = layout.file_bytes;
  result.tensors = static_cast<int64_t>(tensors.size());
  TANDEM_ASSIGN_OR_RETURN(WeightFileWriter file,
                          WeightFileWriter::Create(path, std::move(layout), options.overwrite));
  Filler filler(file, bytes_total, progress);
  for (const SynthTensor& tensor : tensors) TANDEM_RETURN_IF_ERROR(filler.Write(tensor));
  TANDEM_RETURN_IF_ERROR(file.Finish());
  result.files.push_back(path);
  return absl::OkStatus();
}

std::vector<TensorPlan> PlansOf(const std::vector<SynthTensor>& tensors) {
  std::vector<TensorPlan> plans;
  for (const SynthTensor& tensor : tensors) plans.push_back(tensor.plan);
  return plans;
}

absl::StatusOr<SynthResult> WriteGguf(const SynthOptions& options,
                                      const SynthVocabulary& vocabulary,
                                      const SynthProgress& progress) {
  const ModelConfig& config = options.config;
  TANDEM_ASSIGN_OR_RETURN(GgufKeyValues keys, GgufConfigKeys(config, options.fused_kv_b));
  keys.emplace_back("general.quantization_version", uint32_t{2});
  TANDEM_ASSIGN_OR_RETURN(const GgufKeyValues tokenizer, GgufTokenizerKeys(vocabulary, config));
  keys.insert(keys.end(), tokenizer.begin(), tokenizer.end());
  const std::vector<SynthTensor> tensors = PlanSynthTensors(options);
  TANDEM_ASSIGN_OR_RETURN(FileLayout layout, LayOutGguf(keys, PlansOf(tensors)));
  SynthResult result;
  TANDEM_RETURN_IF_ERROR(
      WriteWeights(options.out, std::move(layout), tensors, options, progress, result));
  return result;
}

absl::Status WriteTextFile(const std::filesystem::path& path, const std::string& text,
                           SynthResult& result) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out) return absl::DataLossError(absl::StrCat(path.string(), ": cannot be written"));
  result.files.push_back(path.string());
  return absl::OkStatus();
}

std::string TorchDtype(DType type) {
  if (type == DType::kF32) return "float32";
  return type == DType::kF16 ? "float16" : "bfloat16";
}

absl::StatusOr<SynthResult> WriteFolder(const SynthOptions& options,
                                        const SynthVocabulary& vocabulary,
                                        const SynthProgress& progress) {
  const ModelConfig& config = options.config;
  const std::filesystem::path folder = options.out;
  const std::vector<SynthTensor> tensors = PlanSynthTensors(options);
  TANDEM_ASSIGN_OR_RETURN(FileLayout layout,
                          LayOutSafetensors({{"format", "pt"}}, PlansOf(tensors)));
  std::error_code error;
  if (!options.overwrite && std::filesystem::exists(folder / "config.json"))
    return absl::AlreadyExistsError(
        absl::StrCat((folder / "config.json").string(), " exists already"));
  std::filesystem::create_directories(folder, error);
  if (error)
    return absl::PermissionDeniedError(absl::StrCat(folder.string(), ": ", error.message()));
  SynthResult result;
  TANDEM_RETURN_IF_ERROR(WriteWeights((folder / "model.safetensors").string(), std::move(layout),
                                      tensors, options, progress, result));
  const nlohmann::json generation = {{"eos_token_id", config.eos_token_ids}};
  TANDEM_RETURN_IF_ERROR(WriteTextFile(
      folder / "config.json", HfConfigJson(config, TorchDtype(options.format.base)), result));
  TANDEM_RETURN_IF_ERROR(
      WriteTextFile(folder / "generation_config.json", generation.dump(2) + "\n", result));
  TANDEM_RETURN_IF_ERROR(
      WriteTextFile(folder / "tokenizer.json", TokenizerJson(vocabulary), result));
  TANDEM_RETURN_IF_ERROR(WriteTextFile(folder / "tokenizer_config.json",
                                       TokenizerConfigJson(vocabulary, config), result));
  return result;
}

absl::Status CheckCombination(const SynthOptions& options) {
  const bool gguf = options.container == ContainerKind::kGguf;
  if (options.fused_kv_b && !gguf)
    return absl::InvalidArgumentError(
        "fused kv_b is a choice of GGUF files only; safetensors always have it fused");
  if (gguf && options.format.base == DType::kF8E4M3)
    return absl::InvalidArgumentError(
        "GGUF has no f8_e4m3, expected container safetensors or another format");
  if (!gguf && InfoOf(options.format.base).is_quantized)
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors cannot hold ", options.format.name,
                     ", expected f32, f16, bf16 or f8_e4m3, or container gguf"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SynthResult> SynthesizeModel(const SynthOptions& options,
                                            const SynthProgress& progress) {
  TANDEM_RETURN_IF_ERROR(CheckCombination(options));
  SynthOptions adjusted = options;
  ModelConfig& config = adjusted.config;
  config.num_nextn_predict_layers = 0;
  if (options.format.base != DType::kF8E4M3) config.fp8_block_rows = config.fp8_block_cols = 0;
  if (options.format.base == DType::kF8E4M3 && config.fp8_block_rows == 0)
    config.fp8_block_rows = config.fp8_block_cols = kFp8Block;
  TANDEM_RETURN_IF_ERROR(ValidateConfig(config, "the model to make"));
  TANDEM_ASSIGN_OR_RETURN(const SynthVocabulary vocabulary, MakeSynthVocabulary(config));
  return options.container == ContainerKind::kGguf ? WriteGguf(adjusted, vocabulary, progress)
                                                   : WriteFolder(adjusted, vocabulary, progress);
}

}  // namespace tandem
