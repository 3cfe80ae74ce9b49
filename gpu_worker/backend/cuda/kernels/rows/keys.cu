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

template <Storage kStorage, bool kHalves>
__global__ void __launch_bounds__(kNormBlockThreads)
    RotateQueriesKernel(RopeArgs rope, int64_t heads, int64_t head_dim, Stored<kStorage>* q) {
  const int64_t row = blockIdx.x, half = rope.rope / 2;
  const int packets = static_cast<int>(RopePackets(rope.rope));
  const int i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  const int head = i / packets;
  if (head >= heads) return;
  Stored<kStorage>* const v = q + (row * heads + head) * head_dim + head_dim - rope.rope;
  RotatePacket<kStorage, kHalves>(rope.rope, v, rope.cos + row * half, rope.sin + row * half,
                                  i % packets, v);
}

template <Storage kStorage, bool kHalves>
void FinishKeysAs(const FinishKeysArgs& args, Stream stream) {
  LaunchNormRows(FinishKeysKernel<kStorage, kHalves, kWarpThreads>,
                 FinishKeysKernel<kStorage, kHalves, kNormBlockThreads>, args.latent, args.rows,
                 stream, args);
}

template <Storage kStorage, bool kHalves>
void RotateQueriesAs(const RopeArgs& rope, int64_t heads, int64_t head_dim, int64_t rows, void* q,
                     Stream stream) {
  const int64_t threads = heads * RopePackets(rope.rope);
  TANDEM_CHECK_LE(rows, int64_t{0x7fffffff});
  TANDEM_CHECK_LE(threads, int64_t{65535} * kNormBlockThreads);
  const int64_t block = std::min<int64_t>((threads + 31) / 32 * 32, kNormBlockThreads);
  Launch(RotateQueriesKernel<kStorage, kHalves>,
         dim3(static_cast<unsigned>(rows), static_cast<unsigned>((threads + block - 1) / block)),
         static_cast<unsigned>(block), 0, stream, rope, heads, head_dim,
         static_cast<Stored<kStorage>*>(q));
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

void RotateQueries(Storage storage, const RopeArgs& rope, int64_t heads, int64_t head_dim,
                   int64_t rows, void* q, Stream stream) {
  if (rows == 0 || heads == 0) return;
  CheckRope(rope);
  TANDEM_CHECK_LE(rope.rope, head_dim);
  const bool bf16 = storage == Storage::kBf16;
  const auto run = bf16 ? (rope.halves ? RotateQueriesAs<Storage::kBf16, true>
                                       : RotateQueriesAs<Storage::kBf16, false>)
                        : (rope.halves ? RotateQueriesAs<Storage::kF32, true>
                                       : RotateQueriesAs<Storage::kF32, false>);
  run(rope, heads, head_dim, rows, q, stream);
}

}  // namespace tandem::gpu_worker::cuda
