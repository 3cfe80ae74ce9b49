#include "gpu_worker/backend/cuda/kernels/linear/linear_problem.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "lib/base/check.h"
#include "lib/kernels/fp8_linear.h"
#include "lib/kernels/linear.h"
#include "lib/kernels/marlin_linear.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

bool IsInt(WeightKind kind) { return kind == WeightKind::kInt8 || kind == WeightKind::kInt4; }

kernels::MarlinForm FormOf(const WeightFormat& format) {
  return {format.kind == WeightKind::kInt8 ? 8 : 4, format.group};
}

std::vector<uint16_t> ToBf16(const float* values, int64_t count) {
  std::vector<uint16_t> bits(count);
  for (int64_t i = 0; i < count; ++i) bits[i] = F32ToBF16(values[i]);
  return bits;
}

// Rows of values behind one another, each followed by `gap` of `filler`.
template <typename T, typename Convert>
std::vector<T> Spread(const std::vector<float>& values, int64_t cols, int64_t gap, T filler,
                      Convert convert) {
  const auto rows = static_cast<int64_t>(values.size()) / std::max<int64_t>(cols, 1);
  std::vector<T> spread(rows * (cols + gap), filler);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) spread[r * (cols + gap) + c] = convert(values[r * cols + c]);
  }
  return spread;
}

}  // namespace

// One matrix as lib/kernels takes it.
struct LinearProblem::HostMatrix {
  std::vector<uint8_t> codes;
  std::vector<float> scales;           // fp8
  std::vector<uint16_t> group_scales;  // int
};

LinearProblem::LinearProblem(const WeightFormat& format, const LinearShape& shape, uint64_t seed)
    : x_storage(format.kind == WeightKind::kF32 ? Storage::kF32 : Storage::kBf16),
      format_(format),
      shape_(shape) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  weights_.resize(shape.batch * shape.outputs * shape.inputs);
  x_.resize(shape.batch * shape.rows * shape.inputs);
  for (float& w : weights_) w = normal(random);
  for (float& x : x_) x = BF16ToF32(F32ToBF16(normal(random)));
}

std::string LinearProblem::Name() const {
  const char* const kinds[] = {"f32", "bf16", "fp8", "int8", "int4"};
  return absl::StrCat(kinds[static_cast<int>(format_.kind)], " group ", format_.group, ", ",
                      shape_.outputs, " outputs, ", shape_.inputs, " inputs, ", shape_.rows,
                      " rows, batch ", shape_.batch);
}

LinearProblem::HostMatrix LinearProblem::OfHost(int64_t b) const {
  const int64_t outputs = shape_.outputs, inputs = shape_.inputs;
  const float* const weights = weights_.data() + b * outputs * inputs;
  HostMatrix host;
  if (format_.kind == WeightKind::kFp8) {
    host.codes.resize(outputs * kernels::Fp8RowBytes(inputs));
    host.scales.resize(kernels::Fp8Blocks(outputs) * kernels::Fp8Blocks(inputs));
    for (int64_t n = 0; n < outputs; n += kernels::kFp8Block) {
      kernels::QuantizeFp8Weights(weights + n * inputs, std::min(kernels::kFp8Block, outputs - n),
                                  inputs, &host.codes[n * kernels::Fp8RowBytes(inputs)],
                                  &host.scales[n / 128 * kernels::Fp8Blocks(inputs)]);
    }
  } else if (IsInt(format_.kind)) {
    const kernels::MarlinForm form = FormOf(format_);
    std::vector<uint8_t> codes(inputs);
    host.codes.resize(outputs * form.RowBytes(inputs));
    host.group_scales.resize(outputs * form.Groups(inputs));
    for (int64_t n = 0; n < outputs; ++n) {
      kernels::QuantizeMarlinRow(form, weights + n * inputs, inputs, codes.data(),
                                 &host.group_scales[n * form.Groups(inputs)]);
      kernels::StoreMarlinRow(form, codes.data(), inputs, &host.codes[n * form.RowBytes(inputs)]);
    }
  }
  return host;
}

