// Packed weights times row tiles with the AMX tile unit: the same bits as the panel bodies, which panel.h defines. Included
// inside an instruction set's namespace after the panel bodies.

// What LDTILECFG reads (Intel SDM, palette 1).
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0..3 are sums, 4 and 5 activations, 6 and 7 weights of `x_row_bytes` / 4 lines.
TANDEM_LANE void ConfigureTiles(int rows, int x_row_bytes) {
  TileConfig config;
  for (int t = 0; t < 8; ++t) {
    config.rows[t] = static_cast<uint8_t>(t < 6 ? rows : x_row_bytes / 4);
    config.row_bytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? x_row_bytes : 64);
  }
  // GCC takes the instruction to read eight bytes; and what is loaded next was just written.
  asm volatile("" ::: "memory");
  _tile_loadconfig(&config);
}

// --- int8.

// Sums of block `at`, group kG, into `out` [kRows][16]; kSet is the set of tiles to use.
template <DType kType, int kSet>
TANDEM_LANE void TileSums(const std::byte* codes, const std::byte* x, int32_t* out) {
  static_assert(kSet == 0 || kSet == 1);
  if constexpr (kSet == 0) {
    _tile_loadd(4, x, kBlockCols);
    _tile_loadd(6, codes, kLineBytes);
    _tile_zero(0);
    _tile_dpbssd(0, 4, 6);
    _tile_stored(0, out, kLineBytes);
  } else {
    _tile_loadd(5, x, kBlockCols);
    _tile_loadd(7, codes, kLineBytes);
    _tile_zero(1);
    _tile_dpbssd(1, 5, 7);
    _tile_stored(1, out, kLineBytes);
  }
}

template <DType kType, int kRows>
TANDEM_LANE void AddTileScaled(const std::byte* block, const std::byte* x, int g,
                               const int32_t* sums, F32x16* acc) {
  constexpr PackedForm kForm = FormOf(kType);
  const float* numbers = reinterpret_cast<const float*>(block + kBlockLines * kLineBytes);
  const float* scales = reinterpret_cast<const float*>(x + 512);
  const F32x16 scale = Load(numbers + 16 * g);
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const F32x16 sum = {_mm512_cvtepi32_ps(_mm512_load_si512(sums + 16 * r))};
    acc[r] = Fma(sum, Mul(scale, Set(scales[r])), acc[r]);
  }
  if constexpr (kForm.has_mins()) {
    const F32x16 min = Load(numbers + 16 * (kForm.groups + g));
    const float* row_sums =
        reinterpret_cast<const float*>(x + kTileSumsOffset) + (kForm.groups == 2 ? 16 * (1 + g) : 0);
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) acc[r] = NegFma(min, Set(row_sums[r]), acc[r]);
  }
}

// One unpacked panel times the first kRows rows of a row tile.
template <DType kType, int kRows>
static void QuantTile(const TileArgs& a, int64_t blocks, const std::byte* x, int64_t rows,
                      float* y) {
  constexpr PackedForm kForm = FormOf(kType);
  alignas(64) int32_t sums[4][kTileRows * 16];
  F32x16 acc[kRows];
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) acc[r] = Set(0.0f);
  const std::byte* block = a.scratch;
  if constexpr (kForm.groups == 2) {
    for (int64_t at = 0; at < blocks; ++at) {
      int32_t* first = sums[at % 2 * 2];
      int32_t* second = sums[at % 2 * 2 + 1];
      TileSums<kType, 0>(block, x, first);
      TileSums<kType, 1>(block + 4 * kLineBytes, x + 16, second);
      AddTileScaled<kType, kRows>(block, x, 0, first, acc);
      AddTileScaled<kType, kRows>(block, x, 1, second, acc);
      block += UnpackedBlockBytes<kType>();
      x += kQuantTileBlockBytes;
    }
  } else {
    // Blocks two by two: the tile unit works on one while the sums of the other are scaled.
    int64_t at = 0;
    for (; at + 2 <= blocks; at += 2) {
      const std::byte* next = block + UnpackedBlockBytes<kType>();
      const std::byte* next_x = x + kQuantTileBlockBytes;
      int32_t* first = sums[at % 4];
      int32_t* second = sums[at % 4 + 1];
      TileSums<kType, 0>(block, x, first);
      TileSums<kType, 1>(next, next_x, second);
      AddTileScaled<kType, kRows>(block, x, 0, first, acc);
      AddTileScaled<kType, kRows>(next, next_x, 0, second, acc);
      block = next + UnpackedBlockBytes<kType>();
      x = next_x + kQuantTileBlockBytes;
    }
    if (at < blocks) {
      TileSums<kType, 0>(block, x, sums[0]);
      AddTileScaled<kType, kRows>(block, x, 0, sums[0], acc);
    }
  }
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    if (r < rows) Store(y + r * a.y_stride, acc[r]);
  }
}

