#include "lib/kernels/row_forms.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "lib/base/check.h"
#include "lib/kernels/row_tiles.h"
#include "lib/kernels/weights.h"

namespace tandem::kernels {
namespace {

// From this many rows on tiles win (docs/benchmarks.md has the measurement): below, the unpacking
// costs more than reading the packed codes once per four rows.
constexpr int64_t kTileRowsMin = 6;

// With few tiles of rows the panels' unpacked chunks matter more for the first-level cache than one
// more pass over the rows.
int64_t TilePanels(int64_t rows) {
  if (rows <= kTileRows) return 1;
  return rows <= 4 * kTileRows ? 2 : kTilePanelsMax;
}

// Scratch that a thread keeps between calls.
template <typename T>
T* Grown(std::vector<T>* buffer, int64_t values) {
  if (static_cast<int64_t>(buffer->size()) < values) buffer->resize(values);
  return buffer->data();
}

AlignedBuffer& ThreadScratch() {
  thread_local AlignedBuffer scratch;
  return scratch;
}

}  // namespace

RowForm RowFormOf(DType weights, ActivationForm activation) {
  return activation == ActivationForm::kNative && IsIntegerForm(weights) ? RowForm::kInt8
                                                                         : RowForm::kFloat;
}

void AlignedBuffer::Free::operator()(std::byte* data) const { std::free(data); }

std::byte* AlignedBuffer::Reserve(int64_t bytes) {
  if (bytes <= bytes_) return data_.get();
  bytes_ = (bytes + kPackedAlign - 1) / kPackedAlign * kPackedAlign;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kPackedAlign, bytes_)));
  TANDEM_CHECK(data_ != nullptr);
  return data_.get();
}

void ActivationRows::Reset(const Wanted& wanted, int64_t rows, int64_t cols) {
  wanted_ = wanted;
  cols_ = cols;
  if (wanted.int8) quant_.Reset(rows, cols);
  float_stride_ = PaddedFloats(cols);
  if (!wanted.floats) return;
  Grown(&floats_, rows * float_stride_);
  for (int64_t r = 0; r < rows && cols < float_stride_; ++r) {
    std::fill(floats_.data() + r * float_stride_ + cols, floats_.data() + (r + 1) * float_stride_,
              0.0f);
  }
}

int64_t ActivationRows::RowBytes(const Wanted& wanted, int64_t cols) {
  return (wanted.int8 ? QuantRows::RowBytes(cols) : 0) +
         (wanted.floats ? PaddedFloats(cols) * 4 : 0);
}

void ActivationRows::Store(const KernelTable& table, int64_t row, int64_t col_begin, int64_t n,
                           const float* values) {
  if (wanted_.int8) table.quantize_row(values, n, quant_.At(row, col_begin));
  if (!wanted_.floats) return;
  float* to = floats_.data() + row * float_stride_ + col_begin;
  if (wanted_.round_to_bf16) {
    RoundToBf16(table, values, n, to);
  } else {
    std::memcpy(to, values, n * sizeof(float));
  }
}

void RoundToBf16(const KernelTable& table, const float* values, int64_t n, float* out) {
  thread_local std::vector<uint16_t> rounded;
  uint16_t* bits = Grown(&rounded, n);
  table.narrow_bf16(values, n, bits);
  table.widen_bf16(bits, n, out);
}

bool UsesTiles(const KernelTable& table, DType weights, ActivationForm activation, int64_t rows) {
  return activation == ActivationForm::kNative && rows >= kTileRowsMin &&
         table.panel_tiles[static_cast<int>(weights)] != nullptr;
}

void GroupRows::FillTiles(int64_t row, int64_t col, int64_t n) const {
  const auto tile_of = [row](std::byte* tiles, int64_t tile_bytes) {
    return tiles + row / kTileRows * tile_bytes;
  };
  if (quant_tiles != nullptr) {
    const int64_t end = col + n == cols ? PaddedCodes(cols) : col + n;
    PutQuantRow(*quant[row], col / kBlockCols, (end - col) / kBlockCols, row % kTileRows,
                tile_of(quant_tiles, QuantTileBytes(cols)));
  }
  if (bf16_tiles != nullptr) {
    PutBf16Row(floats[row], col, n, row % kTileRows, tile_of(bf16_tiles, Bf16TileBytes(cols)));
  }
}