std::vector<float> LinearProblem::OnHost() const {
  const int64_t outputs = shape_.outputs, inputs = shape_.inputs, rows = shape_.rows;
  std::vector<float> y(shape_.batch * rows * outputs);
  for (int64_t b = 0; b < shape_.batch; ++b) {
    const HostMatrix host = OfHost(b);
    const float* const x = x_.data() + b * rows * inputs;
    const float* const w = weights_.data() + b * outputs * inputs;
    const std::vector<uint16_t> x16 = ToBf16(x, rows * inputs);
    float* const to = y.data() + b * rows * outputs;
    kernels::LinearArgs plain{.x = x,
                              .x_stride = inputs,
                              .w = w,
                              .y = to,
                              .y_stride = outputs,
                              .rows = rows,
                              .cols = inputs,
                              .n_begin = 0,
                              .n_end = outputs};
    if (format_.kind == WeightKind::kF32) {
      kernels::LinearF32(plain);
    } else if (format_.kind == WeightKind::kBf16) {
      const std::vector<uint16_t> w16 = ToBf16(w, outputs * inputs);
      plain.x = x16.data();
      plain.w = w16.data();
      kernels::LinearBf16(plain);
    } else if (format_.kind == WeightKind::kFp8) {
      std::vector<uint16_t> numbers(rows * inputs);
      std::vector<float> scales(rows * kernels::Fp8Blocks(inputs));
      for (int64_t r = 0; r < rows; ++r) {
        kernels::QuantizeFp8Inputs(x + r * inputs, inputs, &numbers[r * inputs],
                                   &scales[r * kernels::Fp8Blocks(inputs)]);
      }
      kernels::LinearFp8({.x = numbers.data(),
                          .x_stride = inputs,
                          .x_scales = scales.data(),
                          .w = host.codes.data(),
                          .w_scales = host.scales.data(),
                          .y = to,
                          .y_stride = outputs,
                          .rows = rows,
                          .cols = inputs,
                          .n_begin = 0,
                          .n_end = outputs});
    } else {
      kernels::LinearMarlin({.form = FormOf(format_),
                             .x = x16.data(),
                             .x_stride = inputs,
                             .w = host.codes.data(),
                             .w_scales = host.group_scales.data(),
                             .y = to,
                             .y_stride = outputs,
                             .rows = rows,
                             .cols = inputs,
                             .n_begin = 0,
                             .n_end = outputs});
    }
  }
  return y;
}

std::vector<float> LinearProblem::Weights(int64_t b) const {
  const int64_t outputs = shape_.outputs, inputs = shape_.inputs;
  const HostMatrix host = OfHost(b);
  std::vector<float> weights(weights_.begin() + b * outputs * inputs,
                             weights_.begin() + (b + 1) * outputs * inputs);
  if (format_.kind == WeightKind::kBf16) {
    for (float& w : weights) w = BF16ToF32(F32ToBF16(w));
  }
  const kernels::MarlinForm form = FormOf(format_);
  std::vector<uint8_t> codes(inputs);
  for (int64_t n = 0; n < outputs; ++n) {
    if (IsInt(format_.kind)) {
      kernels::LoadMarlinRow(form, &host.codes[n * form.RowBytes(inputs)], inputs, codes.data());
    }
    for (int64_t k = 0; k < inputs; ++k) {
      float& w = weights[n * inputs + k];
      if (IsInt(format_.kind)) {
        w = BF16ToF32(kernels::MarlinWeight(
            form, codes[k], host.group_scales[n * form.Groups(inputs) + k / form.group]));
      } else if (format_.kind == WeightKind::kFp8) {
        w = F8E4M3ToF32(host.codes[n * kernels::Fp8RowBytes(inputs) + k]);
      }
    }
  }
  return weights;
}

LinearProblem::Exact LinearProblem::InDouble() const {
  const int64_t outputs = shape_.outputs, inputs = shape_.inputs, rows = shape_.rows;
  const bool fp8 = format_.kind == WeightKind::kFp8;
  const int64_t blocks = kernels::Fp8Blocks(inputs);
  Exact exact;
  for (int64_t b = 0; b < shape_.batch; ++b) {
    const std::vector<float> weights = Weights(b);
    const HostMatrix host = OfHost(b);
    for (int64_t r = 0; r < rows; ++r) {
      const float* const x = x_.data() + (b * rows + r) * inputs;
      std::vector<uint16_t> numbers(inputs);
      std::vector<float> scales(blocks);
      if (fp8) kernels::QuantizeFp8Inputs(x, inputs, numbers.data(), scales.data());
      for (int64_t n = 0; n < outputs; ++n) {
        double sum = 0, magnitude = 0;
        for (int64_t k = 0; k < inputs; ++k) {
          double product = weights[n * inputs + k];
          product *= fp8 ? static_cast<double>(BF16ToF32(numbers[k])) * scales[k / 128] *
                               host.scales[n / 128 * blocks + k / 128]
                         : static_cast<double>(x[k]);
          sum += product;
          magnitude += std::abs(product);
        }
        exact.sums.push_back(sum);
        exact.magnitudes.push_back(magnitude);
      }
    }
  }
  return exact;
}

DeviceMatrix LinearProblem::Upload(DeviceForTest& device) const {
  DeviceMatrix w = MatrixShape(format_, shape_.outputs, shape_.inputs);
  w.batch = shape_.batch;
  std::vector<std::byte> weights, scales;
  for (int64_t b = 0; b < shape_.batch; ++b) {
    const auto packed =
        PackMatrix(format_, shape_.outputs, shape_.inputs, [&](int64_t i, float* dst) {
          std::copy_n(weights_.data() + (b * shape_.outputs + i) * shape_.inputs, shape_.inputs,
                      dst);
        });
    TANDEM_CHECK(packed.ok());
    weights.insert(weights.end(), packed->weights.begin(), packed->weights.end());
    scales.insert(scales.end(), packed->scales.begin(), packed->scales.end());
  }
  w.weights = device.Upload(weights);
  w.scales = scales.empty() ? nullptr : device.Upload(scales);
  return w;
}

