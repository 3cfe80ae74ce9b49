#include "lib/kernels/panel.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "lib/kernels/kernel_table.h"
#include "lib/kernels/quant_rows.h"
#include "lib/kernels/random_blocks.h"
#include "lib/kernels/row_tiles.h"
#include "lib/kernels/weights.h"
#include "lib/tensor/codec.h"

namespace tandem::kernels {
namespace {

uint32_t BitsOf(float value) { return std::bit_cast<uint32_t>(value); }

// Memory aligned as panels are, filled with a byte that no result should show.
class Aligned {
 public:
  explicit Aligned(int64_t bytes) : bytes_((bytes + 63) / 64 * 64) {
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kPackedAlign, bytes_)));
    std::memset(data_.get(), 0x5a, bytes_);
  }
  std::byte* data() { return data_.get(); }
  float* floats() { return reinterpret_cast<float*>(data_.get()); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  int64_t bytes_;
  std::unique_ptr<std::byte, Free> data_;
};

std::vector<DType> AllTypes() {
  std::vector<DType> types;
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    const DType type = static_cast<DType>(i);
    if (CheckWeightType(type, 256).ok()) types.push_back(type);
  }
  return types;
}

bool IsFloatRowType(DType type) { return !IsIntegerForm(type); }

// One panel with its exact values by the codec.
struct PanelCase {
  PackedLayout layout;
  std::shared_ptr<Aligned> panel;
  std::vector<float> w;          // [16][cols]
  std::vector<float> magnitude;  // [16][cols] of the terms a value is made of
  int64_t rows = 0;
};

PanelCase MakeCase(DType type, int64_t cols, int64_t rows, int fill, std::mt19937_64& random) {
  PanelCase c;
  c.rows = rows;
  const int64_t fp8_cols = type == DType::kF8E4M3 ? 64 : 0;
  c.layout = LayoutOf(type, rows, cols, fp8_cols);
  const std::vector<std::byte> source = RandomRows(type, rows, cols, 0.01f, fill, random);
  const int64_t scale_blocks = fp8_cols > 0 ? (cols + fp8_cols - 1) / fp8_cols : 0;
  std::normal_distribution<float> normal;
  std::vector<float> scales(rows * scale_blocks);
  for (float& s : scales) s = normal(random);
  c.panel = std::make_shared<Aligned>(c.layout.panel_bytes);
  PackPanel(c.layout, source.data(), rows, scales.empty() ? nullptr : scales.data(),
            c.panel->data());
  c.w.assign(16 * cols, 0.0f);
  c.magnitude.assign(16 * cols, 0.0f);
  const int64_t row_bytes = *RowBytes(type, cols);
  for (int64_t r = 0; r < rows; ++r) {
    float* row = c.w.data() + r * cols;
    DequantizeRow(type, source.data() + r * row_bytes, cols, row);
    for (int64_t k = 0; k < cols && fp8_cols > 0; ++k) {
      row[k] *= scales[r * scale_blocks + k / fp8_cols];
    }
    for (int64_t k = 0; k < cols; ++k) c.magnitude[r * cols + k] = std::abs(row[k]);
    if (!HasMins(type)) continue;
    std::vector<int8_t> codes(PaddedCodes(cols));
    std::vector<float> s(codes.size() / 16), m(codes.size() / 16);
    UnpackWeights(*SupportedTables().front(), type, source.data() + r * row_bytes, cols,
                  {codes.data(), s.data(), m.data()});
    for (int64_t k = 0; k < cols; ++k) {
      c.magnitude[r * cols + k] = std::abs(s[k / 16] * codes[k]) + std::abs(m[k / 16]);
    }
  }
  return c;
}

// Columns that try whole groups of every layout and their ends.
std::vector<int64_t> ColsOf(DType type) {
  const int block = InfoOf(type).block_elems;
  if (block == 32) return {32, 96, 1408};
  if (block == 256) return {256, 768};
  return {32, 100, 256};
}

