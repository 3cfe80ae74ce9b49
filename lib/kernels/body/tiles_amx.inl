// Packed weights times row tiles with the AMX tile unit: the bits that panel.h defines. Included
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

// Starts the integer sums of one group of a block: [16][16] into `out`. kSet: which tiles to use,
// so that two sums may be under way.
template <int kSet>
TANDEM_LANE void StartSums(const std::byte* codes, const std::byte* x, int32_t* out) {
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
  const float* scales = reinterpret_cast<const float*>(x + kTileScalesOffset);
  const F32x16 scale = Load(numbers + 16 * g);
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const F32x16 sum = {_mm512_cvtepi32_ps(_mm512_load_si512(sums + 16 * r))};
    acc[r] = Fma(sum, Mul(scale, Set(scales[r])), acc[r]);
  }
  if constexpr (kForm.has_mins()) {
    const F32x16 min = Load(numbers + 16 * (kForm.groups + g));
    const float* row_sums = reinterpret_cast<const float*>(x + kTileSumsOffset) +
                            (kForm.groups == 2 ? 16 * (1 + g) : 0);
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) acc[r] = NegFma(min, Set(row_sums[r]), acc[r]);
  }
}

// The first kRows rows of a chunk. The tile unit is always one group ahead of the scaling.
template <DType kType, int kRows>
static void AmxChunk(const Chunk& chunk) {
  constexpr PackedForm kForm = FormOf(kType);
  constexpr int kGroupLines = kBlockLines / kForm.groups;
  alignas(64) int32_t even[kTileRows * 16];
  alignas(64) int32_t odd[kTileRows * 16];
  F32x16 acc[kRows];
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    acc[r] = chunk.first ? Set(0.0f) : Load(chunk.y + r * chunk.y_stride);
  }
  const std::byte* block = chunk.codes;
  const std::byte* x = chunk.x;
  const auto codes_at = [&](int64_t i) __attribute__((always_inline)) {
    return block + i / kForm.groups * UnpackedBlockBytes<kType>() +
           i % kForm.groups * kGroupLines * kLineBytes;
  };
  const auto x_at = [&](int64_t i) __attribute__((always_inline)) {
    return x + i / kForm.groups * kQuantTileBlockBytes + i % kForm.groups * 4 * kGroupLines;
  };
  const auto add = [&](int64_t i, const int32_t* sums) __attribute__((always_inline)) {
    AddTileScaled<kType, kRows>(block + i / kForm.groups * UnpackedBlockBytes<kType>(),
                                x + i / kForm.groups * kQuantTileBlockBytes,
                                static_cast<int>(i % kForm.groups), sums, acc);
  };
  const int64_t n = chunk.blocks * kForm.groups;
  asm volatile("" ::: "memory");  // what the tile unit reads has been written
  StartSums<0>(codes_at(0), x_at(0), even);
  for (int64_t i = 0; i < n; i += 2) {
    if (i + 1 < n) StartSums<1>(codes_at(i + 1), x_at(i + 1), odd);
    PrefetchBlock<kType>(chunk, i / kForm.groups);
    add(i, even);
    if (i + 2 < n) StartSums<0>(codes_at(i + 2), x_at(i + 2), even);
    if (i + 1 < n) {
      if constexpr (kForm.groups == 1) PrefetchBlock<kType>(chunk, i + 1);
      add(i + 1, odd);
    }
  }
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) Store(chunk.y + r * chunk.y_stride, acc[r]);
}

// Unpacked blocks kept by AmxStream: the one being multiplied, those before and after it, and one
// to make it a power of two.
constexpr int64_t kRingBlocks = 4;