// The rows as a kernel before would have left them.
Fp8Rows LinearProblem::Quantize(const LinearArgs& args, DeviceForTest& device) const {
  const int64_t blocks = (shape_.inputs + 127) / 128;
  auto* const codes = device.Allocate<uint8_t>(args.rows * blocks * 128);
  auto* const scales = device.Allocate<float>(args.rows * blocks);
  QuantizeFp8Rows(static_cast<const uint16_t*>(args.x), args.x_stride, shape_.inputs, args.rows,
                  codes, scales, device.stream());
  return {codes, scales};
}

// Without Linear, which would choose other parts.
void LinearProblem::RunSplit(const LinearArgs& args, DeviceForTest& device) const {
  const DeviceMatrix& w = args.w;
  const int64_t k_padded = RoundUpTo(w.inputs, kInputsMultiple);
  PortableArgs portable = {.w = w,
                           .x = {args.x, args.x_stride, args.x_batch_stride, args.x_storage},
                           .x_inputs = w.inputs,
                           .y = {args.y, args.y_stride, args.y_batch_stride, args.y_storage},
                           .rows = args.rows,
                           .splits = splits,
                           .partials = nullptr};
  if (w.format.kind == WeightKind::kFp8) {
    auto* const codes = device.Allocate<uint8_t>(w.batch * args.rows * k_padded);
    auto* const scales = device.Allocate<float>(w.batch * args.rows * k_padded / 128);
    for (int64_t b = 0; b < w.batch; ++b) {
      QuantizeFp8Rows(static_cast<const uint16_t*>(args.x) + b * args.x_batch_stride, args.x_stride,
                      w.inputs, args.rows, codes + b * args.rows * k_padded,
                      scales + b * args.rows * k_padded / 128, device.stream());
    }
    portable.x = {codes, k_padded, args.rows * k_padded, Storage::kBf16, scales};
    portable.x_inputs = k_padded;
  }
  const int64_t bytes = PartialBytes(w, args.rows, splits);
  if (bytes > 0) portable.partials = device.Allocate<float>(bytes / 4);
  LinearPortable(portable, device.stream());
}

// What y holds; the gaps must be as they were.
std::vector<float> LinearProblem::Collect(const LinearArgs& args, DeviceForTest& device) const {
  const int64_t count = shape_.batch * args.y_batch_stride, value_bytes = BytesOf(y_storage);
  const auto bytes = device.Download(static_cast<const std::byte*>(args.y), count * value_bytes);
  std::vector<float> y;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = i % args.y_batch_stride / args.y_stride, col = i % args.y_stride;
    const std::byte* const at = bytes.data() + i * value_bytes;
    if (row < args.rows && col < shape_.outputs) {
      float value;
      uint16_t bits;
      std::memcpy(&bits, at, sizeof(bits));
      if (y_storage == Storage::kF32) std::memcpy(&value, at, sizeof(value));
      y.push_back(y_storage == Storage::kF32 ? value : BF16ToF32(bits));
    } else {
      for (int64_t j = 0; j < value_bytes; ++j) TANDEM_CHECK(at[j] == std::byte{0xff});
    }
  }
  return y;
}

std::vector<float> LinearProblem::Run(Kernels kernels, int64_t first, int64_t count) const {
  DeviceForTest device;
  LinearArgs args;
  args.kernels = kernels;
  args.w = Upload(device);
  args.x_storage = x_storage;
  args.x_stride = shape_.inputs + x_gap;
  args.x_batch_stride = shape_.rows * args.x_stride;
  const int64_t skip = first * args.x_stride;
  if (x_storage == Storage::kF32) {
    const auto x = Spread<float>(x_, shape_.inputs, x_gap, kNan, [](float v) { return v; });
    args.x = device.Upload(x) + skip;
  } else {
    const auto x = Spread<uint16_t>(x_, shape_.inputs, x_gap, 0xffff, F32ToBF16);
    args.x = device.Upload(x) + skip;
  }
  args.rows = count;
  args.y_storage = y_storage;
  args.y_stride = shape_.outputs + y_gap;
  args.y_batch_stride = (count + 1) * args.y_stride;
  args.y = device.Allocate<std::byte>(shape_.batch * args.y_batch_stride * BytesOf(y_storage));
  if (quantized) {
    args.x_fp8 = Quantize(args, device);
    args.x = nullptr;
  }
  args.allow_batch_dependent = allow_batch_dependent;
  args.workspace_bytes = LinearWorkspaceBytes(kernels, args.w, count, allow_batch_dependent);
  if (args.workspace_bytes > 0) args.workspace = device.Allocate<std::byte>(args.workspace_bytes);
  for (int run = 0; run < runs; ++run) {
    if (splits > 0) {
      RunSplit(args, device);
    } else if (hopper_plan.has_value()) {
      LinearHopperFp8(args, *hopper_plan, device.stream());
    } else {
      Linear(args, device.stream());
    }
  }
  return Collect(args, device);
}

}  // namespace tandem::gpu_worker::cuda