// Each code byte in turn, then random ones: packing and unpacking give the codec's values bit for
// bit, on every table.
TEST(Packed, ValuesEqualTheCodec) {
  std::mt19937_64 random(1);
  for (DType type : AllTypes()) {
    for (int64_t cols : ColsOf(type)) {
      for (int fill = -24; fill < 256; ++fill) {
        if (type == DType::kF8E4M3 && (fill & 0x7f) == 0x7f) continue;  // NaN: ValidateRow's task
        const PanelCase c = MakeCase(type, cols, fill % 3 == 0 ? 16 : 5, fill, random);
        std::vector<float> got(16 * cols);
        UnpackPanel(c.layout, c.panel->data(), got.data());
        for (int64_t i = 0; i < 16 * cols; ++i) {
          // Rows that are not there are zeros of either sign.
          if (i / cols >= c.rows) {
            ASSERT_EQ(got[i], 0.0f) << NameOf(type);
          } else if (!std::isnan(c.w[i])) {
            ASSERT_EQ(BitsOf(got[i]), BitsOf(c.w[i]))
                << NameOf(type) << " cols " << cols << " fill " << fill << " at " << i << ": "
                << got[i] << " vs " << c.w[i];
          }
        }
        const int64_t lines_size = (cols + 255) / 256 * 256 * 16;
        std::vector<float> want(lines_size), lines(lines_size);
        SupportedTables().front()->unpack_panel(c.layout, c.panel->data(), want.data());
        for (const KernelTable* table : SupportedTables()) {
          table->unpack_panel(c.layout, c.panel->data(), lines.data());
          ASSERT_EQ(std::memcmp(lines.data(), want.data(), cols * 64), 0)
              << NameOf(type) << " " << table->isa;
        }
      }
    }
  }
}

// Every f16 number there is, through the panels that hold them.
TEST(Packed, EveryHalfIsWidenedAsTheCodecDoes) {
  constexpr int64_t kCols = 65536 / kPanelRows;
  std::vector<uint16_t> half(65536);
  for (size_t i = 0; i < half.size(); ++i) half[i] = static_cast<uint16_t>(i);
  const PackedLayout layout = LayoutOf(DType::kF16, kPanelRows, kCols);
  Aligned panel(layout.panel_bytes);
  PackPanel(layout, reinterpret_cast<const std::byte*>(half.data()), kPanelRows, nullptr,
            panel.data());
  for (const KernelTable* table : SupportedTables()) {
    std::vector<float> lines(half.size());
    table->unpack_panel(layout, panel.data(), lines.data());
    for (size_t i = 0; i < half.size(); ++i) {
      const float got = lines[i % kCols * kPanelRows + i / kCols];
      if (std::isnan(F16ToF32(half[i]))) {
        ASSERT_TRUE(std::isnan(got)) << table->isa << " " << i;
      } else {
        ASSERT_EQ(BitsOf(got), BitsOf(F16ToF32(half[i]))) << table->isa << " " << i;
      }
    }
  }
}

std::vector<float> Activations(int64_t n, int kind, bool bf16, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(PaddedFloats(n), 0.0f);
  for (int64_t k = 0; k < n; ++k) {
    x[k] = normal(random);
    if (kind == 1 && k % 97 == 0) x[k] *= 60.0f;              // outlier channels
    if (kind == 2) x[k] = (random() & 1) ? 127.0f : -127.0f;  // largest products
    if (kind == 3) x[k] *= std::exp2(static_cast<float>(static_cast<int>(random() % 250) - 140));
    if (kind == 4) x[k] = k % 64 < 32 ? 0.0f : -127.0f;
    if (bf16) x[k] = BF16ToF32(F32ToBF16(x[k]));
  }
  return x;
}
constexpr int kActivationKinds = 5;

// Rows of x in every form.
struct Inputs {
  std::vector<std::vector<float>> floats;
  QuantRows quant;
  std::vector<const float*> float_x;
  std::vector<const QuantRow*> quant_x;
};

