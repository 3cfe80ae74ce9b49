// Rows of activations in the forms that matrices of different formats are multiplied with:
//
// kInt8: block-quantized weights, NATIVE (proto/experts.proto). int8 with one scale per 32 values.
//
// kFloat: everything else. f32 values; NATIVE calls on bf16, f16, fp8 and f32 weights round them to
// bf16 first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "lib/kernels/kernel_table.h"
#include "lib/kernels/quant_rows.h"

namespace tandem::kernels {

enum class ActivationForm { kNative, kF32 };
enum class RowForm { kInt8, kFloat };

RowForm RowFormOf(DType weights, ActivationForm activation);

// Memory aligned to cache lines that grows and never shrinks.
class AlignedBuffer {
 public:
  // At least `bytes`; what it held is lost when it grows.
  std::byte* Reserve(int64_t bytes);
  std::byte* data() { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  int64_t bytes_ = 0;
};

// Rows of one length, each form in memory of its own.
class ActivationRows {
 public:
  // The forms to keep. `round_to_bf16`: float rows are rounded when stored.
  struct Wanted {
    bool int8 = false;
    bool floats = false;
    bool round_to_bf16 = false;
  };
  void Reset(const Wanted& wanted, int64_t rows, int64_t cols);
  static int64_t RowBytes(const Wanted& wanted, int64_t cols);

  // Stores values [col_begin, col_begin + n) of a row in every form wanted. col_begin is a multiple
  // of 32; n too, or the range ends at the row's end. Ranges may be stored from several threads.
  void Store(const KernelTable& table, int64_t row, int64_t col_begin, int64_t n,
             const float* values);

  const QuantRow* quant(int64_t row) const { return &quant_[row]; }
  // PaddedFloats(cols) values, zeros past the end.
  const float* floats(int64_t row) const { return floats_.data() + row * float_stride_; }

 private:
  Wanted wanted_;
  int64_t cols_ = 0, float_stride_ = 0;
  QuantRows quant_;
  std::vector<float> floats_;
};

// Rounds to bf16, kept as f32.
void RoundToBf16(const KernelTable& table, const float* values, int64_t n, float* out);

// The rows that one expert's matrices are multiplied with. Row tiles (lib/kernels/panel.h) or rows
// apart; what is null or empty is in no matrix's form.
struct GroupRows {
  int64_t rows = 0, cols = 0;
  std::vector<const QuantRow*> quant;
  std::vector<const float*> floats;
  std::byte* quant_tiles = nullptr;
  std::byte* bf16_tiles = nullptr;

  // Copies columns [col, col + n) of one row, as they lie in `quant` and `floats`, to the tiles
  // there are. col is a multiple of 32; n too, or the range ends at the row's end, and then brings
  // the zeros that fill it up.
  void FillTiles(int64_t row, int64_t col, int64_t n) const;
};

// True when `rows` rows are multiplied with `weights` as row tiles: where the instruction set has
// such a kernel and there are enough rows for it to be faster. Both give the same bits.
bool UsesTiles(const KernelTable& table, DType weights, ActivationForm activation, int64_t rows);

// Rows for one matrix alone, in its form.
class MatrixInput {
 public:
  // Makes room for `rows` rows of `cols` values.
  void Reset(const KernelTable& table, DType weights, ActivationForm activation, int64_t rows,
             int64_t cols);
  // Stores one row; different rows may be stored from different threads.
  void Store(const KernelTable& table, int64_t row, const float* values);
  const GroupRows& rows() const { return group_; }

 private:
  ActivationRows stored_;
  AlignedBuffer tile_memory_;
  GroupRows group_;
};

// Asks memory for the beginning of panel `panel`, which somebody will multiply next: a stream takes
// a microsecond to reach full speed.
void PrefetchPanel(const PackedMatrix& matrix, int64_t panel);

// y[r * y_stride + 16 p + o] = row r times output o of panel (first + p), p < panels. y has room
// for whole tiles of sixteen rows. Scratch is the calling thread's. Any split over panels or rows
// gives the same bits.
void MultiplyPanels(const KernelTable& table, const PackedMatrix& matrix, int64_t first,
                    int64_t panels, const GroupRows& x, ActivationForm activation, float* y,
                    int64_t y_stride);

}  // namespace tandem::kernels
