#include <cmath>

#include "absl/strings/str_cat.h"
#include "bench/gpu/cases.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"

namespace tandem::bench {
namespace {

constexpr cuda::Storage kBf16 = cuda::Storage::kBf16;

struct RowShape {
  int64_t hidden = 7168, inter = 2048, vocab = 129280, experts = 256, per_token = 8, groups = 8,
          groups_kept = 4;
};

GpuWork Started(const char* operation, int64_t rows, int64_t cols, double bytes, DeviceData* data) {
  GpuWork work;
  work.operation = operation;
  work.format = "bf16";
  work.kernels = "portable";
  work.shape = absl::StrCat(cols);
  work.rows = rows;
  work.bytes = bytes;
  work.copies = data->CopiesFor(bytes);
  // No second implementation to compare with here; the tests of kernels/rows compare values.
  work.error = [] { return std::nan(""); };
  return work;
}

std::vector<uint16_t*> Inputs(int copies, int64_t values, DeviceData* data) {
  std::vector<uint16_t*> inputs;
  for (int i = 0; i < copies; ++i) inputs.push_back(data->Bf16(values));
  return inputs;
}

GpuWork MakeRmsNorm(const RowShape& s, int64_t rows, DeviceData* data) {
  const int64_t values = rows * s.hidden;
  GpuWork work = Started("rms_norm", rows, s.hidden, 4.0 * static_cast<double>(values), data);
  const auto inputs = Inputs(work.copies, values, data);
  cuda::RmsNormArgs args = {.weight = data->F32(s.hidden), .eps = 1e-6f};
  args.x_stride = args.out_stride = args.cols = s.hidden;
  args.rows = rows;
  args.out = data->Bytes(values * 2);
  work.launch = [=](int copy) mutable {
    args.x = inputs[copy];
    cuda::RmsNorm(args, data->stream());
  };
  return work;
}

GpuWork MakeSwiGlu(const RowShape& s, int64_t rows, DeviceData* data) {
  const int64_t values = rows * s.inter;
  GpuWork work = Started("swiglu", rows, s.inter, 6.0 * static_cast<double>(values), data);
  const auto gates = Inputs(work.copies, values, data), ups = Inputs(work.copies, values, data);
  void* const out = data->Bytes(values * 2);
  work.launch = [=](int copy) {
    cuda::SwiGlu({kBf16, gates[copy], ups[copy], s.inter, s.inter, rows, out, s.inter},
                 data->stream());
  };
  return work;
}

GpuWork MakeQuantize(const RowShape& s, int64_t rows, DeviceData* data) {
  const int64_t values = rows * s.hidden;
  GpuWork work = Started("quantize_fp8", rows, s.hidden, 3.0 * static_cast<double>(values), data);
  const auto inputs = Inputs(work.copies, values, data);
  auto* const codes = static_cast<uint8_t*>(data->Bytes(values));
  auto* const scales = static_cast<float*>(data->Bytes(values / 128 * 4));
  work.launch = [=](int copy) {
    cuda::QuantizeFp8Rows(inputs[copy], s.hidden, s.hidden, rows, codes, scales, data->stream());
  };
  return work;
}

GpuWork MakeRoute(const RowShape& s, int64_t rows, DeviceData* data) {
  const int64_t values = rows * s.experts;
  GpuWork work = Started("route", rows, s.experts, 4.0 * static_cast<double>(values), data);
  work.format = "f32";
  work.copies = 2;  // a few kilobytes: no rotation makes them cold
  cuda::RouteArgs args = {.bias = data->F32(s.experts, 0.01f), .rows = rows, .experts = s.experts};
  args.per_token = s.per_token;
  args.groups = s.groups;
  args.groups_kept = s.groups_kept;
  args.sigmoid = args.group_by_top2 = args.normalize = true;
  args.scale = 2.5f;
  args.ids = static_cast<uint32_t*>(data->Bytes(rows * s.per_token * 4));
  args.weights = static_cast<float*>(data->Bytes(rows * s.per_token * 4));
  const std::vector<const float*> logits = {data->F32(values), data->F32(values)};
  work.launch = [=](int copy) mutable {
    args.logits = logits[copy];
    cuda::Route(args, data->stream());
  };
  return work;
}

GpuWork MakeTopLogits(const RowShape& s, int64_t rows, DeviceData* data) {
  constexpr int64_t kCandidates = 64;
  const int64_t values = rows * s.vocab;
  GpuWork work = Started("top_logits", rows, s.vocab, 4.0 * static_cast<double>(values), data);
  work.format = "f32";
  std::vector<const float*> logits;
  for (int i = 0; i < work.copies; ++i) logits.push_back(data->F32(values));
  cuda::TopLogitsArgs args = {.rows = rows, .vocab = s.vocab, .k = kCandidates};
  args.values = static_cast<float*>(data->Bytes(rows * kCandidates * 4));
  args.ids = static_cast<uint32_t*>(data->Bytes(rows * kCandidates * 4));
  args.not_finite = static_cast<uint32_t*>(data->Bytes(rows * 4));
  args.workspace_bytes = cuda::TopLogitsWorkspaceBytes(rows, s.vocab, kCandidates);
  args.workspace = data->Bytes(static_cast<int64_t>(args.workspace_bytes));
  work.launch = [=](int copy) mutable {
    args.logits = logits[copy];
    cuda::TopLogits(args, data->stream());
  };
  return work;
}

GpuWork MakeWeightSums(const RowShape& s, int64_t rows, DeviceData* data) {
  const int64_t values = rows * s.vocab;
  GpuWork work = Started("weight_sums", rows, s.vocab, 4.0 * static_cast<double>(values), data);
  work.format = "f32";
  std::vector<const float*> logits;
  for (int i = 0; i < work.copies; ++i) logits.push_back(data->F32(values));
  std::vector<gpu_worker::WeightSumAsk> asks;
  for (int64_t r = 0; r < rows; ++r) asks.push_back({static_cast<uint32_t>(r), 4.0f, 0.6f});
  auto* const on_device =
      static_cast<gpu_worker::WeightSumAsk*>(data->Bytes(rows * sizeof(gpu_worker::WeightSumAsk)));
  cuda::CopyToDevice(on_device, asks.data(), rows * sizeof(gpu_worker::WeightSumAsk),
                     data->stream());
  cuda::Synchronize(data->stream());
  auto* const sums = static_cast<uint64_t*>(data->Bytes(rows * sizeof(uint64_t)));
  work.launch = [=](int copy) {
    cuda::WeightSums(logits[copy], s.vocab, on_device, rows, sums, data->stream());
  };
  return work;
}

}  // namespace

std::vector<GpuCase> RowCases(bool quick) {
  RowShape shape;
  if (quick)
    shape = {.hidden = 256,
             .inter = 128,
             .vocab = 500,
             .experts = 16,
             .per_token = 2,
             .groups = 4,
             .groups_kept = 2};
  const std::vector<int64_t> row_counts =
      quick ? std::vector<int64_t>{3} : std::vector<int64_t>{1, 64};
  using Make = GpuWork (*)(const RowShape&, int64_t, DeviceData*);
  const std::pair<const char*, Make> makers[] = {
      {"rms_norm", MakeRmsNorm}, {"swiglu", MakeSwiGlu},        {"quantize_fp8", MakeQuantize},
      {"route", MakeRoute},      {"top_logits", MakeTopLogits}, {"weight_sums", MakeWeightSums}};
  std::vector<GpuCase> cases;
  for (const auto& [name, make] : makers) {
    for (const int64_t rows : row_counts) {
      cases.push_back({absl::StrCat("rows/", name, "/", rows, "/portable"),
                       [=](DeviceData* data) { return make(shape, rows, data); }});
    }
  }
  return cases;
}

}  // namespace tandem::bench