template <DType kType>
static void QuantTilesBody(const TileArgs& a) {
  constexpr PackedForm kForm = FormOf(kType);
  UnpackCodes<kType, true>(*a.layout, a.panel, a.scratch);
  const int64_t blocks = a.layout->panel_bytes / kForm.group_bytes() * kForm.group_blocks();
  const std::byte* x = a.tiles;
  int configured = 0;
  for (int64_t r = 0; r < a.rows; r += kTileRows, x += QuantTileBytes(a.layout->cols)) {
    const int64_t rows = a.rows - r < kTileRows ? a.rows - r : kTileRows;
    const int tile_rows = rows <= 4 ? 4 : rows <= 8 ? 8 : 16;
    if (tile_rows != configured) ConfigureTiles(tile_rows, kBlockCols / kForm.groups);
    configured = tile_rows;
    float* y = a.y + r * a.y_stride;
    if (tile_rows == 4) QuantTile<kType, 4>(a, blocks, x, rows, y);
    if (tile_rows == 8) QuantTile<kType, 8>(a, blocks, x, rows, y);
    if (tile_rows == 16) QuantTile<kType, 16>(a, blocks, x, rows, y);
  }
  _tile_release();
}

// --- bf16.

// The first `rows` rows of a stored sum tile to where they belong.
TANDEM_LANE void CopySums(const float* sums, int64_t rows, float* y, int64_t y_stride) {
  for (int64_t r = 0; r < rows; ++r) Store(y + r * y_stride, Load(sums + 16 * r));
}

// One panel times four row tiles: four chains keep the tile unit busy.
static void Bf16FourTiles(const TileArgs& a, const std::byte* x, int64_t tile_bytes, float* y) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const std::byte* w = a.panel;
  for (int64_t k = 0; k < a.layout->cols; k += kBlockCols) {
    _tile_loadd(6, w, kLineBytes);
    _tile_loadd(4, x, kLineBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, x + tile_bytes, kLineBytes);
    _tile_dpbf16ps(1, 5, 6);
    _tile_loadd(4, x + 2 * tile_bytes, kLineBytes);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(5, x + 3 * tile_bytes, kLineBytes);
    _tile_dpbf16ps(3, 5, 6);
    w += 16 * kLineBytes;
    x += kBf16TileChunkBytes;
  }
  alignas(64) float sums[4][kTileRows * 16];
  _tile_stored(0, sums[0], kLineBytes);
  _tile_stored(1, sums[1], kLineBytes);
  _tile_stored(2, sums[2], kLineBytes);
  _tile_stored(3, sums[3], kLineBytes);
  for (int t = 0; t < 4; ++t) {
    CopySums(sums[t], kTileRows, y + t * kTileRows * a.y_stride, a.y_stride);
  }
}

static void Bf16OneTile(const TileArgs& a, const std::byte* x, int64_t rows, float* y) {
  _tile_zero(0);
  const std::byte* w = a.panel;
  for (int64_t k = 0; k < a.layout->cols; k += kBlockCols) {
    _tile_loadd(6, w, kLineBytes);
    _tile_loadd(4, x, kLineBytes);
    _tile_dpbf16ps(0, 4, 6);
    w += 16 * kLineBytes;
    x += kBf16TileChunkBytes;
  }
  alignas(64) float sums[kTileRows * 16];
  _tile_stored(0, sums, kLineBytes);
  CopySums(sums, rows, y, a.y_stride);
}

