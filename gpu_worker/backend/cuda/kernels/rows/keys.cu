// Rotation of queries and what is cached of a row's key.
#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/rows/norm_row.h"
#include "gpu_worker/backend/cuda/kernels/rows/rope.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

template <Storage kStorage, bool kHalves, int kThreads>
__global__ void __launch_bounds__(kNormBlockThreads) FinishKeysKernel(FinishKeysArgs a) {
  const int64_t row = RowOfThread<kThreads>();
  if (row >= a.rows) return;
  const int64_t slot = a.slots[row];
  if (slot < 0) return;
  const int64_t rope = a.rope.rope, half = rope / 2;
  const auto* const kv = static_cast<const Stored<kStorage>*>(a.kv) + row * a.kv_stride;
  auto* const out = static_cast<Stored<kStorage>*>(a.cache) + slot * (a.latent + rope);
  for (int64_t p = ThreadOfRow<kThreads>(); p < RopePackets(rope); p += kThreads) {
    RotatePacket<kStorage, kHalves>(rope, kv + a.latent, a.rope.cos + row * half,
                                    a.rope.sin + row * half, p, out + a.latent);
  }
  NormRow<kStorage, kThreads>(kv, a.weight, a.eps, a.latent, 1,
                              [&](int64_t packet, const float(&v)[kPacket]) {
                                StorePacket(v, out, packet * kPacket, a.latent);
                              });
}

// A head's packets: those that turn, then, of a copy, those that do not.
constexpr int64_t QueryPackets(const RotateQueriesArgs& a) {
  return RopePackets(a.rope.rope) + (a.from == a.q ? 0 : PacketsOf(a.head_dim - a.rope.rope));
}

template <Storage kStorage, bool kHalves>
__global__ void __launch_bounds__(kNormBlockThreads) RotateQueriesKernel(RotateQueriesArgs a) {
  const int64_t row = blockIdx.x, half = a.rope.rope / 2, plain = a.head_dim - a.rope.rope;
  const int packets = static_cast<int>(QueryPackets(a));
  const int turning = static_cast<int>(RopePackets(a.rope.rope));
  const int i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  const int head = i / packets, packet = i % packets;
  if (head >= a.heads) return;
  const auto* const from = static_cast<const Stored<kStorage>*>(a.from) + row * a.from_stride +
                           static_cast<int64_t>(head) * a.head_dim;
  auto* const to = static_cast<Stored<kStorage>*>(a.q) + (row * a.heads + head) * a.head_dim;
  if (packet < turning) {
    RotatePacket<kStorage, kHalves>(a.rope.rope, from + plain, a.rope.cos + row * half,
                                    a.rope.sin + row * half, packet, to + plain);
    return;
  }
  float v[kPacket];
  const int64_t begin = static_cast<int64_t>(packet - turning) * kPacket;
  LoadPacket<kStorage>(from, begin, plain, v);
  StorePacket(v, to, begin, plain);
}

template <Storage kStorage, bool kHalves>
void FinishKeysAs(const FinishKeysArgs& args, Stream stream) {
  LaunchNormRows(FinishKeysKernel<kStorage, kHalves, kWarpThreads>,
                 FinishKeysKernel<kStorage, kHalves, kNormBlockThreads>, args.latent, args.rows,
                 stream, args);
}

template <Storage kStorage, bool kHalves>
void RotateQueriesAs(const RotateQueriesArgs& args, Stream stream) {
  const int64_t threads = args.heads * QueryPackets(args);
  TANDEM_CHECK_LE(args.rows, int64_t{0x7fffffff});
  TANDEM_CHECK_LE(threads, int64_t{65535} * kNormBlockThreads);
  const int64_t block = std::min<int64_t>((threads + 31) / 32 * 32, kNormBlockThreads);
  Launch(
      RotateQueriesKernel<kStorage, kHalves>,
      dim3(static_cast<unsigned>(args.rows), static_cast<unsigned>((threads + block - 1) / block)),
      static_cast<unsigned>(block), 0, stream, args);
}

void CheckRope(const RopeArgs& rope) { TANDEM_CHECK(rope.rope > 0 && rope.rope % 2 == 0); }

}  // namespace

void FinishKeys(const FinishKeysArgs& args, Stream stream) {
  if (args.rows == 0) return;
  CheckRope(args.rope);
  FinishKeysArgs a = args;
  if (a.kv_stride == 0) a.kv_stride = a.latent + a.rope.rope;
  const bool bf16 = a.storage == Storage::kBf16, halves = a.rope.halves;
  if (bf16 && halves) FinishKeysAs<Storage::kBf16, true>(a, stream);
  if (bf16 && !halves) FinishKeysAs<Storage::kBf16, false>(a, stream);
  if (!bf16 && halves) FinishKeysAs<Storage::kF32, true>(a, stream);
  if (!bf16 && !halves) FinishKeysAs<Storage::kF32, false>(a, stream);
}

void RotateQueries(const RotateQueriesArgs& args, Stream stream) {
  if (args.rows == 0 || args.heads == 0) return;
  CheckRope(args.rope);
  TANDEM_CHECK_LE(args.rope.rope, args.head_dim);
  RotateQueriesArgs a = args;
  if (a.from == nullptr) {
    a.from = a.q;
    a.from_stride = a.heads * a.head_dim;
  }
  const bool bf16 = a.storage == Storage::kBf16;
  const auto run = bf16 ? (a.rope.halves ? RotateQueriesAs<Storage::kBf16, true>
                                         : RotateQueriesAs<Storage::kBf16, false>)
                        : (a.rope.halves ? RotateQueriesAs<Storage::kF32, true>
                                         : RotateQueriesAs<Storage::kF32, false>);
  run(a, stream);
}

}  // namespace tandem::gpu_worker::cuda
