// OneDnnLinear: bf16 linear layers through oneDNN, for processors whose matrix units it knows and
// for many rows. oneDNN chooses its blocking by shape, so only one shape is ever used: tiles of
// kTileRows rows, short ones padded with zeros, and slices of outputs. Then a row's bits cannot
// depend on how many rows a batch has, and as every primitive runs on one thread, not on their
// number; that they do not depend on the place in the tile or on the other rows either is checked
// when a weight is packed, and a weight that fails is refused.
//
// Its order over K is oneDNN's, not that of linear.h: a weight goes one way for prefill and decode
// alike, never both.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace tandem::kernels {

class OneDnnLinear {
 public:
  static constexpr int64_t kTileRows = 32;    // rows of every primitive
  static constexpr int64_t kSliceOuts = 256;  // outputs of every primitive but the last of a weight

  // True when this build and processor have bf16 matmul and a trial weight passes the check.
  // Computed once.
  static bool Available();

  // Packs w [n, k] bf16 row-major (a private copy; `w` is not kept). UNIMPLEMENTED when oneDNN has
  // no bf16 matmul here, FAILED_PRECONDITION when rows were found to depend on their place,
  // INTERNAL with oneDNN's message otherwise.
  static absl::StatusOr<std::unique_ptr<OneDnnLinear>> Create(const uint16_t* w, int64_t n,
                                                              int64_t k);
  ~OneDnnLinear();

  int64_t slices() const;  // ceil(n / kSliceOuts)

  // y[r * y_stride + o] for rows r < rows and the outputs of slices [slice_begin, slice_end): x
  // [rows, k] bf16, x_stride values apart, y f32. Runs on the calling thread alone; thread-safe, so
  // callers split over slices and over tiles of rows.
  void Run(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t slice_begin,
           int64_t slice_end, float* y, int64_t y_stride) const;

 private:
  struct Impl;
  explicit OneDnnLinear(std::unique_ptr<Impl> impl);
  absl::Status CheckRowsIndependent() const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::kernels