void MakeInputs(const PanelCase& c, int64_t rows, int kind, bool bf16, std::mt19937_64& random,
                Inputs* x) {
  const int64_t cols = c.layout.cols;
  for (int64_t r = 0; r < rows; ++r) x->floats.push_back(Activations(cols, kind, bf16, random));
  const bool quantized = IsIntegerForm(c.layout.type);
  x->quant.Reset(quantized ? rows : 0, cols);
  for (int64_t r = 0; r < rows; ++r) {
    x->float_x.push_back(x->floats[r].data());
    if (!quantized) continue;
    SupportedTables().front()->quantize_row(x->floats[r].data(), cols, x->quant[r]);
    x->quant_x.push_back(&x->quant[r]);
  }
}

constexpr int64_t kYStride = 24;

std::vector<float> RunPanel(const KernelTable& table, const PanelCase& c, const Inputs& x,
                            int64_t first, int64_t rows, bool strict, int64_t panels = 1,
                            int64_t y_stride = kYStride) {
  Aligned scratch(PanelScratchBytes(c.layout));
  std::vector<float> y(rows * y_stride, NAN);
  const PanelArgs args{.layout = &c.layout,
                       .panel = c.panel->data(),
                       .panels = panels,
                       .quant_x = x.quant_x.empty() ? nullptr : x.quant_x.data() + first,
                       .float_x = x.float_x.data() + first,
                       .rows = rows,
                       .y = y.data(),
                       .y_stride = y_stride,
                       .scratch = scratch.data()};
  if (strict) {
    table.panel_f32(args);
  } else {
    table.panel[static_cast<int>(c.layout.type)](args);
  }
  return y;
}

std::vector<float> RunTiles(const KernelTable& table, const PanelCase& c, const Inputs& x,
                            int64_t rows, int64_t panels = 1, int64_t y_stride = kYStride) {
  const int64_t cols = c.layout.cols;
  const bool quantized = IsIntegerForm(c.layout.type);
  const int64_t tile_bytes = quantized ? QuantTileBytes(cols) : Bf16TileBytes(cols);
  Aligned tiles((rows + 15) / 16 * tile_bytes), scratch(TileScratchBytes(c.layout));
  for (int64_t r = 0; r < rows; ++r) {
    std::byte* tile = tiles.data() + r / 16 * tile_bytes;
    if (quantized) {
      PutQuantRow(x.quant[r], 0, PaddedCodes(cols) / 32, r % 16, tile);
    } else {
      PutBf16Row(x.float_x[r], 0, cols, r % 16, tile);
    }
  }
  std::vector<float> y((rows + 15) / 16 * 16 * y_stride, NAN);
  table.panel_tiles[static_cast<int>(c.layout.type)]({.layout = &c.layout,
                                                      .panel = c.panel->data(),
                                                      .panels = panels,
                                                      .tiles = tiles.data(),
                                                      .rows = rows,
                                                      .y = y.data(),
                                                      .y_stride = y_stride,
                                                      .scratch = scratch.data()});
  y.resize(rows * y_stride);
  return y;
}

// One output against double arithmetic on the codec's weights: with the activations as multiplied
// only f32 roundings are left, each at most 2^-24 of the terms' magnitude. There is one for every
// addition on the longest chain and a few for products of scales, sums of activations and the
// codec's own value.
void CheckOutput(const PanelCase& c, const Inputs& x, int64_t r, int64_t o, bool strict,
                 float got) {
  const int64_t cols = c.layout.cols;
  const bool quantized = IsIntegerForm(c.layout.type) && !strict;
  double want = 0, magnitude = 0;
  for (int64_t k = 0; k < cols; ++k) {
    const double a = quantized
                         ? static_cast<double>(x.quant[r].scales[k / 32]) * x.quant[r].codes[k]
                         : x.floats[r][k];
    want += a * c.w[o * cols + k];
    magnitude += std::abs(a) * c.magnitude[o * cols + k];
  }
  // Quantized: two groups and their minima a block. Floats: sixteen terms, then one addition a
  // chunk. Strict: a quarter of the columns.
  const double chain = quantized ? cols / 8.0 : strict ? cols / 4.0 : 18 + cols / 16.0;
  // Below 2^-126 lie denormals, which some kernels count as zero.
  const double bound = (chain + 8) * std::exp2(-24) * magnitude + cols * std::exp2(-125);
  ASSERT_NEAR(got, want, bound) << NameOf(c.layout.type) << " row " << r << " output " << o;
}

