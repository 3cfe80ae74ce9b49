// Prefill for sm_80 and newer, after FlashAttention-2: a thread block takes 128 rows of one head
// through the keys page by page, each of its 8 warps 16 rows, which need nothing of other warps. Q
// stays in registers as fragments, so that two stages of keys and values are all that shared memory
// holds (80 KB at 192 and 128 dimensions: less than any sm_8x has). Copies of a page run while the
// page before it is computed.
//
// Bits: a row meets every page in order, masked or whole; a page in which all of its keys are
// masked multiplies by exp2(0) and adds zeros. Thread t of the four that share a row adds up its
// own columns, and the four sums meet only at the end.
#include <cmath>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/kernels/attention/prefill_kernels.h"
#include "gpu_worker/backend/cuda/kernels/attention/prefill_state.h"
#include "gpu_worker/backend/cuda/simt/async_copy.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/mma.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarpThreads;
constexpr int kWarpRows = 16;
static_assert(kWarps * kWarpRows == kPrefillTileRows);
constexpr int kKeys = static_cast<int>(kPageTokens);  // of a block
constexpr int kChunk = 8;                             // bf16 in 16 bytes
constexpr int kKeyTiles = kKeys / 8;                  // columns of an mma's result

template <int kNopeIn, int kRopeIn, int kVIn>
struct PrefillDims {
  static constexpr int kNope = kNopeIn, kRope = kRopeIn, kV = kVIn;
  static constexpr int kQk = kNope + kRope;
  static constexpr int kSteps = kQk / 16;  // of k in q . key
  static constexpr int kValueTiles = kV / 8;
  static constexpr int kKeyHalves = kKeys * kQk, kValueHalves = kKeys * kV;
  static constexpr int kStageHalves = kKeyHalves + kValueHalves;
  static constexpr int kSharedBytes = 2 * kStageHalves * 2;
  static_assert(kNope % kChunk == 0 && kRope % kChunk == 0 && kQk % 16 == 0 && kV % 16 == 0);
};

// Where 16-byte chunk `chunk` of row `row` lies in a tile with kChunks chunks a row: exchanged
// within groups of up to 8 so that the 8 rows an ldmatrix reads at once are in different banks.
template <int kChunks>
__device__ __forceinline__ int Swizzled(int row, int chunk) {
  constexpr int kLowBit = kChunks & -kChunks;
  constexpr int kGroup = kLowBit < 8 ? kLowBit : 8;
  return (row * kChunks + (chunk ^ (row & (kGroup - 1)))) * kChunk;
}

// Starts the copies of keys (nope part, then the rope part that all heads share) and values of one
// page of the piece.
template <typename D>
__device__ __forceinline__ void CopyPage(const PrefillParameters& p, int64_t head, int64_t first,
                                         Bf16* stage) {
  constexpr int kNopeChunks = D::kNope / kChunk, kRopeChunks = D::kRope / kChunk;
  constexpr int kKeyChunks = D::kQk / kChunk, kValueChunks = D::kV / kChunk;
  const Bf16* const keys = p.keys + (head * p.tokens + first) * D::kNope;
  const Bf16* const ropes = p.latents + first * (p.latent + D::kRope) + p.latent;
  const Bf16* const values = p.values + (head * p.tokens + first) * D::kV;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kKeys * kNopeChunks; i += kThreads) {
    const int row = i / kNopeChunks, chunk = i % kNopeChunks;
    CopyAsync16(stage + Swizzled<kKeyChunks>(row, chunk), keys + i * kChunk);
  }
  for (int i = thread; i < kKeys * kRopeChunks; i += kThreads) {
    const int row = i / kRopeChunks, chunk = i % kRopeChunks;
    CopyAsync16(stage + Swizzled<kKeyChunks>(row, kNopeChunks + chunk),
                ropes + int64_t{row} * (p.latent + D::kRope) + chunk * kChunk);
  }
  Bf16* const value_stage = stage + D::kKeyHalves;
  for (int i = thread; i < kKeys * kValueChunks; i += kThreads) {
    const int row = i / kValueChunks, chunk = i % kValueChunks;
    CopyAsync16(value_stage + Swizzled<kValueChunks>(row, chunk), values + i * kChunk);
  }
}

// What a thread holds of its warp's 16 rows: rows g and g + 8, `row` being row g of the call.
template <typename D>
struct WarpState {
  uint32_t q[D::kSteps][4];
  float mean[D::kValueTiles][4];
  float max[2], sum[2];  // max in units of the raw score
};

template <typename D>
__device__ __forceinline__ void LoadQueries(const PrefillParameters& p, int64_t head, int64_t row,
                                            WarpState<D>& state) {
  const int t = LaneId() % 4;
  for (int half = 0; half < 2; ++half) {
    const int64_t r = row + 8 * half;
    const int64_t pair = r * p.heads_all + p.head_begin + head;
    const uint32_t* const from = reinterpret_cast<const uint32_t*>(p.q + pair * D::kQk) + t;
#pragma unroll
    for (int step = 0; step < D::kSteps; ++step) {
      state.q[step][half] = r < p.rows ? from[8 * step] : 0;
      state.q[step][half + 2] = r < p.rows ? from[8 * step + 4] : 0;
    }
  }
}

// scores = q . key for the warp's rows and the page in `stage`.
template <typename D>
__device__ __forceinline__ void Scores(const WarpState<D>& state, const Bf16* stage,
                                       float (&scores)[kKeyTiles][4]) {
  constexpr int kChunks = D::kQk / kChunk;
  const int lane = LaneId();
  const int row = lane / 16 * 8 + lane % 8, chunk = lane / 8 % 2;
#pragma unroll
  for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[tile][i] = 0.0f;
  }
