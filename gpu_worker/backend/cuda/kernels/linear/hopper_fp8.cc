#include "gpu_worker/backend/cuda/kernels/linear/hopper_fp8.h"

#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/linear/fp8_rows.h"
#include "gpu_worker/backend/cuda/kernels/linear/hopper_fp8_kernel.h"
#include "gpu_worker/backend/cuda/simt/tensor_map.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

namespace fp8 = hopper_fp8;

// Of an H200. More or less cost speed alone: who has no multiprocessor waits for one.
constexpr int kMultiprocessors = 132;
// In clusters of eight, or of four, two or six multiprocessors of each group of 16 or 18 stay idle.
constexpr int kMultiprocessorsOfClusters = 128;

// y by TMA: where rows begin at multiples of 16 bytes and a box is no larger than y.
bool TakesBoxes(const LinearArgs& args) {
  return args.y_storage == Storage::kBf16 && args.w.batch == 1 && args.y_stride % 8 == 0 &&
         reinterpret_cast<uintptr_t>(args.y) % 16 == 0 && args.rows >= fp8::kTileRows &&
         args.w.outputs >= fp8::kBoxColumnsOfY;
}

fp8::Product ProductOf(const LinearArgs& args, const Fp8Rows& x, bool many_rows) {
  const DeviceMatrix& w = args.w;
  fp8::Product p;
  p.x_scales = x.scales;
  p.w_scales = static_cast<const float*>(w.scales);
  p.w_scales_stride = w.scale_bytes / 4;
  p.rows = static_cast<int>(args.rows);
  p.outputs = static_cast<int>(w.outputs);
  p.batch = static_cast<int>(w.batch);
  p.blocks = static_cast<int>(RoundUpTo(w.inputs, kInputsMultiple) / fp8::kInputs);
  p.splits = HopperFp8Splits(w.inputs);
  p.box_rows = static_cast<int>(
      std::min<int64_t>(many_rows ? fp8::kManyTileRows : fp8::kTileRows, args.rows));
  p.box_outputs =
      static_cast<int>(std::min<int64_t>(fp8::kColumns, RoundUpTo(w.outputs, kOutputsMultiple)));
  p.y = args.y;
  p.y_stride = args.y_stride;
  p.y_batch_stride = args.y_batch_stride;
  p.y_bf16 = args.y_storage == Storage::kBf16;
  p.y_pairs = args.y_stride % 2 == 0 && args.y_batch_stride % 2 == 0 &&
              reinterpret_cast<uintptr_t>(args.y) % 4 == 0;
  p.y_boxes = many_rows && TakesBoxes(args);
  return p;
}

TensorMap MapOfInputs(const fp8::Product& p, const uint8_t* codes) {
  const int64_t k_padded = int64_t{p.blocks} * fp8::kInputs;
  return MakeTensorMap({.element = TensorElement::kByte,
                        .base = codes,
                        .rank = 3,
                        .sizes = {k_padded, p.rows, p.batch},
                        .strides_bytes = {k_padded, p.rows * k_padded},
                        .box = {fp8::kInputs, static_cast<uint32_t>(p.box_rows), 1},
                        .swizzle_128 = true});
}

// Bands of 16 inputs, each [outputs, 16] bytes in a row.
TensorMap MapOfWeights(const DeviceMatrix& w, const fp8::Product& p, int bands) {
  const int64_t band_bytes = RoundUpTo(w.outputs, kOutputsMultiple) * fp8::kBandBytes;
  return MakeTensorMap({.element = TensorElement::kWord64,
                        .base = w.weights,
                        .rank = 3,
                        .sizes = {band_bytes / 8, int64_t{p.blocks} * fp8::kBands, w.batch},
                        .strides_bytes = {band_bytes, w.weight_bytes},
                        .box = {static_cast<uint32_t>(p.box_outputs * fp8::kBandBytes / 8),
                                static_cast<uint32_t>(bands), 1}});
}

TensorMap MapOfOutputs(const fp8::Product& p) {
  return MakeTensorMap({.element = TensorElement::kBf16,
                        .base = p.y,
                        .rank = 2,
                        .sizes = {p.outputs, p.rows, 1},
                        .strides_bytes = {p.y_stride * 2, 0},
                        .box = {fp8::kBoxColumnsOfY, fp8::kTileRows, 1},
                        .swizzle_128 = true});
}

// So many that all have the same number of tiles, or one less.
int ClustersFor(int tiles, int at_once) {
  return fp8::CountOf(tiles, fp8::CountOf(tiles, at_once));
}

}  // namespace

// Tiles of few rows have their weights from L2 once more for every 64 rows, which then limits them
// to some half of what the other kernel makes of a GPU that it fills; half of which it needs to
// have the same speed.
HopperFp8Plan PlanHopperFp8(const DeviceMatrix& w, int64_t rows) {
  LinearArgs args;
  args.w = w;
  args.rows = rows;
  const fp8::Product p = ProductOf(args, {}, /*many_rows=*/false);
  const int units = fp8::ManyRowsUnits(p);
  if (rows > fp8::kManyTileRows && units * fp8::kSharing >= kMultiprocessors / 2) {
    return {true, ClustersFor(units, kMultiprocessors / fp8::kSharing)};
  }
  const int at_once =
      p.splits < 4 ? kMultiprocessors / p.splits : kMultiprocessorsOfClusters / p.splits;
  return {false, ClustersFor(fp8::FewRowsTiles(p), at_once)};
}

size_t HopperFp8WorkspaceBytes(const DeviceMatrix& w, int64_t rows) {
  return rows == 0 ? 0 : static_cast<size_t>(Fp8RowsBytes(w, rows));
}

void LinearHopperFp8(const LinearArgs& args, const HopperFp8Plan& plan, Stream stream) {
  TANDEM_CHECK(args.w.format.kind == WeightKind::kFp8 && args.x_storage == Storage::kBf16);
  TANDEM_CHECK(plan.clusters >= 1);
  const Fp8Rows x = QuantizedRows(args, 0, args.rows, stream);
  const fp8::Product p = ProductOf(args, x, plan.many_rows);
  const TensorMap x_map = MapOfInputs(p, x.codes);
  if (!plan.many_rows) {
    return fp8::LaunchFewRows(x_map, MapOfWeights(args.w, p, fp8::kBands), p, plan.clusters,
                              stream);
  }
  const TensorMap y_map = p.y_boxes ? MapOfOutputs(p) : x_map;  // x_map: any, it is not used
  fp8::LaunchManyRows(x_map, MapOfWeights(args.w, p, fp8::kBands / fp8::kSharing), y_map, p,
                      plan.clusters, stream);
}

void LinearHopperFp8(const LinearArgs& args, Stream stream) {
  if (args.rows == 0) return;
  LinearHopperFp8(args, PlanHopperFp8(args.w, args.rows), stream);
}

}  // namespace tandem::gpu_worker::cuda
