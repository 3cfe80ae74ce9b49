// Choice of experts: a warp a row. Lane l has experts l, l + 32, ... in registers; scores also lie
// in shared memory, for what the host does in index order: the sum of a softmax and the groups.
#include "gpu_worker/backend/cuda/kernels/rows/exact_exp.h"
#include "gpu_worker/backend/cuda/kernels/rows/order.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kWarps = 4;  // rows of a block
constexpr uint32_t kMinusInfinityBits = 0xff800000u;

// Scores of all experts, left in `shared` [experts] too.
template <int kPerLane>
__device__ __forceinline__ void Score(const float* logits, int experts, bool sigmoid, float* shared,
                                      float (&score)[kPerLane]) {
  float top = __uint_as_float(kMinusInfinityBits);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = LaneId() + kWarpThreads * i;
    score[i] = e < experts ? logits[e] : top;
  }
  if (!sigmoid) {
    // Any NaN makes the sum and with it every score NaN, so what NaN does to the maximum is no
    // matter.
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) top = score[i] > top ? score[i] : top;
    top = WarpMax(top);
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = LaneId() + kWarpThreads * i;
    score[i] = sigmoid ? ExactSigmoid(score[i]) : ExactExp(__fsub_rn(score[i], top));
    if (e < experts) shared[e] = score[i];
  }
  __syncwarp();
  if (sigmoid) return;
  float sum = 0.0f;
  for (int e = 0; e < experts; ++e) sum += shared[e];
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = LaneId() + kWarpThreads * i;
    score[i] = score[i] / sum;
    if (e < experts) shared[e] = score[i];
  }
  __syncwarp();
}

// Bit g: group g is among the best. choice [experts] in shared memory.
__device__ __forceinline__ uint32_t KeptGroups(const RouteArgs& a, const float* choice) {
  const int groups = static_cast<int>(a.groups), lane = LaneId();
  const int size = static_cast<int>(a.experts) / groups;
  float best = __uint_as_float(kMinusInfinityBits), second = best;
  if (lane < groups) {
    for (int j = 0; j < size; ++j) {
      // Lanes begin at different places so that they ask different banks.
      const int k = j + lane < size ? j + lane : (j + lane) % size;
      const float v = choice[lane * size + k];
      second = v > best ? best : v > second ? v : second;
      best = v > best ? v : best;
    }
  }
  const float mine = a.group_by_top2 && size > 1 ? best + second : best;
  int better = 0;
  for (int g = 0; g < groups; ++g) {
    const float other = __shfl_sync(kFullWarp, mine, g);
    better += other > mine || (other == mine && g < lane) ? 1 : 0;
  }
  return __ballot_sync(kFullWarp, lane < groups && better < static_cast<int>(a.groups_kept));
}

// The id of this lane's rank; lanes from per_token on: 0.
template <int kPerLane>
__device__ __forceinline__ uint32_t Choose(const RouteArgs& a, const float (&score)[kPerLane],
                                           float* choice) {
  const int experts = static_cast<int>(a.experts), lane = LaneId();
  const bool grouped = a.groups > 1 && a.groups_kept < a.groups;
  uint32_t keys[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = lane + kWarpThreads * i;
    keys[i] = 0;
    if (e >= experts) continue;
    const float c = a.bias == nullptr ? score[i] : score[i] + a.bias[e];
    keys[i] = OrderOf(c);
    if (grouped) choice[e] = c == c ? c : __uint_as_float(kMinusInfinityBits);
  }
  if (grouped) {
    __syncwarp();
    const uint32_t kept = KeptGroups(a, choice);
    const int size = experts / static_cast<int>(a.groups);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int e = lane + kWarpThreads * i;
      if (e < experts && (kept >> (e / size) & 1u) == 0) {
        keys[i] = OrderOf(__uint_as_float(kMinusInfinityBits));
      }
    }
  }
  uint32_t mine = 0;
  for (int rank = 0; rank < static_cast<int>(a.per_token); ++rank) {
    uint32_t best = 0;
    int place = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (keys[i] > best) {
        best = keys[i];
        place = i;
      }
    }
    const uint32_t top = __reduce_max_sync(kFullWarp, best);
    const auto e = static_cast<uint32_t>(lane + kWarpThreads * place);
    const uint32_t id = __reduce_min_sync(kFullWarp, best == top ? e : 0xffffffffu);
    if (lane == rank) mine = id;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (id == static_cast<uint32_t>(lane + kWarpThreads * i)) keys[i] = 0;  // taken
    }
  }
  return mine;
}

template <int kPerLane>
__global__ void __launch_bounds__(kWarps* kWarpThreads) RouteKernel(RouteArgs a) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + WarpId();
  if (row >= a.rows) return;
  const int experts = static_cast<int>(a.experts), lane = LaneId();
  const int per_token = static_cast<int>(a.per_token);
  float* const shared = reinterpret_cast<float*>(SharedMemory()) + WarpId() * 2 * experts;
  float score[kPerLane];
  Score<kPerLane>(a.logits + row * experts, experts, a.sigmoid, shared, score);
  const int64_t place = row * per_token + lane;
  uint32_t id = 0;
  if (a.forced == nullptr) {
    id = Choose<kPerLane>(a, score, shared + experts);
  } else if (lane < per_token) {
    id = a.forced[place];
  }
  float weight = lane < per_token ? shared[id] : 0.0f;
  const bool normalize = a.normalize && per_token > 1;
  if (normalize) {
    float sum = 0.0f;
    for (int rank = 0; rank < per_token; ++rank) sum += __shfl_sync(kFullWarp, weight, rank);
    weight = weight / (sum + 1e-20f);
  }
  if (!normalize || a.sigmoid) weight = weight * a.scale;
  if (lane < per_token) {
    a.ids[place] = id;
    a.weights[place] = weight;
  }
}

template <int kPerLane>
void RouteAs(const RouteArgs& args, Stream stream) {
  Launch(RouteKernel<kPerLane>, static_cast<unsigned>((args.rows + kWarps - 1) / kWarps),
         kWarps * kWarpThreads, kWarps * 2 * args.experts * sizeof(float), stream, args);
}

}  // namespace

void Route(const RouteArgs& args, Stream stream) {
  if (args.rows == 0) return;
  TANDEM_CHECK_LE(args.rows, int64_t{0x7fffffff});
  TANDEM_CHECK(args.experts >= 1 && args.experts <= kRouteExpertsMax);
  TANDEM_CHECK(args.per_token >= 1 && args.per_token <= kWarpThreads);
  TANDEM_CHECK_LE(args.per_token, args.experts);
  TANDEM_CHECK(args.groups >= 1 && args.groups <= kWarpThreads);
  TANDEM_CHECK_EQ(args.experts % args.groups, 0);
  TANDEM_CHECK(args.groups_kept >= 1 && args.groups_kept <= args.groups);
  if (args.experts <= 64) {
    RouteAs<2>(args, stream);
  } else if (args.experts <= 256) {
    RouteAs<8>(args, stream);
  } else {
    RouteAs<16>(args, stream);
  }
}

}  // namespace tandem::gpu_worker::cuda
