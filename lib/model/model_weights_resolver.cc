#include "lib/model/model_weights_resolver.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "lib/base/status_macros.h"

namespace tandem {
namespace {

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// "model.layers.3.mlp.down_proj.weight" -> "...weight_scale_inv".
std::string ScaleNameOf(const std::string& name) { return absl::StrCat(name, "_scale_inv"); }

}  // namespace

bool TensorResolver::Has(TensorRole role, int64_t layer, int64_t expert) const {
  const std::string name = TensorNameOf(source_.kind(), role, layer, expert);
  return !name.empty() && source_.Find(name) != nullptr;
}

absl::StatusOr<const TensorView*> TensorResolver::Find(TensorRole role, int64_t layer,
                                                       int64_t expert,
                                                       const std::vector<int64_t>& shape) {
  const std::string name = TensorNameOf(source_.kind(), role, layer, expert);
  const TensorView* tensor = name.empty() ? nullptr : source_.Find(name);
  if (tensor == nullptr)
    return absl::NotFoundError(absl::StrCat(source_.path(), ": tensor ",
                                            name.empty() ? LabelOf(role) : name.c_str(), " ",
                                            ShapeText(shape), " is missing"));
  if (tensor->shape != shape)
    return absl::InvalidArgumentError(
        absl::StrCat(tensor->file, ": tensor ", name, " must have shape ", ShapeText(shape),
                     " by the model's config, found ", tensor->Describe()));
  if (tensor->dtype == DType::kI32)
    return absl::InvalidArgumentError(
        absl::StrCat(tensor->file, ": tensor ", name, " holds integers, expected weights"));
  used_.insert(name);
  return tensor;
}

absl::Status TensorResolver::AddScales(const std::vector<int64_t>& shape, Matrix& matrix) {
  if (matrix.view.dtype != DType::kF8E4M3) return absl::OkStatus();
  const std::string& file = matrix.view.file;
  if (config_.fp8_block_rows == 0)
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": tensor ", matrix.view.name,
                     " is fp8, but config.json has no quantization_config that tells its "
                     "block size"));
  matrix.fp8_block_rows = config_.fp8_block_rows;
  matrix.fp8_block_cols = config_.fp8_block_cols;
  std::vector<int64_t> expected = shape;
  expected[shape.size() - 2] = CeilDiv(shape[shape.size() - 2], matrix.fp8_block_rows);
  expected.back() = CeilDiv(shape.back(), matrix.fp8_block_cols);
  const std::string name = ScaleNameOf(matrix.view.name);
  const TensorView* scales = source_.Find(name);
  if (scales == nullptr)
    return absl::NotFoundError(
        absl::StrCat(file, ": tensor ", name, " ", ShapeText(expected), " is missing"));
  if (scales->shape != expected || scales->dtype != DType::kF32)
    return absl::InvalidArgumentError(absl::StrCat(scales->file, ": tensor ", name, " must be f32 ",
                                                   ShapeText(expected), ", found ",
                                                   scales->Describe()));
  used_.insert(name);
  matrix.scale_inv = *scales;
  return absl::OkStatus();
}

absl::StatusOr<Matrix> TensorResolver::GetMatrix(TensorRole role, int64_t rows, int64_t cols,
                                                 int64_t layer, int64_t expert) {
  TANDEM_ASSIGN_OR_RETURN(const TensorView* tensor, Find(role, layer, expert, {rows, cols}));
  Matrix matrix;
  matrix.view = *tensor;
  TANDEM_RETURN_IF_ERROR(AddScales({rows, cols}, matrix));
  return matrix;
}

absl::StatusOr<std::vector<Matrix>> TensorResolver::GetStacked(TensorRole role, int64_t count,
                                                               int64_t rows, int64_t cols,
                                                               int64_t layer) {
  const std::vector<int64_t> shape = {count, rows, cols};
  TANDEM_ASSIGN_OR_RETURN(const TensorView* tensor, Find(role, layer, 0, shape));
  Matrix all;
  all.view = *tensor;
  TANDEM_RETURN_IF_ERROR(AddScales(shape, all));
  std::vector<Matrix> matrices;
  matrices.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    Matrix one = all;
    one.view = all.view.Slice(i);
    if (all.scale_inv.has_value()) one.scale_inv = all.scale_inv->Slice(i);
    matrices.push_back(std::move(one));
  }
  return matrices;
}

absl::StatusOr<TensorView> TensorResolver::GetTensor(TensorRole role,
                                                     const std::vector<int64_t>& shape,
                                                     int64_t layer) {
  TANDEM_ASSIGN_OR_RETURN(const TensorView* tensor, Find(role, layer, 0, shape));
  const DType type = tensor->dtype;
  if (shape.size() == 1 && type != DType::kF32 && type != DType::kF16 && type != DType::kBF16)
    return absl::InvalidArgumentError(absl::StrCat(tensor->file, ": tensor ", tensor->name,
                                                   " must be f32, f16 or bf16, found ",
                                                   tensor->Describe()));
  return *tensor;
}

void TensorResolver::Ignore(TensorRole role, int64_t layer) {
  used_.insert(TensorNameOf(source_.kind(), role, layer));
}

absl::Status TensorResolver::CheckAllUsed(bool experts_elsewhere, int64_t* mtp_layers_found) const {
  absl::flat_hash_set<int64_t> mtp_layers;
  for (const TensorView& tensor : source_.tensors()) {
    if (used_.contains(tensor.name) || absl::EndsWith(tensor.name, "rotary_emb.inv_freq")) continue;
    const int64_t layer = LayerOfTensorName(source_.kind(), tensor.name);
    const int64_t beyond = layer - config_.num_hidden_layers;
    if (layer >= 0 && beyond >= 0 && beyond < config_.num_nextn_predict_layers) {
      mtp_layers.insert(layer);
      continue;
    }
    if (experts_elsewhere && IsRoutedExpertName(source_.kind(), tensor.name)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        tensor.file, ": tensor ", tensor.name, " (", tensor.Describe(), ") has no place in a ",
        config_.model_type, " model with ", config_.num_hidden_layers, " layers"));
  }
  *mtp_layers_found = static_cast<int64_t>(mtp_layers.size());
  return absl::OkStatus();
}

std::optional<Matrix> RowRange(const Matrix& matrix, int64_t begin, int64_t count) {
  Matrix part = matrix;
  part.view.shape = {count, matrix.cols()};
  part.view.size_bytes = count * matrix.view.row_bytes();
  part.view.data = matrix.view.data + begin * matrix.view.row_bytes();
  if (!matrix.scale_inv.has_value()) return part;
  if (begin % matrix.fp8_block_rows != 0) return std::nullopt;
  const int64_t blocks = CeilDiv(count, matrix.fp8_block_rows);
  part.scale_inv->shape = {blocks, matrix.scale_inv->cols()};
  part.scale_inv->size_bytes = blocks * matrix.scale_inv->row_bytes();
  part.scale_inv->data =
      matrix.scale_inv->data + begin / matrix.fp8_block_rows * matrix.scale_inv->row_bytes();
  return part;
}

}  // namespace tandem