// One panel times one row tile. Blocks are unpacked two steps before they are multiplied, so that
// the panel is read at an even pace and memory runs ahead while the tile unit works.
template <DType kType, int kRows>
static void AmxStream(const TileArgs& a, const std::byte* panel, float* y) {
  constexpr PackedForm kForm = FormOf(kType);
  constexpr int kGroups = kForm.groups;
  alignas(64) int32_t sums[2][kGroups][kTileRows * 16];
  F32x16 acc[kRows];
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) acc[r] = Set(0.0f);
  const int64_t blocks = a.layout->panel_bytes / kForm.group_bytes() * kForm.group_blocks();
  Unpacker<kType, true> unpacker{panel};
  const auto slot = [&](int64_t i) __attribute__((always_inline)) {
    return a.scratch + i % kRingBlocks * UnpackedBlockBytes<kType>();
  };
  const auto x_at = [&](int64_t i) __attribute__((always_inline)) {
    return a.tiles + i * kQuantTileBlockBytes;
  };
  const auto start = [&](int64_t i) __attribute__((always_inline)) {
    asm volatile("" ::: "memory");  // what the tile unit reads has been written
    if constexpr (kGroups == 2) {
      StartSums<0>(slot(i), x_at(i), sums[i % 2][0]);
      StartSums<1>(slot(i) + 4 * kLineBytes, x_at(i) + 16, sums[i % 2][1]);
    } else if (i % 2 == 0) {
      StartSums<0>(slot(i), x_at(i), sums[0][0]);
    } else {
      StartSums<1>(slot(i), x_at(i), sums[1][0]);
    }
  };
  unpacker.Next(slot(0));
  if (blocks > 1) unpacker.Next(slot(1));
  start(0);
  for (int64_t i = 0; i < blocks; ++i) {
    if (i + 2 < blocks) unpacker.Next(slot(i + 2));
    if (i + 1 < blocks) start(i + 1);
    TANDEM_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      AddTileScaled<kType, kRows>(slot(i), x_at(i), g, sums[i % 2][g], acc);
    }
  }
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) Store(y + r * a.y_stride, acc[r]);
}

template <DType kType>
static void AmxOneTile(const TileArgs& a) {
  const int rows = a.rows <= 4 ? 4 : a.rows <= 8 ? 8 : 16;
  ConfigureTiles(rows, kBlockCols / FormOf(kType).groups);
  for (int64_t p = 0; p < a.panels; ++p) {
    const std::byte* panel = a.panel + p * a.layout->panel_bytes;
    if (rows == 4) AmxStream<kType, 4>(a, panel, a.y + 16 * p);
    if (rows == 8) AmxStream<kType, 8>(a, panel, a.y + 16 * p);
    if (rows == 16) AmxStream<kType, 16>(a, panel, a.y + 16 * p);
  }
  _tile_release();
}

template <DType kType>
static void AmxTilesBody(const TileArgs& a) {
  if (a.rows <= kTileRows) return AmxOneTile<kType>(a);
  int configured = 0;
  ForEachChunk<kType, true>(
      a, [&configured](const Chunk& chunk) __attribute__((always_inline)) {
        const int rows = chunk.rows <= 4 ? 4 : chunk.rows <= 8 ? 8 : 16;
        if (rows != configured) ConfigureTiles(rows, kBlockCols / FormOf(kType).groups);
        configured = rows;
        if (rows == 4) AmxChunk<kType, 4>(chunk);
        if (rows == 8) AmxChunk<kType, 8>(chunk);
        if (rows == 16) AmxChunk<kType, 16>(chunk);
      });
  _tile_release();
}

// --- bf16: sums stay in tiles for a chunk of columns, and in y between chunks.

// Columns of a chunk: a row tile's takes 16 KiB, a panel's too.
constexpr int64_t kBf16ChunkCols = 512;
// Two steps of 32 columns ahead.
constexpr int64_t kBf16PrefetchBytes = 2048;

