#include "gpu_worker/backend/cuda/kernels/linear/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/fp8_linear.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

using Row = std::function<void(int64_t, float*)>;

template <typename T>
T* As(std::vector<std::byte>& bytes) {
  return reinterpret_cast<T*>(bytes.data());
}

int64_t KPadded(const DeviceMatrix& m) { return RoundUpTo(m.inputs, kInputsMultiple); }
int64_t NPadded(const DeviceMatrix& m) { return RoundUpTo(m.outputs, kOutputsMultiple); }

int BitsOf(WeightKind kind) {
  switch (kind) {
    case WeightKind::kF32:
      return 32;
    case WeightKind::kBf16:
      return 16;
    case WeightKind::kFp8:
    case WeightKind::kInt8:
      return 8;
    case WeightKind::kInt4:
      return 4;
  }
  TANDEM_CHECK(false);
}

bool IsInt(WeightKind kind) { return kind == WeightKind::kInt8 || kind == WeightKind::kInt4; }

absl::Status CheckFinite(const float* row, int64_t inputs, int64_t output) {
  for (int64_t k = 0; k < inputs; ++k) {
    if (std::isfinite(row[k])) continue;
    return absl::InvalidArgumentError(absl::StrCat("expected finite weights, found ", row[k],
                                                   " at output ", output, ", input ", k));
  }
  return absl::OkStatus();
}

// All weights zero, all scales zero.
PackedMatrix Zeros(const WeightFormat& format, int64_t outputs, int64_t inputs) {
  PackedMatrix packed;
  packed.shape = MatrixShape(format, outputs, inputs);
  // The code of zero is half of the codes' range; in the other formats zero is all bits zero.
  const std::byte zero = format.kind == WeightKind::kInt8   ? std::byte{0x80}
                         : format.kind == WeightKind::kInt4 ? std::byte{0x88}
                                                            : std::byte{0};
  packed.weights.assign(packed.shape.weight_bytes, zero);
  packed.scales.assign(packed.shape.scale_bytes, std::byte{0});
  return packed;
}

void PackF32(const Row& row, PackedMatrix& packed) {
  const int64_t k_padded = KPadded(packed.shape);
  for (int64_t n = 0; n < packed.shape.outputs; ++n) {
    row(n, As<float>(packed.weights) + F32Place(0, n, k_padded));
  }
}

void PackBf16(const Row& row, PackedMatrix& packed) {
  const int64_t inputs = packed.shape.inputs, n_padded = NPadded(packed.shape);
  std::vector<float> values(inputs);
  for (int64_t n = 0; n < packed.shape.outputs; ++n) {
    row(n, values.data());
    for (int64_t k = 0; k < inputs; ++k) {
      As<uint16_t>(packed.weights)[Bf16Place(k, n, n_padded)] = F32ToBF16(values[k]);
    }
  }
}

// Codes of output n: [inputs].
void PlaceFp8Row(const uint8_t* codes, int64_t n, PackedMatrix& packed) {
  const int64_t n_padded = NPadded(packed.shape);
  for (int64_t k = 0; k < packed.shape.inputs; ++k) {
    As<uint8_t>(packed.weights)[Fp8Place(k, n, n_padded)] = codes[k];
  }
}

absl::Status QuantizeFp8(const Row& row, PackedMatrix& packed) {
  const int64_t inputs = packed.shape.inputs, outputs = packed.shape.outputs;
  const int64_t k_padded = KPadded(packed.shape), row_bytes = kernels::Fp8RowBytes(inputs);
  std::vector<float> values(kFp8ScaleBlock * inputs);
  std::vector<uint8_t> codes(kFp8ScaleBlock * row_bytes);
  for (int64_t first = 0; first < outputs; first += kFp8ScaleBlock) {
    const int64_t count = std::min(kFp8ScaleBlock, outputs - first);
    for (int64_t i = 0; i < count; ++i) {
      row(first + i, values.data() + i * inputs);
      TANDEM_RETURN_IF_ERROR(CheckFinite(values.data() + i * inputs, inputs, first + i));
    }
    kernels::QuantizeFp8Weights(values.data(), count, inputs, codes.data(),
                                As<float>(packed.scales) + Fp8ScalePlace(0, first, k_padded));
    for (int64_t i = 0; i < count; ++i) {
      PlaceFp8Row(codes.data() + i * row_bytes, first + i, packed);
    }
  }
  return absl::OkStatus();
}

absl::Status QuantizeInts(const Row& row, PackedMatrix& packed) {
  const int64_t inputs = packed.shape.inputs;
  const int64_t k_padded = KPadded(packed.shape), n_padded = NPadded(packed.shape);
  const kernels::MarlinForm form{BitsOf(packed.shape.format.kind), packed.shape.format.group};
  const uint32_t mask = (1u << form.bits) - 1;
  std::vector<float> values(inputs);
  std::vector<uint8_t> codes(inputs);
  std::vector<uint16_t> scales(form.Groups(inputs));
  for (int64_t n = 0; n < packed.shape.outputs; ++n) {
    row(n, values.data());
    TANDEM_RETURN_IF_ERROR(CheckFinite(values.data(), inputs, n));
    kernels::QuantizeMarlinRow(form, values.data(), inputs, codes.data(), scales.data());
    for (int64_t k = 0; k < inputs; ++k) {
      const kernels::MarlinPlace place = kernels::MarlinCodePlace(form.bits, k, n, n_padded);
      uint32_t& word = As<uint32_t>(packed.weights)[place.word];
      word = (word & ~(mask << place.shift)) | uint32_t{codes[k]} << place.shift;
    }
    for (int64_t k = 0; k < inputs; k += form.group) {
      As<uint16_t>(packed.scales)[GroupScalePlace(form.group, k, n, k_padded, n_padded)] =
          scales[k / form.group];
    }
  }
  return absl::OkStatus();
}

