// Operations on single values and copies of rows: a packet a thread.
#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/rows/exact_exp.h"
#include "gpu_worker/backend/cuda/kernels/rows/packet.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ int64_t GlobalThread() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

template <Storage kStorage>
__global__ void __launch_bounds__(kThreads)
    AddKernel(const Stored<kStorage>* delta, int64_t count, Stored<kStorage>* x) {
  const int64_t begin = GlobalThread() * kPacket;
  if (begin >= count) return;
  float to[kPacket], from[kPacket];
  LoadPackets<kStorage, kStorage>(x, delta, begin, count, to, from);
#pragma unroll
  for (int i = 0; i < kPacket; ++i) to[i] += from[i];
  StorePacket(to, x, begin, count);
}

template <Storage kStorage>
__global__ void __launch_bounds__(kThreads)
    AddMoeKernel(const Stored<kStorage>* shared, const float* routed, int64_t count,
                 Stored<kStorage>* x) {
  const int64_t begin = GlobalThread() * kPacket;
  if (begin >= count) return;
  float to[kPacket], from[kPacket], sum[kPacket];
  const auto of_routed = LoadRaw<Storage::kF32>(routed, begin, count);
  LoadPackets<kStorage, kStorage>(x, shared, begin, count, to, from);
  Unpack(of_routed, sum);
#pragma unroll
  for (int i = 0; i < kPacket; ++i) to[i] += sum[i] + from[i];
  StorePacket(to, x, begin, count);
}

// Here and below, a row's packets lie along grid.y.
template <Storage kStorage>
__global__ void __launch_bounds__(kThreads) SwiGluKernel(SwiGluArgs a) {
  const int64_t row = blockIdx.x;
  const int64_t begin = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kPacket;
  if (begin >= a.cols) return;
  float g[kPacket], u[kPacket];
  LoadPackets<kStorage, kStorage>(static_cast<const Stored<kStorage>*>(a.gate) + row * a.stride,
                                  static_cast<const Stored<kStorage>*>(a.up) + row * a.stride,
                                  begin, a.cols, g, u);
#pragma unroll
  for (int i = 0; i < kPacket; ++i) g[i] = ExactSwiGlu(g[i], u[i]);
  StorePacket(g, static_cast<Stored<kStorage>*>(a.out) + row * a.out_stride, begin, a.cols);
}

template <Storage kStorage>
__global__ void __launch_bounds__(kThreads)
    GatherRowsKernel(const Stored<kStorage>* x, int64_t x_stride, const uint32_t* row_ids,
                     int64_t cols, Stored<kStorage>* out) {
  const int64_t row = blockIdx.x;
  const int64_t begin = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kPacket;
  if (begin >= cols) return;
  const uint32_t from = row_ids[row];
  float v[kPacket] = {};
  if (from != kNoRow) LoadPacket<kStorage>(x + from * x_stride, begin, cols, v);
  StorePacket(v, out + row * cols, begin, cols);
}

// Calls add(terms) with the weighted packet of each entry of this block's row, in their order.
template <Storage kStorage, typename AddTerms>
__device__ __forceinline__ void ForEntries(const ScatterAddArgs& a, int64_t row, int64_t begin,
                                           AddTerms add) {
  const auto* y = static_cast<const Stored<kStorage>*>(a.y);
  const uint32_t end = a.starts[row + 1];
  for (uint32_t e = a.starts[row]; e < end; ++e) {
    const int64_t from = a.entries[e];
    const float weight = a.weights == nullptr ? 1.0f : a.weights[e];
    float v[kPacket];
    LoadPacket<kStorage>(y + from * a.y_stride, begin, a.cols, v);
#pragma unroll
    for (int i = 0; i < kPacket; ++i) v[i] = __fmul_rn(weight, v[i]);
    add(v);
  }
}

template <Storage kStorage>
__global__ void __launch_bounds__(kThreads) ScatterAddRowsKernel(ScatterAddArgs a) {
  const int64_t row = blockIdx.x;
  const int64_t begin = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kPacket;
  if (begin >= a.cols) return;
  float sum[kPacket] = {};
  ForEntries<kStorage>(a, row, begin, [&](const float(&terms)[kPacket]) {
#pragma unroll
    for (int i = 0; i < kPacket; ++i) sum[i] = __fadd_rn(sum[i], terms[i]);
  });
  StorePacket(sum, a.out + row * a.cols, begin, a.cols);
}

template <Storage kStorage>
__global__ void __launch_bounds__(kThreads) ScatterAddGridKernel(ScatterGridArgs a) {
  const int64_t row = blockIdx.x, cols = a.rows.cols;
  const int64_t begin = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kPacket;
  if (begin >= cols) return;
  const float inverse_step = a.inverse_steps[row];
  int32_t steps[kPacket] = {};
  bool inside = true;
  ForEntries<kStorage>(a.rows, row, begin, [&](const float(&terms)[kPacket]) {
#pragma unroll
    for (int i = 0; i < kPacket; ++i) {
      const float scaled = __fmul_rn(terms[i], inverse_step);
      const bool fits = fabsf(scaled) <= a.limit;
      inside = inside && fits;
      steps[i] += fits ? static_cast<int32_t>(rintf(scaled)) : 0;
    }
  });
  // All that write write the same.
  if (!inside) a.flags[row] = 1;
  StorePacket(steps, a.steps + row * cols, begin, cols);
}

