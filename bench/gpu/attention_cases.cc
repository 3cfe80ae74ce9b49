#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "bench/gpu/cases.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"

namespace tandem::bench {
namespace {

using gpu_worker::kPageTokens;

constexpr double kCompareFlopsMax = 3e10;  // as in linear_cases.cc

struct DecodeShape {
  int64_t heads, rows, length;
};

cuda::MlaShape Mla(int64_t heads) {
  cuda::MlaShape shape = {.heads = heads, .latent = 512, .rope = 64, .nope = 128, .v = 128};
  shape.softmax_scale = 1.0f / std::sqrt(static_cast<float>(shape.nope + shape.rope));
  return shape;
}

// Pages of all rows dealt as a running server would have them: no two in sequence.
std::vector<int32_t> ScatteredPages(int64_t pages) {
  std::vector<int32_t> order(pages);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = 0; i < pages; ++i) std::swap(order[i], order[(i * 7919 + 13) % pages]);
  return order;
}

// Everything one decode step reads beside the cache, and where it writes.
cuda::MlaDecodeArgs DecodeArgs(const cuda::MlaShape& shape, Kernels kernels, int64_t rows,
                               int64_t length, DeviceData* data) {
  const cuda::DeviceProperties& device = data->properties();
  const std::vector<int32_t> lengths(rows, static_cast<int32_t>(length));
  const int64_t pages = (length + kPageTokens - 1) / kPageTokens;
  cuda::MlaDecodeArgs args;
  args.kernels = kernels;
  args.shape = shape;
  args.q = data->Bf16(rows * shape.heads * shape.key(), 0.1f);
  args.page_table = data->Int32(ScatteredPages(rows * pages));
  args.page_table_stride = pages;
  args.lengths = data->Int32(lengths);
  args.rows = rows;
  args.out = data->Bytes(rows * shape.heads * shape.latent * 2);
  args.plan =
      data->Int32(cuda::PlanDecode(shape, lengths, rows, length, device.multiprocessors).words);
  args.workspace_bytes = cuda::DecodeWorkspaceBytes(shape, rows, length, device.multiprocessors);
  args.workspace = data->Bytes(args.workspace_bytes);
  args.multiprocessors = device.multiprocessors;
  args.shared_bytes_max = device.shared_bytes_max;
  return args;
}

double DecodeError(cuda::MlaDecodeArgs args, double flops, DeviceData* data) {
  const int64_t values = args.rows * args.shape.heads * args.shape.latent;
  cuda::MlaDecode(args, data->stream());
  const std::vector<float> found = data->ReadBf16(args.out, values);
  if (flops > kCompareFlopsMax)
    return RelativeDistance(found, found) == 0 ? std::nan("") : HUGE_VAL;
  args.kernels = Kernels::kReference;
  args.out = data->Bytes(values * 2);
  cuda::MlaDecode(args, data->stream());
  return RelativeDistance(found, data->ReadBf16(args.out, values));
}

GpuWork MakeDecode(const DecodeShape& decode, Kernels kernels, DeviceData* data) {
  const cuda::MlaShape shape = Mla(decode.heads);
  cuda::MlaDecodeArgs args = DecodeArgs(shape, kernels, decode.rows, decode.length, data);
  const int64_t cache_values = decode.rows * args.page_table_stride * kPageTokens * shape.key();
  const auto rows = static_cast<double>(decode.rows), heads = static_cast<double>(decode.heads);
  const double per_head = static_cast<double>(shape.key() + shape.latent);
  GpuWork work;
  work.operation = "mla_decode";
  work.format = "bf16";
  work.kernels = NameOf(kernels);
  work.shape = absl::StrCat("heads ", decode.heads, " context ", decode.length);
  work.rows = decode.rows;
  work.bytes = 2.0 * rows * (static_cast<double>(decode.length * shape.key()) + heads * per_head);
  work.flops = 2.0 * rows * heads * per_head * static_cast<double>(decode.length);
  work.copies = data->CopiesFor(2.0 * static_cast<double>(cache_values));
  std::vector<const void*> caches = {data->Bf16(cache_values, 0.1f)};
  while (std::ssize(caches) < work.copies)
    caches.push_back(data->Copy(caches[0], cache_values * 2));
  work.launch = [args, caches, data](int copy) mutable {
    args.cache = caches[copy];
    cuda::MlaDecode(args, data->stream());
  };
  args.cache = caches[0];
  work.error = [args, data, flops = work.flops] { return DecodeError(args, flops, data); };
  return work;
}

GpuWork MakePrefill(int64_t heads, int64_t rows, Kernels kernels, DeviceData* data) {
  const cuda::MlaShape shape = Mla(heads);
  cuda::MlaPrefillArgs args;
  args.kernels = kernels;
  args.shape = shape;
  args.rows = rows;
  args.q = data->Bf16(rows * heads * (shape.nope + shape.rope), 0.1f);
  const int64_t pages = (rows + kPageTokens - 1) / kPageTokens;
  args.cache = data->Bf16(pages * kPageTokens * shape.key(), 0.1f);
  args.pages = data->Int32(ScatteredPages(pages));
  const cuda::WeightFormat bf16 = {cuda::WeightKind::kBf16};
  args.key_up = data->Matrix(bf16, shape.nope, shape.latent, heads);
  args.value_up = data->Matrix(bf16, shape.v, shape.latent, heads);
  args.out = data->Bytes(rows * heads * shape.v * 2);
  args.workspace_bytes = cuda::PrefillWorkspaceBytes(shape, args.storage, rows);
  args.workspace = data->Bytes(args.workspace_bytes);
  const auto n = static_cast<double>(rows), h = static_cast<double>(heads);
  const double up = 2.0 * n * static_cast<double>(shape.latent * (shape.nope + shape.v));
  const double pairs = n * (n + 1) / 2;  // causal
  GpuWork work;
  work.operation = "mla_prefill";
  work.format = "bf16";
  work.kernels = NameOf(kernels);
  work.shape = absl::StrCat("heads ", heads, " from 0");
  work.rows = rows;
  work.bytes = 2.0 * n *
               (static_cast<double>(shape.key()) +
                h * static_cast<double>(shape.nope + shape.rope + shape.v));
  work.flops = h * (up + 2.0 * pairs * static_cast<double>(shape.nope + shape.rope + shape.v));
  work.copies = 1;
  work.launch = [args, data](int) { cuda::MlaPrefill(args, data->stream()); };
  work.error = [args, rows, heads, data] {
    cuda::MlaPrefill(args, data->stream());
    const auto found = data->ReadBf16(args.out, rows * heads * args.shape.v);
    return RelativeDistance(found, found) == 0 ? std::nan("") : HUGE_VAL;
  };
  return work;
}

}  // namespace

