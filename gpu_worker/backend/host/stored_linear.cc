#include "gpu_worker/backend/host/stored_linear.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/host/load_rows.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/weights.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker {
namespace {

using kernels::kPanelRows;

absl::Status Named(const Matrix& matrix, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(matrix.view.file, ": tensor ", matrix.view.name,
                                                  ": ", std::string(status.message())));
}

// Validates and packs the rows of one panel.
absl::Status PackOne(const Matrix& matrix, const kernels::PackedLayout& layout, int64_t p,
                     std::byte* panel) {
  const TensorView& view = matrix.view;
  const int64_t first = p * kPanelRows;
  const int64_t rows = std::min<int64_t>(kPanelRows, matrix.rows() - first);
  for (int64_t r = first; r < first + rows; ++r) {
    TANDEM_RETURN_IF_ERROR(
        Named(matrix, ValidateRow(view.dtype, view.data + r * view.row_bytes(), view.cols())));
  }
  const std::vector<float> scales = BlockScalesOfRows(matrix, first, rows);
  kernels::PackPanel(layout, view.data + first * view.row_bytes(), rows,
                     scales.empty() ? nullptr : scales.data(), panel);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoredLinear>> StoredLinear::Create(const Matrix& matrix,
                                                                   base::ThreadPool& pool) {
  TANDEM_RETURN_IF_ERROR(Named(
      matrix, kernels::CheckWeightType(matrix.view.dtype, matrix.cols(), matrix.fp8_block_cols)));
  const kernels::PackedLayout layout =
      kernels::LayoutOf(matrix.view.dtype, matrix.rows(), matrix.cols(), matrix.fp8_block_cols);
  TANDEM_ASSIGN_OR_RETURN(base::HugeMemory memory, base::HugeMemory::Allocate(layout.bytes()));
  std::unique_ptr<StoredLinear> linear(new StoredLinear(std::move(memory)));
  std::byte* data = linear->memory_.data();
  linear->matrix_ = {layout, data};
  TANDEM_RETURN_IF_ERROR(ForAllOrError(pool, layout.panels(), [&](int64_t p) {
    return PackOne(matrix, layout, p, data + p * layout.panel_bytes);
  }));
  return linear;
}

void StoredLinear::Apply(base::ThreadPool& pool, kernels::MatrixInput& input, const float* x,
                         int64_t x_stride, int64_t rows, float* y, int64_t y_stride) const {
  const kernels::KernelTable& table = kernels::ActiveTable();
  const kernels::PackedLayout& layout = matrix_.layout;
  constexpr auto kForm = kernels::ActivationForm::kNative;
  input.Reset(table, layout.type, kForm, rows, layout.cols);
  pool.ParallelFor(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) input.Store(table, r, x + r * x_stride);
  });
  const bool tiled = kernels::UsesTiles(table, layout.type, kForm, rows);
  const int64_t step = tiled ? kernels::kTilePanelsMax : 1;
  pool.ParallelFor((layout.panels() + step - 1) / step, 1, [&](int64_t begin, int64_t end) {
    thread_local kernels::AlignedBuffer buffer;
    const int64_t whole_rows =
        (rows + kernels::kTileRows - 1) / kernels::kTileRows * kernels::kTileRows;
    float* sums = reinterpret_cast<float*>(
        buffer.Reserve(whole_rows * step * kPanelRows * static_cast<int64_t>(sizeof(float))));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item * step;
      const int64_t panels = std::min(step, layout.panels() - first);
      kernels::MultiplyPanels(table, matrix_, first, panels, input.rows(), kForm, sums,
                              panels * kPanelRows);
      const int64_t outs = std::min(panels * kPanelRows, layout.rows - first * kPanelRows);
      for (int64_t r = 0; r < rows; ++r) {
        std::copy_n(sums + r * panels * kPanelRows, outs, y + r * y_stride + first * kPanelRows);
      }
    }
  });
}

}  // namespace tandem::gpu_worker
