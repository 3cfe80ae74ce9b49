#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>

#include "absl/strings/str_cat.h"
#include "bench/gpu/cases.h"
#include "gpu_worker/backend/cuda/kernels/experts/experts.h"
#include "lib/base/check.h"
#include "lib/kernels/expert_grid.h"
#include "lib/kernels/panel.h"
#include "lib/kernels/random_blocks.h"
#include "lib/kernels/row_forms.h"

namespace tandem::bench {
namespace {

using kernels::PackedMatrix;

struct ExpertShape {
  int64_t hidden, inter;
  int experts;  // that every row goes to
};

// Bytes of a matrix on the host; experts are copies of one another, at addresses of their own.
struct PackedBytes {
  kernels::AlignedBuffer memory;
  PackedMatrix matrix;
};

// Panels of random blocks before the same ones come again, which saves minutes of packing.
constexpr int64_t kRandomPanels = 16;

void PackRandom(DType type, int64_t rows, int64_t cols, std::mt19937_64& random, PackedBytes* out) {
  TANDEM_CHECK_EQ(rows % kernels::kPanelRows, 0);
  out->matrix.layout = kernels::LayoutOf(type, rows, cols);
  std::byte* const data = out->memory.Reserve(out->matrix.layout.bytes());
  out->matrix.data = data;
  const int64_t panel_bytes = out->matrix.layout.panel_bytes;
  for (int64_t p = 0; p < out->matrix.layout.panels(); ++p) {
    if (p >= kRandomPanels) {
      std::memcpy(data + p * panel_bytes, data + (p - kRandomPanels) * panel_bytes, panel_bytes);
      continue;
    }
    const auto bytes = kernels::RandomRows(type, kernels::kPanelRows, cols, 0.001f, -1, random);
    kernels::PackPanel(out->matrix.layout, bytes.data(), kernels::kPanelRows, nullptr,
                       data + p * panel_bytes);
  }
}

// What a launch of one copy of the experts reads and writes.
struct ExpertBuffers {
  std::vector<const cuda::ProductTile*> gate_up, down;  // [copies]
  uint32_t* x_row = nullptr;                            // [pairs]
  float *gate = nullptr, *up = nullptr;                 // [pairs, inter]
  cuda::ExpertRowsArgs x;
  cuda::GatedRowsArgs gated;
  cuda::ExpertProductsArgs products;
};

void LaunchLayer(const ExpertBuffers& b, const PackedMatrix& up, const PackedMatrix& down, int copy,
                 int64_t tiles, cuda::Stream stream) {
  const bool quantized = cuda::TakesQuantRows(up.layout.type, false);
  const auto rows_of = [&](const cuda::ExpertRowForms& forms) {
    return quantized ? static_cast<const void*>(forms.quantized) : forms.floats;
  };
  cuda::PrepareExpertRows(b.x, stream);
  cuda::ExpertProductsArgs args = b.products;
  args.layout = up.layout;
  args.tiles = b.gate_up[copy];
  args.tile_count = 2 * tiles;
  args.x = rows_of(b.x.out);
  args.x_row = b.x_row;
  cuda::MultiplyExpertTiles(args, stream);
  cuda::GateExpertRows(b.gated, stream);
  args.layout = down.layout;
  args.tiles = b.down[copy];
  args.tile_count = tiles;
  args.x = rows_of(b.gated.out);
  args.x_row = nullptr;
  args.target = cuda::ProductTarget::kGrid;
  cuda::MultiplyExpertTiles(args, stream);
}

template <typename T>
T* Upload(const std::vector<T>& values, DeviceData* data) {
  const size_t bytes = values.size() * sizeof(T);
  void* const to = data->Bytes(bytes);
  cuda::CopyToDevice(to, values.data(), bytes, data->stream());
  cuda::Synchronize(data->stream());
  return static_cast<T*>(to);
}

std::byte* Upload(const PackedMatrix& matrix, DeviceData* data) {
  const auto bytes = static_cast<size_t>(matrix.layout.bytes());
  void* const to = data->Bytes(bytes);
  cuda::CopyToDevice(to, matrix.data, bytes, data->stream());
  cuda::Synchronize(data->stream());
  return static_cast<std::byte*>(to);
}

// Tiles of every expert's `rows` rows times `panels`; expert e has pairs from e * rows on.
void AddTiles(const std::byte* panels, float* y, int expert, int64_t rows,
              std::vector<cuda::ProductTile>* tiles) {
  for (int64_t done = 0; done < rows; done += cuda::kExpertTileRows) {
    const int64_t here = std::min<int64_t>(cuda::kExpertTileRows, rows - done);
    tiles->push_back(
        {panels, y, static_cast<uint32_t>(expert * rows + done), static_cast<uint32_t>(here)});
  }
}

// The processor's bits of the same product; 0 where the device has them.
double DistanceFromHost(const PackedMatrix& gate, const std::vector<float>& x, int64_t rows,
                        const std::vector<float>& found) {
  const kernels::KernelTable& table = kernels::ActiveTable();
  const DType type = gate.layout.type;
  const int64_t hidden = gate.layout.cols, inter = gate.layout.rows;
  kernels::MatrixInput input;
  input.Reset(table, type, kernels::ActivationForm::kNative, rows, hidden);
  for (int64_t r = 0; r < rows; ++r) input.Store(table, r, x.data() + r * hidden);
  const int64_t stride = gate.layout.panels() * kernels::kPanelRows;
  std::vector<float> y((rows + kernels::kTileRows) * stride);
  kernels::MultiplyPanels(table, gate, 0, gate.layout.panels(), input.rows(),
                          kernels::ActivationForm::kNative, y.data(), stride);
  std::vector<float> expected;
  for (int64_t r = 0; r < rows; ++r) {
    expected.insert(expected.end(), y.begin() + r * stride, y.begin() + r * stride + inter);
  }
  return RelativeDistance(found, expected);
}

// Room for the rows on their way, which copies share.
ExpertBuffers MakeBuffers(const ExpertShape& shape, DType type, int64_t rows, DeviceData* data) {
  const int64_t pairs = rows * shape.experts;
  ExpertBuffers b;
  b.x = {data->Bf16(rows * shape.hidden), false, rows, shape.hidden, {}};
  b.gated.stride = b.gated.cols = shape.inter;
  b.gated.rows = pairs;
  b.gate = static_cast<float*>(data->Bytes(2 * pairs * shape.inter * sizeof(float)));
  b.up = b.gate + pairs * shape.inter;
  b.gated.gate = b.gate;
  b.gated.up = b.up;
  const auto forms = [&](int64_t count, int64_t cols) {
    cuda::ExpertRowForms out;
    out.round_to_bf16 = true;
    if (cuda::TakesQuantRows(type, false)) {
      out.quantized = static_cast<std::byte*>(data->Bytes(count * cuda::QuantRowBytes(cols)));
    } else {
      out.floats = static_cast<float*>(data->Bytes(count * cuda::FloatRowValues(cols) * 4));
    }
    return out;
  };
  b.x.out = forms(rows, shape.hidden);
  b.gated.out = forms(pairs, shape.inter);
  std::vector<uint32_t> x_row;
  for (int64_t pair = 0; pair < pairs; ++pair) x_row.push_back(static_cast<uint32_t>(pair % rows));
  b.x_row = Upload(x_row, data);
  b.products.rows_max = static_cast<int>(std::min<int64_t>(rows, cuda::kExpertTileRows));
  b.products.y_stride = shape.inter;
  b.products.to = b.x_row;
  b.products.weights = Upload(std::vector<float>(pairs, 0.125f), data);
  b.products.inverse_steps = Upload(std::vector<float>(rows, kernels::GridStep(10)), data);
  b.products.limit = static_cast<float>(kernels::GridLimit(shape.experts));
  const size_t answer_bytes = rows * (shape.hidden * sizeof(int32_t) + 1);
  b.products.sums = static_cast<int32_t*>(data->Bytes(answer_bytes));
  b.products.flags = reinterpret_cast<uint8_t*>(b.products.sums + rows * shape.hidden);
  cuda::FillBytes(b.products.sums, 0, answer_bytes, data->stream());
  return b;
}

GpuWork MakeExperts(const ExpertShape& shape, DType type, int64_t rows, DeviceData* data) {
  std::mt19937_64 random(rows);
  auto up = std::make_shared<PackedBytes>(), down = std::make_shared<PackedBytes>();
  PackRandom(type, shape.inter, shape.hidden, random, up.get());
  PackRandom(type, shape.hidden, shape.inter, random, down.get());
  const int64_t pairs = rows * shape.experts;
  GpuWork work;
  work.operation = "experts";
  work.format = NameOf(type);
  work.kernels = "portable";
  work.shape = absl::StrCat(shape.experts, "x ", shape.inter, "x", shape.hidden);
  work.rows = rows;
  work.bytes = static_cast<double>(shape.experts) *
               static_cast<double>(2 * up->matrix.layout.bytes() + down->matrix.layout.bytes());
  work.flops = 6.0 * static_cast<double>(shape.hidden * shape.inter * pairs);
  work.copies = data->CopiesFor(work.bytes);

  ExpertBuffers b = MakeBuffers(shape, type, rows, data);
  int64_t tiles = 0;  // of one matrix of all experts
  for (int copy = 0; copy < work.copies; ++copy) {
    std::vector<cuda::ProductTile> gate_up, downs;
    for (int e = 0; e < shape.experts; ++e) {
      AddTiles(Upload(up->matrix, data), b.gate, e, rows, &gate_up);
      AddTiles(Upload(up->matrix, data), b.up, e, rows, &gate_up);
      AddTiles(Upload(down->matrix, data), nullptr, e, rows, &downs);
    }
    tiles = static_cast<int64_t>(downs.size());
    b.gate_up.push_back(Upload(gate_up, data));
    b.down.push_back(Upload(downs, data));
  }
  work.launch = [=](int copy) {
    LaunchLayer(b, up->matrix, down->matrix, copy, tiles, data->stream());
  };
  work.error = [=] {
    LaunchLayer(b, up->matrix, down->matrix, 0, tiles, data->stream());
    return DistanceFromHost(up->matrix, data->ReadBf16(b.x.x, rows * shape.hidden), rows,
                            data->ReadF32(b.gate, rows * shape.inter));
  };
  return work;
}

}  // namespace

std::vector<GpuCase> ExpertCases(bool quick) {
  // A row's eight experts of DeepSeek-V3.
  const ExpertShape shape = quick ? ExpertShape{256, 256, 2} : ExpertShape{7168, 2048, 8};
  const std::vector<int64_t> row_counts =
      quick ? std::vector<int64_t>{9} : std::vector<int64_t>{1, 4, 16};
  std::vector<GpuCase> cases;
  for (const DType type : {DType::kIQ1_S, DType::kQ4_K, DType::kQ6_K, DType::kQ8_0, DType::kBF16}) {
    for (const int64_t rows : row_counts) {
      cases.push_back({absl::StrCat("experts/", NameOf(type), "/", rows, "/portable"),
                       [=](DeviceData* data) { return MakeExperts(shape, type, rows, data); }});
    }
  }
  return cases;
}

}  // namespace tandem::bench