std::vector<GpuCase> AttentionCases(const std::vector<Kernels>& kernels, bool quick) {
  std::vector<DecodeShape> decodes;
  std::vector<int64_t> prefills = {4096, 8192};
  std::vector<int64_t> head_counts = {16, 128};
  if (quick) {
    decodes = {{16, 1, 100}, {16, 3, 70}};
    prefills = {40};
    head_counts = {2};
  } else {
    for (const int64_t heads : head_counts) {
      for (const int64_t rows : {1, 16, 64}) {
        for (const int64_t length : {1024, 8192}) decodes.push_back({heads, rows, length});
      }
    }
  }
  std::vector<GpuCase> cases;
  for (const DecodeShape& d : decodes) {
    for (const Kernels k : kernels) {
      cases.push_back(
          {absl::StrCat("mla_decode/bf16/", d.heads, "x", d.length, "/", d.rows, "/", NameOf(k)),
           [=](DeviceData* data) { return MakeDecode(d, k, data); }});
    }
  }
  for (const int64_t heads : head_counts) {
    for (const int64_t rows : prefills) {
      for (const Kernels k : kernels) {
        cases.push_back({absl::StrCat("mla_prefill/bf16/", heads, "/", rows, "/", NameOf(k)),
                         [=](DeviceData* data) { return MakePrefill(heads, rows, k, data); }});
      }
    }
  }
  return cases;
}

}  // namespace tandem::bench
