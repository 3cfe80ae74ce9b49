#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "bench/gpu/cases.h"

namespace tandem::bench {
namespace {

using cuda::WeightFormat;
using cuda::WeightKind;

// Rows of inputs in fp8, quantized before the product and not by it.
constexpr char kQuantized[] = "fp8 rows";

// The reference is one thread an output: beyond this many operations it would take seconds.
constexpr double kCompareFlopsMax = 3e10;

struct LinearShape {
  const char* layer;
  int64_t outputs, inputs, batch;
};

// DeepSeek-V3 on one GPU. Absorbed key up-projections are one matrix a head.
constexpr LinearShape kQAKvA = {"q_a+kv_a", 2112, 7168, 1};
constexpr LinearShape kQB = {"q_b", 24576, 1536, 1};
constexpr LinearShape kO = {"o", 7168, 16384, 1};
constexpr LinearShape kGateUp = {"dense gate_up", 36864, 7168, 1};
constexpr LinearShape kDown = {"dense down", 7168, 18432, 1};
constexpr LinearShape kExpertGateUp = {"expert gate_up", 4096, 7168, 1};
constexpr LinearShape kExpertDown = {"expert down", 7168, 2048, 1};
constexpr LinearShape kAbsorbed = {"absorbed keys", 512, 128, 128};
constexpr LinearShape kSquare = {"square", 8192, 8192, 1};
constexpr LinearShape kRouter = {"router", 256, 7168, 1};
constexpr LinearShape kQuick = {"quick", 192, 256, 1};

const char* NameOf(WeightKind kind) {
  switch (kind) {
    case WeightKind::kF32:
      return "f32";
    case WeightKind::kBf16:
      return "bf16";
    case WeightKind::kFp8:
      return "fp8";
    case WeightKind::kInt8:
      return "int8";
    case WeightKind::kInt4:
      return "int4";
  }
  return "";
}

cuda::LinearArgs Args(const LinearShape& shape, Kernels kernels, const cuda::DeviceMatrix& matrix,
                      int64_t rows) {
  cuda::LinearArgs args;
  args.kernels = kernels;
  args.w = matrix;
  args.rows = rows;
  args.x_stride = shape.inputs * shape.batch;  // heads lie side by side in a row
  args.x_batch_stride = shape.inputs;
  args.y_stride = shape.outputs * shape.batch;
  args.y_batch_stride = shape.outputs;
  return args;
}

// What the reference kernels make of the same arguments.
std::vector<float> ReferenceOutput(cuda::LinearArgs args, int64_t values, DeviceData* data) {
  args.kernels = Kernels::kReference;
  args.y = data->Bytes(values * 2);
  args.workspace_bytes = cuda::LinearWorkspaceBytes(args.kernels, args.w, args.rows);
  args.workspace = data->Bytes(args.workspace_bytes);
  cuda::Linear(args, data->stream());
  return data->ReadBf16(args.y, values);
}

// What a kernel before the product leaves where it quantizes its rows itself.
cuda::Fp8Rows Quantize(const uint16_t* x, int64_t cols, int64_t rows, DeviceData* data) {
  const int64_t runs = (cols + 127) / 128;
  auto* const codes = static_cast<uint8_t*>(data->Bytes(rows * runs * 128));
  auto* const scales = static_cast<float*>(data->Bytes(rows * runs * sizeof(float)));
  cuda::QuantizeFp8Rows(x, cols, cols, rows, codes, scales, data->stream());
  return {codes, scales};
}

GpuWork MakeLinear(const LinearShape& shape, const WeightFormat& format, Kernels kernels,
                   int64_t rows, bool quantized, DeviceData* data) {
  GpuWork work;
  const int64_t x_values = rows * shape.inputs * shape.batch;
  const int64_t y_values = rows * shape.outputs * shape.batch;
  const cuda::DeviceMatrix sizes = cuda::MatrixShape(format, shape.outputs, shape.inputs);
  const auto weight_bytes =
      static_cast<double>((sizes.weight_bytes + sizes.scale_bytes) * shape.batch);
  work.operation = "linear";
  work.format = quantized ? kQuantized : NameOf(format.kind);
  work.kernels = bench::NameOf(kernels);
  work.shape = absl::StrCat(shape.layer, " ", shape.batch > 1 ? absl::StrCat(shape.batch, "x") : "",
                            shape.outputs, "x", shape.inputs);
  work.rows = rows;
  const double bytes_of_x = quantized ? 1.0 + 4.0 / 128 : 2.0;
  work.bytes = weight_bytes + bytes_of_x * static_cast<double>(x_values) +
               2.0 * static_cast<double>(y_values);
  work.flops = 2.0 * static_cast<double>(shape.outputs * shape.inputs * shape.batch * rows);
  work.fp8_products = format.kind == WeightKind::kFp8;
  work.copies = data->CopiesFor(weight_bytes);
  std::vector<cuda::LinearArgs> launches;
  const uint16_t* const x = data->Bf16(x_values);
  void* const y = data->Bytes(y_values * 2);
  const size_t workspace_bytes = cuda::LinearWorkspaceBytes(kernels, sizes, rows);
  void* const workspace = data->Bytes(workspace_bytes);
  const cuda::Fp8Rows codes = quantized ? Quantize(x, shape.inputs, rows, data) : cuda::Fp8Rows{};
  const auto first = data->Matrix(format, shape.outputs, shape.inputs, shape.batch);
  for (int copy = 0; copy < work.copies; ++copy) {
    cuda::LinearArgs args = Args(shape, kernels, copy == 0 ? first : data->Copy(first), rows);
    args.x = x;
    args.x_fp8 = codes;
    args.y = y;
    args.workspace = workspace;
    args.workspace_bytes = workspace_bytes;
    launches.push_back(args);
  }
  work.launch = [launches, data](int copy) { cuda::Linear(launches[copy], data->stream()); };
  work.error = [launches, y, y_values, data, flops = work.flops] {
    cuda::Linear(launches[0], data->stream());
    const std::vector<float> found = data->ReadBf16(y, y_values);
    if (flops > kCompareFlopsMax)
      return RelativeDistance(found, found) == 0 ? std::nan("") : HUGE_VAL;
    return RelativeDistance(found, ReferenceOutput(launches[0], y_values, data));
  };
  return work;
}

class CaseList {
 public:
  CaseList(const std::vector<Kernels>& kernels, std::vector<GpuCase>* cases)
      : kernels_(kernels), cases_(cases) {}