static void Bf16TilesBody(const TileArgs& a) {
  ConfigureTiles(kTileRows, kLineBytes);
  const int64_t tile_bytes = Bf16TileBytes(a.layout->cols);
  const std::byte* x = a.tiles;
  int64_t r = 0;
  for (; r + 4 * kTileRows <= a.rows; r += 4 * kTileRows, x += 4 * tile_bytes) {
    Bf16FourTiles(a, x, tile_bytes, a.y + r * a.y_stride);
  }
  for (; r < a.rows; r += kTileRows, x += tile_bytes) {
    const int64_t rows = a.rows - r < kTileRows ? a.rows - r : kTileRows;
    Bf16OneTile(a, x, rows, a.y + r * a.y_stride);
  }
  _tile_release();
}

// --- fp8: as bf16, block of columns by block of columns.

// Lines of bf16 pairs, with the scale lines between them as in the panel.
static void UnpackFp8(const PackedLayout& layout, const std::byte* panel, std::byte* out) {
  for (int64_t k = 0; k < layout.cols; k += kBlockCols, panel += 8 * kLineBytes) {
    if (k % Fp8ScaleCols(layout) == 0) {
      StoreLine(out, LoadLine(panel));
      panel += kLineBytes;
      out += kLineBytes;
    }
    for (int pair = 0; pair < 16; ++pair, out += kLineBytes) {
      F32x16 even, odd;
      LoadPair<DType::kF8E4M3>(panel, pair, &even, &odd);
      const I32x16 both =
          OrI(ShrI<16>(Bits(even)), AndI(Bits(odd), static_cast<int32_t>(0xffff0000u)));
      StoreLine(out, {both.v});
    }
  }
}

static __attribute__((noinline)) void Fp8Tile(const TileArgs& a, const std::byte* x, int64_t rows,
                                              float* y) {
  alignas(64) float part[kTileRows * 16];
  F32x16 acc[kTileRows];
  TANDEM_UNROLL
  for (int r = 0; r < kTileRows; ++r) acc[r] = Set(0.0f);
  const std::byte* w = a.scratch;
  const int64_t scale_cols = Fp8ScaleCols(*a.layout);
  for (int64_t k = 0; k < a.layout->cols;) {
    const F32x16 scale = Load(reinterpret_cast<const float*>(w));
    w += kLineBytes;
    _tile_zero(0);
    const int64_t end = k + scale_cols < a.layout->cols ? k + scale_cols : a.layout->cols;
    for (; k < end; k += kBlockCols, w += 16 * kLineBytes, x += kBf16TileChunkBytes) {
      _tile_loadd(6, w, kLineBytes);
      _tile_loadd(4, x, kLineBytes);
      _tile_dpbf16ps(0, 4, 6);
    }
    _tile_stored(0, part, kLineBytes);
    TANDEM_UNROLL
    for (int r = 0; r < kTileRows; ++r) acc[r] = Fma(Load(part + 16 * r), scale, acc[r]);
  }
  TANDEM_UNROLL
  for (int r = 0; r < kTileRows; ++r) {
    if (r < rows) Store(y + r * a.y_stride, acc[r]);
  }
}

static void Fp8TilesBody(const TileArgs& a) {
  UnpackFp8(*a.layout, a.panel, a.scratch);
  ConfigureTiles(kTileRows, kLineBytes);
  const unsigned saved = FlushDenormals();
  const std::byte* x = a.tiles;
  for (int64_t r = 0; r < a.rows; r += kTileRows, x += Bf16TileBytes(a.layout->cols)) {
    const int64_t rows = a.rows - r < kTileRows ? a.rows - r : kTileRows;
    Fp8Tile(a, x, rows, a.y + r * a.y_stride);
  }
  RestoreDenormals(saved);
  _tile_release();
}

static void SetTiles(KernelTable* table) {
#define TANDEM_SET_TILES(type) \
  table->panel_tiles[static_cast<int>(DType::type)] = &QuantTilesBody<DType::type>;
  TANDEM_FOR_EACH_PACKED_TYPE(TANDEM_SET_TILES)
#undef TANDEM_SET_TILES
  table->panel_tiles[static_cast<int>(DType::kBF16)] = &Bf16TilesBody;
  table->panel_tiles[static_cast<int>(DType::kF8E4M3)] = &Fp8TilesBody;
}
