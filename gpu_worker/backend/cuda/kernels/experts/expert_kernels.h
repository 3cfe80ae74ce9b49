// Between the kernels of this folder: the arguments of one launch, and what becomes of a product.
#pragma once

#include <cmath>

#include "gpu_worker/backend/cuda/kernels/experts/experts.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/kernels/packed_form.h"

namespace tandem::gpu_worker::cuda::experts {

inline constexpr int kPanelWarps = 4;  // of a block: panels next to each other
inline constexpr int kStages = 3;      // of a warp's ring
inline constexpr int kLine = kernels::kLineBytes;

struct ProductWork {
  const ProductTile* tiles;
  const unsigned char* x;
  const uint32_t* x_row;
  int64_t x_row_bytes;
  int64_t panels, panel_bytes, outputs, cols;
  int rows_max, stages;
  int scale_cols;  // of fp8
  ProductTarget target;
  int64_t y_stride;
  const uint32_t* to;
  const float* weights;
  const float* inverse_steps;
  float limit;
  int32_t* sums;
  uint8_t* flags;
  float* out;
};

// One output of the tile's row `row`.
__device__ __forceinline__ void Deliver(const ProductWork& w, const ProductTile& tile, int row,
                                        int64_t output, float value) {
  const int64_t pair = tile.first + row;
  if (w.target == ProductTarget::kStore) {
    tile.y[pair * w.y_stride + output] = value;
    return;
  }
  const int64_t to = w.to[pair];
  const float term = __fmul_rn(value, w.weights[pair]);
  if (w.target == ProductTarget::kWeighed) {
    w.out[to * w.outputs + output] = term;
    return;
  }
  const float scaled = __fmul_rn(term, w.inverse_steps[to]);
  if (fabsf(scaled) <= w.limit) {
    atomicAdd(w.sums + to * w.outputs + output, static_cast<int>(rintf(scaled)));
  } else {
    w.flags[to] = 1;  // all that write write the same
  }
}

// Numbers of steps that fit 22 bits and a sign as floats, exactly: one addition each way.
inline constexpr float kWholeMagic = 12582912.0f;  // 1.5 * 2^23
inline constexpr int32_t kWholeMagicBits = 0x4b400000;
__device__ __forceinline__ float MagicToFloat(int32_t magic_plus_n) {
  return __fsub_rn(__uint_as_float(static_cast<uint32_t>(magic_plus_n)), kWholeMagic);
}
__device__ __forceinline__ float SmallToFloat(int32_t n) {
  return MagicToFloat(kWholeMagicBits + n);
}

// Words of shared memory at a multiple of their size.
template <typename T>
__device__ __forceinline__ T At(const unsigned char* bytes) {
  return *reinterpret_cast<const T*>(bytes);
}

// Starts kernel<kType>, a warp a panel; Form says how a panel is cut into stages.
template <typename Form, typename Kernel>
void LaunchPanels(Kernel kernel, ProductWork work, int64_t tile_count, Stream stream) {
  const int64_t stage_cols = Form::kStageCols;
  work.stages = static_cast<int>((work.cols + stage_cols - 1) / stage_cols);
  const size_t warp_bytes =
      Form::kStageBytes + static_cast<size_t>(work.rows_max) * Form::kRowStride;
  const auto blocks = static_cast<unsigned>((work.panels + kPanelWarps - 1) / kPanelWarps);
  Launch(kernel, dim3(blocks, static_cast<unsigned>(tile_count)), kPanelWarps * kWarpThreads,
         kPanelWarps * kStages * warp_bytes, stream, work);
}

// The types of one source file each, which the compiler takes long enough for: by how their scales
// lie (packed_form.h), by lists of levels, and floats.
template <DType... kTypes>
struct Types {};
using HalfTypes =
    Types<DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kIQ4_NL>;
using SuperTypes =
    Types<DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_XS>;
using ListTypes = Types<DType::kIQ1_S, DType::kIQ1_M, DType::kIQ2_XXS, DType::kIQ2_XS,
                        DType::kIQ2_S, DType::kIQ3_XXS, DType::kIQ3_S>;
using FloatTypes = Types<DType::kBF16, DType::kF16, DType::kF8E4M3>;

// Calls start<type>(); false where `type` is none of these.
template <DType... kTypes, typename Start>
bool StartOneOf(Types<kTypes...>, DType type, Start start) {
  return ((type == kTypes && (start.template operator()<kTypes>(), true)) || ...);
}

// Each starts the kernels of a few types; false for all others.
bool LaunchHalfCodes(DType type, const ProductWork& work, int64_t tile_count, Stream stream);
bool LaunchSuperCodes(DType type, const ProductWork& work, int64_t tile_count, Stream stream);
bool LaunchListCodes(DType type, const ProductWork& work, int64_t tile_count, Stream stream);
bool LaunchFloats(DType type, const ProductWork& work, int64_t tile_count, Stream stream);
bool LaunchExactHalf(DType type, const ProductWork& work, int64_t tile_count, Stream stream);
bool LaunchExactSuper(DType type, const ProductWork& work, int64_t tile_count, Stream stream);
bool LaunchExactList(DType type, const ProductWork& work, int64_t tile_count, Stream stream);

}  // namespace tandem::gpu_worker::cuda::experts