void MatrixInput::Reset(const KernelTable& table, DType weights, ActivationForm activation,
                        int64_t rows, int64_t cols) {
  const bool int8 = RowFormOf(weights, activation) == RowForm::kInt8;
  const bool rounded = activation == ActivationForm::kNative;
  stored_.Reset({.int8 = int8, .floats = !int8, .round_to_bf16 = rounded}, rows, cols);
  group_ = {.rows = rows, .cols = cols};
  if (UsesTiles(table, weights, activation, rows)) {
    const int64_t tile_bytes = int8 ? QuantTileBytes(cols) : Bf16TileBytes(cols);
    (int8 ? group_.quant_tiles : group_.bf16_tiles) =
        tile_memory_.Reserve((rows + kTileRows - 1) / kTileRows * tile_bytes);
  }
  for (int64_t r = 0; r < rows; ++r) {
    if (int8) group_.quant.push_back(stored_.quant(r));
    if (!int8) group_.floats.push_back(stored_.floats(r));
  }
}

void MatrixInput::Store(const KernelTable& table, int64_t row, const float* values) {
  stored_.Store(table, row, 0, group_.cols, values);
  group_.FillTiles(row, 0, group_.cols);
}

void PrefetchPanel(const PackedMatrix& matrix, int64_t panel) {
  // Twice the lead of the kernels themselves (body/panel_codes.inl).
  constexpr int64_t kBytes = 4096;
  const std::byte* data = matrix.panel(panel);
  const int64_t bytes = std::min(kBytes, matrix.layout.panel_bytes);
  for (int64_t at = 0; at < bytes; at += kLineBytes) __builtin_prefetch(data + at, 0, 2);
}

void MultiplyPanels(const KernelTable& table, const PackedMatrix& matrix, int64_t first,
                    int64_t panels, const GroupRows& x, ActivationForm activation, float* y,
                    int64_t y_stride) {
  const PackedLayout& layout = matrix.layout;
  const int type = static_cast<int>(layout.type);
  if (UsesTiles(table, layout.type, activation, x.rows)) {
    const std::byte* tiles = IsIntegerForm(layout.type) ? x.quant_tiles : x.bf16_tiles;
    TANDEM_CHECK(tiles != nullptr);
    TileArgs args{.layout = &layout,
                  .tiles = tiles,
                  .rows = x.rows,
                  .y_stride = y_stride,
                  .scratch = ThreadScratch().Reserve(TileScratchBytes(layout))};
    const int64_t step = TilePanels(x.rows);
    for (int64_t p = 0; p < panels; p += step) {
      args.panel = matrix.panel(first + p);
      args.panels = std::min(step, panels - p);
      args.y = y + kPanelRows * p;
      table.panel_tiles[type](args);
    }
    return;
  }
  const RowForm form = RowFormOf(layout.type, activation);
  const bool as_f32 = activation == ActivationForm::kF32 || layout.type == DType::kF32;
  std::byte* scratch = as_f32 ? ThreadScratch().Reserve(PanelScratchBytes(layout)) : nullptr;
  const PanelArgs args{.layout = &layout,
                       .panel = matrix.panel(first),
                       .panels = panels,
                       .quant_x = form == RowForm::kInt8 ? x.quant.data() : nullptr,
                       .float_x = form == RowForm::kFloat ? x.floats.data() : nullptr,
                       .rows = x.rows,
                       .y = y,
                       .y_stride = y_stride,
                       .scratch = scratch};
  if (as_f32) {
    table.panel_f32(args);
  } else {
    table.panel[type](args);
  }
}

}  // namespace tandem::kernels