  // quantized: rows that come as codes with scales, fp8 weights.
  void Add(const LinearShape& shape, const WeightFormat& format, const std::vector<int64_t>& rows,
           bool quantized = false) {
    const std::string name = quantized ? kQuantized : NameOf(format.kind);
    for (const int64_t r : rows) {
      for (const Kernels k : kernels_) {
        cases_->push_back(
            {absl::StrCat("linear/", name, "/", shape.layer, "/", r, "/", bench::NameOf(k)),
             [=](DeviceData* data) { return MakeLinear(shape, format, k, r, quantized, data); }});
      }
    }
  }

 private:
  const std::vector<Kernels>& kernels_;
  std::vector<GpuCase>* const cases_;
};

}  // namespace

std::string NameOf(Kernels kernels) {
  switch (kernels) {
    case Kernels::kReference:
      return "reference";
    case Kernels::kPortable:
      return "portable";
    case Kernels::kHopper:
      return "hopper";
  }
  return "";
}

std::vector<GpuCase> LinearCases(const std::vector<Kernels>& kernels, bool quick) {
  std::vector<GpuCase> cases;
  CaseList list(kernels, &cases);
  const WeightFormat bf16 = {WeightKind::kBf16}, fp8 = {WeightKind::kFp8},
                     int8 = {WeightKind::kInt8, 128}, int4 = {WeightKind::kInt4, 128},
                     f32 = {WeightKind::kF32};
  if (quick) {
    for (const WeightFormat& format : {bf16, fp8, int8, int4}) list.Add(kQuick, format, {1, 5});
    list.Add(kQuick, fp8, {5}, /*quantized=*/true);
    return cases;
  }
  for (const LinearShape& shape : {kO, kQB, kQAKvA, kExpertGateUp}) {
    list.Add(shape, fp8, {1, 16, 64, 128, 4096});
  }
  list.Add(kGateUp, fp8, {1, 64, 4096});
  for (const LinearShape& shape : {kO, kQB, kQAKvA, kGateUp, kDown, kExpertGateUp, kExpertDown}) {
    list.Add(shape, fp8, {64, 4096}, /*quantized=*/true);
  }
  list.Add(kSquare, int4, {1, 2, 4, 8, 16, 64});
  list.Add(kSquare, int8, {1, 2, 4, 8, 16, 64});
  list.Add(kO, bf16, {1, 16, 64, 4096});
  list.Add(kAbsorbed, bf16, {1, 16, 64});
  list.Add(kRouter, f32, {1, 64});
  return cases;
}

}  // namespace tandem::bench