void CheckCase(const PanelCase& c, int kind, std::mt19937_64& random) {
  constexpr int64_t kRows = 21;
  for (const bool strict : {false, true}) {
    if (c.layout.type == DType::kF32 && !strict) continue;
    Inputs x;
    MakeInputs(c, kRows, kind, !strict && IsFloatRowType(c.layout.type), random, &x);
    const std::vector<float> want = RunPanel(*SupportedTables().front(), c, x, 0, kRows, strict);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t o = 0; o < c.rows; ++o) {
        ASSERT_NO_FATAL_FAILURE(CheckOutput(c, x, r, o, strict, want[r * kYStride + o]));
      }
      for (int64_t o = 16; o < kYStride; ++o) ASSERT_TRUE(std::isnan(want[r * kYStride + o]));
    }
    for (const KernelTable* table : SupportedTables()) {
      const std::vector<float> got = RunPanel(*table, c, x, 0, kRows, strict);
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_EQ(BitsOf(got[i]), BitsOf(want[i]))
            << NameOf(c.layout.type) << " " << table->isa << " strict " << strict << " kind "
            << kind << " row " << i / kYStride << ": " << got[i] << " vs " << want[i];
      }
      if (strict || table->panel_tiles[static_cast<int>(c.layout.type)] == nullptr) continue;
      const std::vector<float> tiled = RunTiles(*table, c, x, kRows);
      for (size_t i = 0; i < tiled.size(); ++i) {
        ASSERT_EQ(BitsOf(tiled[i]), BitsOf(want[i]))
            << "tiles of " << NameOf(c.layout.type) << " " << table->isa << " kind " << kind
            << " row " << i / kYStride << ": " << tiled[i] << " vs " << want[i];
      }
    }
  }
}

TEST(Panel, ProductsMatchDoubleAndAgreeBetweenTables) {
  std::mt19937_64 random(3);
  for (DType type : AllTypes()) {
    for (int kind = 0; kind < kActivationKinds; ++kind) {
      for (int64_t cols : ColsOf(type)) {
        if (kind == 3 && type == DType::kBF16) {
          // Weights down to denormals too.
          const PanelCase tiny = MakeCase(type, cols, 16, -1, random);
          ASSERT_NO_FATAL_FAILURE(CheckCase(tiny, kind, random));
        }
        const PanelCase c = MakeCase(type, cols, 16, -1, random);
        ASSERT_NO_FATAL_FAILURE(CheckCase(c, kind, random));
      }
    }
    // Extreme codes: all bits set, the top bit only.
    for (int fill : {0xff, 0x80, 0x7e}) {
      if (type == DType::kF8E4M3 && fill == 0xff) continue;
      const PanelCase c = MakeCase(type, ColsOf(type).back(), 11, fill, random);
      if (std::isfinite(c.w[0])) ASSERT_NO_FATAL_FAILURE(CheckCase(c, 2, random));
    }
  }
}