#pragma unroll
  for (int step = 0; step < D::kSteps; ++step) {
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; tile += 2) {
      uint32_t b[4];
      LoadMatrix<4>(b, stage + Swizzled<kChunks>(8 * tile + row, 2 * step + chunk));
      MmaBf16(scores[tile], state.q[step], {b[0], b[1]});
      MmaBf16(scores[tile + 1], state.q[step], {b[2], b[3]});
    }
  }
}

// mean += p values; p rounded to bf16.
template <typename D>
__device__ __forceinline__ void AddValues(const Bf16* values, const float (&p)[kKeyTiles][4],
                                          WarpState<D>& state) {
  constexpr int kChunks = D::kV / kChunk;
  const int lane = LaneId();
  const int row = lane % 16, chunk = lane / 16;
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    const auto& low = p[2 * step];
    const auto& high = p[2 * step + 1];
    const uint32_t a[4] = {PackBf16x2(low[0], low[1]), PackBf16x2(low[2], low[3]),
                           PackBf16x2(high[0], high[1]), PackBf16x2(high[2], high[3])};
#pragma unroll
    for (int tile = 0; tile < D::kValueTiles; tile += 2) {
      uint32_t b[4];
      LoadMatrix<4, true>(b, values + Swizzled<kChunks>(16 * step + row, tile + chunk));
      MmaBf16(state.mean[tile], a, {b[0], b[1]});
      MmaBf16(state.mean[tile + 1], a, {b[2], b[3]});
    }
  }
}

template <typename D>
__global__ void __launch_bounds__(kThreads, 1) PortablePrefillKernel(PrefillParameters p) {
  auto* const stages = reinterpret_cast<Bf16*>(SharedMemory());  // [2][keys, then values]
  const PrefillTile tile(p);
  if (tile.IsDone()) return;
  const int pages = tile.Blocks(p, kKeys);
  CopyPage<D>(p, tile.head, 0, stages);
  CommitAsyncCopies();
  WarpState<D> state;
  const auto mean = [&state](int i) -> float& { return state.mean[i / 4][i % 4]; };
  const int64_t warp_row = tile.row + WarpId() * kWarpRows;
  const int64_t row = warp_row + LaneId() / 4;
  LoadQueries<D>(p, tile.head, row, state);
  StartRows<D::kV>(p, tile.head, row, state.max, state.sum, mean);
  for (int page = 0; page < pages; ++page) {
    WaitAsyncCopies<0>();
    __syncthreads();  // this page is there for all; nobody reads the one before any more
    if (page + 1 < pages) {
      CopyPage<D>(p, tile.head, int64_t{page + 1} * kKeys,
                  stages + (page + 1) % 2 * D::kStageHalves);
    }
    CommitAsyncCopies();
    const int64_t ahead = p.start_position + warp_row - p.begin - int64_t{page} * kKeys;
    if (ahead + kWarpRows <= 0) continue;  // all keys lie behind all rows of the warp
    const Bf16* const stage = stages + page % 2 * D::kStageHalves;
    float scores[kKeyTiles][4];
    const auto score = [&scores](int i) -> float& { return scores[i / 4][i % 4]; };
    Scores<D>(state, stage, scores);
    if (ahead < kKeys - 1) MaskScores<kKeys>(static_cast<int>(ahead) + LaneId() / 4, score);
    float keep[2];
    Exponentials<kKeys>(p.scale_log2, state.max, state.sum, keep, score);
#pragma unroll
    for (int i = 0; i < D::kV / 2; ++i) mean(i) *= keep[i % 4 / 2];
    AddValues<D>(stage + D::kKeyHalves, scores, state);
  }
  WaitAsyncCopies<0>();
  EndRows<D::kV>(p, tile, row, state.max, state.sum, mean);
}

template <typename D>
void LaunchPrefill(const PrefillPiece& piece, Stream stream) {
  const PrefillParameters p = ParametersOf(piece);
  const dim3 grid(static_cast<unsigned>(piece.heads), static_cast<unsigned>(p.tiles));
  Launch(PortablePrefillKernel<D>, grid, kThreads, D::kSharedBytes, stream, p);
}

using PrefillLauncher = void (*)(const PrefillPiece& piece, Stream stream);

// Null where there is no kernel. 128, 64, 128 is DeepSeek's; the others are those of small models
// that tests run.
PrefillLauncher LauncherOf(const MlaShape& s) {
  const auto is = [&s](int64_t nope, int64_t rope, int64_t v) {
    return s.nope == nope && s.rope == rope && s.v == v;
  };
  if (s.latent % kChunk != 0) return nullptr;  // rope keys are copied by 16 bytes
  if (is(128, 64, 128)) return LaunchPrefill<PrefillDims<128, 64, 128>>;
  if (is(64, 32, 64)) return LaunchPrefill<PrefillDims<64, 32, 64>>;
  if (is(32, 16, 32)) return LaunchPrefill<PrefillDims<32, 16, 32>>;
  return nullptr;
}

}  // namespace

bool HasPortablePrefill(const MlaShape& shape, Storage storage) {
  return storage == Storage::kBf16 && LauncherOf(shape) != nullptr;
}

void PortablePrefillPiece(const PrefillPiece& piece, Stream stream) {
  const PrefillLauncher launch = LauncherOf(piece.args->shape);
  TANDEM_CHECK(launch != nullptr);
  launch(piece, stream);
}

}  // namespace tandem::gpu_worker::cuda