// Copies `from`'s rows of `from_bytes` to column `begin` of `to`'s, each `to_bytes` long.
void PlaceColumns(const std::vector<std::byte>& from, int64_t from_bytes, int64_t begin,
                  int64_t to_bytes, std::vector<std::byte>& to) {
  const int64_t rows = static_cast<int64_t>(from.size()) / from_bytes;
  TANDEM_CHECK(begin + from_bytes <= to_bytes &&
               rows * to_bytes == static_cast<int64_t>(to.size()));
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(from.begin() + r * from_bytes, from_bytes, to.begin() + r * to_bytes + begin);
  }
}

// Places `part` at output `begin`, a multiple of kStackMultiple. f32 weights and fp8 scales lie
// output by output; all else lies band by band of inputs, in each as many bytes an output.
void PlaceOutputs(const PackedMatrix& part, int64_t begin, PackedMatrix& to) {
  const WeightKind kind = part.shape.format.kind;
  const int64_t from_outputs = NPadded(part.shape), to_outputs = NPadded(to.shape);
  const int64_t k_padded = KPadded(to.shape);
  if (kind == WeightKind::kF32) {
    const int64_t at = F32Place(0, begin, k_padded) * int64_t{4};
    std::copy(part.weights.begin(), part.weights.end(), to.weights.begin() + at);
    return;
  }
  const int64_t output_bytes = kTileInputs * BitsOf(kind) / 8;  // of a band
  PlaceColumns(part.weights, from_outputs * output_bytes, begin * output_bytes,
               to_outputs * output_bytes, to.weights);
  if (kind == WeightKind::kFp8) {
    const int64_t at = Fp8ScalePlace(0, begin, k_padded) * int64_t{4};
    std::copy(part.scales.begin(), part.scales.end(), to.scales.begin() + at);
  } else if (IsInt(kind)) {
    PlaceColumns(part.scales, from_outputs * 2, begin * 2, to_outputs * 2, to.scales);
  }
}

}  // namespace

PackedMatrix StackOutputs(const PackedMatrix& first, const PackedMatrix& second,
                          int64_t second_begin) {
  const DeviceMatrix& a = first.shape;
  const DeviceMatrix& b = second.shape;
  TANDEM_CHECK(a.format == b.format && a.inputs == b.inputs);
  TANDEM_CHECK(second_begin % kStackMultiple == 0 && a.outputs <= second_begin);
  PackedMatrix stacked = Zeros(a.format, second_begin + b.outputs, a.inputs);
  PlaceOutputs(first, 0, stacked);
  PlaceOutputs(second, second_begin, stacked);
  return stacked;
}

DeviceMatrix MatrixShape(const WeightFormat& format, int64_t outputs, int64_t inputs) {
  TANDEM_CHECK(outputs >= 1 && inputs >= 1);
  TANDEM_CHECK(!IsInt(format.kind) || format.group == 128 || format.group == 64);
  DeviceMatrix shape;
  shape.format = format;
  shape.outputs = outputs;
  shape.inputs = inputs;
  const int64_t k_padded = KPadded(shape), n_padded = NPadded(shape);
  shape.weight_bytes = k_padded * n_padded * BitsOf(format.kind) / 8;
  if (format.kind == WeightKind::kFp8) {
    shape.scale_bytes = Fp8ScalePlace(0, RoundUpTo(outputs, kFp8ScaleBlock), k_padded) *
                        static_cast<int64_t>(sizeof(float));
  } else if (IsInt(format.kind)) {
    shape.scale_bytes = k_padded / format.group * n_padded * static_cast<int64_t>(sizeof(uint16_t));
  }
  return shape;
}

absl::StatusOr<PackedMatrix> PackMatrix(const WeightFormat& format, int64_t outputs, int64_t inputs,
                                        const Row& row) {
  PackedMatrix packed = Zeros(format, outputs, inputs);
  switch (format.kind) {
    case WeightKind::kF32:
      PackF32(row, packed);
      break;
    case WeightKind::kBf16:
      PackBf16(row, packed);
      break;
    case WeightKind::kFp8:
      TANDEM_RETURN_IF_ERROR(QuantizeFp8(row, packed));
      break;
    case WeightKind::kInt8:
    case WeightKind::kInt4:
      TANDEM_RETURN_IF_ERROR(QuantizeInts(row, packed));
      break;
  }
  return packed;
}

absl::StatusOr<PackedMatrix> PackFp8(int64_t outputs, int64_t inputs, const uint8_t* codes,
                                     const float* scales) {
  PackedMatrix packed = Zeros({WeightKind::kFp8}, outputs, inputs);
  const int64_t count = packed.shape.scale_bytes / static_cast<int64_t>(sizeof(float));
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(scales[i])) {
      const int64_t output = i / (KPadded(packed.shape) / kFp8ScaleBlock) * kFp8ScaleBlock;
      return absl::InvalidArgumentError(absl::StrCat("expected finite scales, found ", scales[i],
                                                     " in the block of output ", output));
    }
  }
  std::memcpy(packed.scales.data(), scales, packed.shape.scale_bytes);
  for (int64_t n = 0; n < outputs; ++n) {
    const uint8_t* const row = codes + n * inputs;
    const auto* const bad =
        std::find_if(row, row + inputs, [](uint8_t code) { return (code & 0x7f) == 0x7f; });
    if (bad != row + inputs) {
      return absl::InvalidArgumentError(absl::StrCat(
          "expected finite weights, found a NaN at output ", n, ", input ", bad - row));
    }
    PlaceFp8Row(row, n, packed);
  }
  return packed;
}

}  // namespace tandem::gpu_worker::cuda