TEST(Panel, RowBitsDoNotDependOnTheNumberOfRows) {
  std::mt19937_64 random(4);
  for (DType type :
       {DType::kQ8_0, DType::kQ4_K, DType::kQ6_K, DType::kIQ1_S, DType::kBF16, DType::kF8E4M3}) {
    const PanelCase c = MakeCase(type, 512, 16, -1, random);
    constexpr int64_t kRows = 65;
    Inputs x;
    MakeInputs(c, kRows, 0, IsFloatRowType(type), random, &x);
    const std::vector<float> want = RunPanel(*SupportedTables().front(), c, x, 0, kRows, false);
    for (const KernelTable* table : SupportedTables()) {
      for (int64_t rows = 1; rows <= kRows; ++rows) {
        const int64_t first = kRows - rows;
        const std::vector<float> got = RunPanel(*table, c, x, first, rows, false);
        ASSERT_EQ(std::memcmp(&got[0], &want[first * kYStride], 16 * 4), 0)
            << table->isa << " " << NameOf(type) << " rows " << rows;
        for (int64_t r = 0; r < rows; ++r) {
          ASSERT_EQ(std::memcmp(&got[r * kYStride], &want[(first + r) * kYStride], 16 * 4), 0)
              << table->isa << " " << NameOf(type) << " rows " << rows;
        }
        if (table->panel_tiles[static_cast<int>(type)] == nullptr) continue;
        const std::vector<float> tiled = RunTiles(*table, c, x, rows);
        for (int64_t r = 0; r < rows; ++r) {
          ASSERT_EQ(std::memcmp(&tiled[r * kYStride], &want[r * kYStride], 16 * 4), 0)
              << "tiles " << table->isa << " " << NameOf(type) << " rows " << rows;
        }
      }
    }
  }
}

// Several panels in one call give what they give alone.
TEST(Panel, SeveralPanelsInOneCall) {
  std::mt19937_64 random(5);
  constexpr int64_t kCols = 1536, kRows = 37, kStride = 16 * kTilePanelsMax;
  for (DType type : AllTypes()) {
    const PanelCase c = MakeCase(type, kCols, 16, -1, random);
    Inputs x;
    MakeInputs(c, kRows, 0, IsFloatRowType(type), random, &x);
    PanelCase several = c;
    several.panel = std::make_shared<Aligned>(kTilePanelsMax * c.layout.panel_bytes);
    std::vector<std::vector<float>> want;
    for (int64_t p = 0; p < kTilePanelsMax; ++p) {
      const PanelCase one = MakeCase(type, kCols, 16, -1, random);
      std::memcpy(several.panel->data() + p * c.layout.panel_bytes, one.panel->data(),
                  c.layout.panel_bytes);
      if (type == DType::kF32) continue;
      want.push_back(RunPanel(*SupportedTables().front(), one, x, 0, kRows, false));
    }
    for (const KernelTable* table : SupportedTables()) {
      for (int64_t i = 0; i < 2 * kTilePanelsMax; ++i) {
        const int64_t panels = 1 + i % kTilePanelsMax;
        const bool tiles = i < kTilePanelsMax;
        const int64_t rows = tiles ? kRows : 1 + i;
        if (type == DType::kF32 ||
            (tiles && table->panel_tiles[static_cast<int>(type)] == nullptr)) {
          continue;
        }
        const std::vector<float> got =
            tiles ? RunTiles(*table, several, x, rows, panels, kStride)
                  : RunPanel(*table, several, x, 0, rows, false, panels, kStride);
        for (int64_t at = 0; at < rows * panels; ++at) {
          const int64_t r = at / panels, p = at % panels;
          ASSERT_EQ(std::memcmp(&got[r * kStride + 16 * p], &want[p][r * kYStride], 64), 0)
              << NameOf(type) << " " << table->isa << " panel " << p << " of " << panels;
        }
      }
    }
  }
}

TEST(Panel, TilesAreThereForEveryTypeThatGainsFromThem) {
  for (const KernelTable* table : SupportedTables()) {
    const bool amx = std::string(table->isa) == "amx";
    for (DType type : AllTypes()) {
      const bool tiles = table->panel_tiles[static_cast<int>(type)] != nullptr;
      const bool bf16_tiles = amx && (type == DType::kBF16 || type == DType::kF8E4M3);
      EXPECT_EQ(tiles, IsIntegerForm(type) || bf16_tiles) << table->isa << " " << NameOf(type);
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