// Two row tiles times two panels, or as many as there are; kX, kW: which.
template <int kX, int kW>
static void Bf16Chunk(const std::byte* w, int64_t panel_bytes, const std::byte* x,
                      int64_t tile_bytes, int64_t cols, float* y, int64_t y_stride, bool first,
                      bool prefetch) {
  const int64_t y_bytes = y_stride * static_cast<int64_t>(sizeof(float));
  float* y2 = y + kTileRows * y_stride;
  asm volatile("" ::: "memory");  // what the tile unit reads has been written
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, y, y_bytes);
    if constexpr (kW == 2) _tile_loadd(1, y + 16, y_bytes);
    if constexpr (kX == 2) _tile_loadd(2, y2, y_bytes);
    if constexpr (kX == 2 && kW == 2) _tile_loadd(3, y2 + 16, y_bytes);
  }
  for (int64_t k = 0; k < cols; k += kBlockCols) {
    if (prefetch) {
      PrefetchLines<16>(w + kBf16PrefetchBytes);
      if constexpr (kW == 2) PrefetchLines<16>(w + panel_bytes + kBf16PrefetchBytes);
    }
    _tile_loadd(4, x, kLineBytes);
    _tile_loadd(6, w, kLineBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kW == 2) {
      _tile_loadd(7, w + panel_bytes, kLineBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kX == 2) {
      _tile_loadd(5, x + tile_bytes, kLineBytes);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (kX == 2 && kW == 2) _tile_dpbf16ps(3, 5, 7);
    w += 16 * kLineBytes;
    x += kBf16TileChunkBytes;
  }
  _tile_stored(0, y, y_bytes);
  if constexpr (kW == 2) _tile_stored(1, y + 16, y_bytes);
  if constexpr (kX == 2) _tile_stored(2, y2, y_bytes);
  if constexpr (kX == 2 && kW == 2) _tile_stored(3, y2 + 16, y_bytes);
}

static void Bf16TilesBody(const TileArgs& a) {
  ConfigureTiles(kTileRows, kLineBytes);
  const int64_t tile_bytes = Bf16TileBytes(a.layout->cols);
  const int64_t panel_bytes = a.layout->panel_bytes;
  const int64_t all_cols = PaddedFloats(a.layout->cols);
  for (int64_t k = 0; k < all_cols; k += kBf16ChunkCols) {
    const int64_t cols = all_cols - k < kBf16ChunkCols ? all_cols - k : kBf16ChunkCols;
    const std::byte* x = a.tiles + k / kBlockCols * kBf16TileChunkBytes;
    const std::byte* w = a.panel + k / 2 * kLineBytes;
    const bool first = k == 0;
    for (int64_t r = 0; r < a.rows; r += 2 * kTileRows, x += 2 * tile_bytes) {
      const bool pair = a.rows - r > kTileRows;
      for (int64_t p = 0; p < a.panels; p += 2) {
        const auto chunk = p + 1 < a.panels ? (pair ? &Bf16Chunk<2, 2> : &Bf16Chunk<1, 2>)
                                            : (pair ? &Bf16Chunk<2, 1> : &Bf16Chunk<1, 1>);
        chunk(w + p * panel_bytes, panel_bytes, x, tile_bytes, cols, a.y + r * a.y_stride + 16 * p,
              a.y_stride, first, r == 0);
      }
    }
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

static __attribute__((noinline)) void Fp8Tile(const TileArgs& a, const std::byte* x, float* y) {
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
  for (int r = 0; r < kTileRows; ++r) Store(y + r * a.y_stride, acc[r]);
}

static void Fp8TilesBody(const TileArgs& a) {
  ConfigureTiles(kTileRows, kLineBytes);
  for (int64_t p = 0; p < a.panels; ++p) {
    UnpackFp8(*a.layout, a.panel + p * a.layout->panel_bytes, a.scratch);
    asm volatile("" ::: "memory");  // what the tile unit reads has been written
    const unsigned saved = FlushDenormals();
    const std::byte* x = a.tiles;
    for (int64_t r = 0; r < a.rows; r += kTileRows, x += Bf16TileBytes(a.layout->cols)) {
      Fp8Tile(a, x, a.y + r * a.y_stride + 16 * p);
    }
    RestoreDenormals(saved);
  }
  _tile_release();
}

static void SetTiles(KernelTable* table) {
#define TANDEM_SET_TILES(type) \
  table->panel_tiles[static_cast<int>(DType::type)] = &AmxTilesBody<DType::type>;
  TANDEM_FOR_EACH_PACKED_TYPE(TANDEM_SET_TILES)
#undef TANDEM_SET_TILES
  table->panel_tiles[static_cast<int>(DType::kBF16)] = &Bf16TilesBody;
  table->panel_tiles[static_cast<int>(DType::kF8E4M3)] = &Fp8TilesBody;
}