unsigned BlocksFor(int64_t count) {
  const int64_t blocks = (PacketsOf(count) + kThreads - 1) / kThreads;
  TANDEM_CHECK_LE(blocks, int64_t{0x7fffffff});
  return static_cast<unsigned>(blocks);
}

// Threads for the packets of one row, and blocks for all of them.
struct RowGrid {
  dim3 grid, block;
  RowGrid(int64_t rows, int64_t cols) {
    TANDEM_CHECK_LE(rows, int64_t{0x7fffffff});
    const int64_t packets = PacketsOf(cols);
    const int64_t warps = std::min<int64_t>((packets + 31) / 32, kThreads / 32);
    block = dim3(static_cast<unsigned>(32 * warps));
    const int64_t parts = (packets + block.x - 1) / block.x;
    TANDEM_CHECK_LE(parts, 65535);
    grid = dim3(static_cast<unsigned>(rows), static_cast<unsigned>(parts));
  }
};

template <Storage kStorage>
void GatherRowsAs(const void* x, int64_t x_stride, const uint32_t* row_ids, int64_t cols,
                  int64_t rows, void* out, Stream stream) {
  const RowGrid shape(rows, cols);
  Launch(GatherRowsKernel<kStorage>, shape.grid, shape.block, 0, stream,
         static_cast<const Stored<kStorage>*>(x), x_stride, row_ids, cols,
         static_cast<Stored<kStorage>*>(out));
}

template <Storage kStorage>
void AddAs(const void* delta, int64_t count, void* x, Stream stream) {
  Launch(AddKernel<kStorage>, BlocksFor(count), kThreads, 0, stream,
         static_cast<const Stored<kStorage>*>(delta), count, static_cast<Stored<kStorage>*>(x));
}

template <Storage kStorage>
void AddMoeAs(const void* shared, const float* routed, int64_t count, void* x, Stream stream) {
  Launch(AddMoeKernel<kStorage>, BlocksFor(count), kThreads, 0, stream,
         static_cast<const Stored<kStorage>*>(shared), routed, count,
         static_cast<Stored<kStorage>*>(x));
}

}  // namespace

void Embed(Storage storage, const uint32_t* ids, const void* table, int64_t hidden, int64_t rows,
           void* x, Stream stream) {
  GatherRows(storage, table, hidden, ids, hidden, rows, x, stream);
}

void GatherRows(Storage storage, const void* x, int64_t x_stride, const uint32_t* row_ids,
                int64_t cols, int64_t rows, void* out, Stream stream) {
  if (rows == 0 || cols == 0) return;
  if (storage == Storage::kBf16) {
    GatherRowsAs<Storage::kBf16>(x, x_stride, row_ids, cols, rows, out, stream);
  } else {
    GatherRowsAs<Storage::kF32>(x, x_stride, row_ids, cols, rows, out, stream);
  }
}

void ScatterAddRows(const ScatterAddArgs& args, Stream stream) {
  if (args.rows == 0 || args.cols == 0) return;
  const RowGrid shape(args.rows, args.cols);
  if (args.storage == Storage::kBf16) {
    Launch(ScatterAddRowsKernel<Storage::kBf16>, shape.grid, shape.block, 0, stream, args);
  } else {
    Launch(ScatterAddRowsKernel<Storage::kF32>, shape.grid, shape.block, 0, stream, args);
  }
}

void ScatterAddGrid(const ScatterGridArgs& args, Stream stream) {
  if (args.rows.rows == 0 || args.rows.cols == 0) return;
  FillBytes(args.flags, 0, static_cast<size_t>(args.rows.rows), stream);
  const RowGrid shape(args.rows.rows, args.rows.cols);
  if (args.rows.storage == Storage::kBf16) {
    Launch(ScatterAddGridKernel<Storage::kBf16>, shape.grid, shape.block, 0, stream, args);
  } else {
    Launch(ScatterAddGridKernel<Storage::kF32>, shape.grid, shape.block, 0, stream, args);
  }
}

void Add(Storage storage, const void* delta, int64_t count, void* x, Stream stream) {
  if (count == 0) return;
  if (storage == Storage::kBf16) {
    AddAs<Storage::kBf16>(delta, count, x, stream);
  } else {
    AddAs<Storage::kF32>(delta, count, x, stream);
  }
}

void AddMoe(Storage storage, const void* shared, const float* routed, int64_t count, void* x,
            Stream stream) {
  if (count == 0) return;
  if (storage == Storage::kBf16) {
    AddMoeAs<Storage::kBf16>(shared, routed, count, x, stream);
  } else {
    AddMoeAs<Storage::kF32>(shared, routed, count, x, stream);
  }
}

void SwiGlu(const SwiGluArgs& args, Stream stream) {
  if (args.rows == 0 || args.cols == 0) return;
  const RowGrid shape(args.rows, args.cols);
  if (args.storage == Storage::kBf16) {
    Launch(SwiGluKernel<Storage::kBf16>, shape.grid, shape.block, 0, stream, args);
  } else {
    Launch(SwiGluKernel<Storage::kF32>, shape.grid, shape.block, 0, stream, args);
  }
}

}  // namespace tandem::gpu_worker::cuda
