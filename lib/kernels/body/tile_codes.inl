// Packed block-quantized weights times row tiles, for many rows: a chunk of columns of a few panels
// is unpacked into the nearest cache and used by all rows before the next one is touched, so that
// weights come from memory once and activations from the nearest cache. Sums wait in y between
// chunks. Included inside an instruction set's namespace after panel_codes.inl.

// Blocks of a chunk: 512 columns. A panel's unpacked chunk takes 10 to 12 KiB and a row tile's
// 15 KiB, so that both lie in a first-level cache of 32 KiB or more.
constexpr int64_t kChunkBlocks = 16;

// An unpacked block: eight lines of codes, then a line of scales a group, then one of minima.
template <DType kType>
constexpr int64_t UnpackedBlockBytes() {
  constexpr PackedForm kForm = FormOf(kType);
  return kLineBytes * (kBlockLines + kForm.groups * (kForm.has_mins() ? 2 : 1));
}

template <DType kType, bool kSigned, int kJ>
TANDEM_LANE void StoreCodes(const std::byte* block, const Line& shift, std::byte* out) {
  if constexpr (kJ < kBlockLines) {
    constexpr PackedForm kForm = FormOf(kType);
    Line line = CodesOf<kType, kJ>(block, shift);
    if constexpr (kSigned && kForm.zero != 0) line = SubLine(line, kForm.zero);
    StoreLine(out + kJ * kLineBytes, line);
    StoreCodes<kType, kSigned, kJ + 1>(block, shift, out);
  }
}

// Unpacks a panel block by block. kSigned: codes less `zero`, as signed bytes.
template <DType kType, bool kSigned>
struct Unpacker {
  const std::byte* head;  // of the group of the next block
  int64_t b = 0;          // of the next block in its group
  GroupScales group = {};

  TANDEM_LANE_MEMBER void Next(std::byte* out) {
    constexpr PackedForm kForm = FormOf(kType);
    if (b == 0) {
      PrefetchLines<kForm.head_bytes() / kLineBytes>(head + kPrefetchBytes);
      group = LoadGroupScales<kType>(head);
    }
    const std::byte* block = head + kForm.head_bytes() + b * kForm.block_bytes();
    PrefetchLines<kForm.block_lines()>(block + kPrefetchBytes);
    const BlockScales s = LoadBlockScales<kType>(head, group, b);
    StoreCodes<kType, kSigned, 0>(block, s.shift, out);
    float* numbers = reinterpret_cast<float*>(out + kBlockLines * kLineBytes);
    TANDEM_UNROLL
    for (int g = 0; g < kForm.groups; ++g) {
      Store(numbers + 16 * g, s.scale[g]);
      if (kForm.has_mins()) Store(numbers + 16 * (kForm.groups + g), s.min[g]);
    }
    if (++b == kForm.group_blocks()) {
      b = 0;
      head += kForm.group_bytes();
    }
  }
};

// Unpacks whole groups from `head` to `end`.
template <DType kType, bool kSigned>
static void UnpackCodes(const std::byte* head, const std::byte* end, std::byte* out) {
  Unpacker<kType, kSigned> unpacker{head};
  while (unpacker.head < end) {
    unpacker.Next(out);
    out += UnpackedBlockBytes<kType>();
  }
}

// One chunk of columns of one panel and one row tile.
struct Chunk {
  const std::byte* codes = nullptr;  // unpacked
  int64_t blocks = 0;
  const std::byte* x = nullptr;  // the tile, at the chunk's first block
  int64_t rows = 0;              // of x that count
  float* y = nullptr;
  int64_t y_stride = 0;
  bool first = false;                // y holds no sums yet
  const std::byte* ahead = nullptr;  // packed codes to ask memory for meanwhile; null: none
};

// Calls multiply(chunk) for every chunk of columns, row tile and panel.
template <DType kType, bool kSigned, typename Multiply>
TANDEM_LANE void ForEachChunk(const TileArgs& a, const Multiply& multiply) {
  constexpr PackedForm kForm = FormOf(kType);
  constexpr int64_t kChunkBytes = kChunkBlocks / kForm.group_blocks() * kForm.group_bytes();
  constexpr int64_t kUnpackedBytes = kChunkBlocks * UnpackedBlockBytes<kType>();
  const int64_t panel_bytes = a.layout->panel_bytes;
  for (int64_t at = 0; at < panel_bytes; at += kChunkBytes) {
    const int64_t bytes = panel_bytes - at < kChunkBytes ? panel_bytes - at : kChunkBytes;
    for (int64_t p = 0; p < a.panels; ++p) {
      const std::byte* packed = a.panel + p * panel_bytes + at;
      UnpackCodes<kType, kSigned>(packed, packed + bytes, a.scratch + p * kUnpackedBytes);
    }
    Chunk chunk;
    chunk.blocks = bytes / kForm.group_bytes() * kForm.group_blocks();
    chunk.first = at == 0;
    chunk.y_stride = a.y_stride;
    chunk.x = a.tiles + at / kForm.group_bytes() * kForm.group_blocks() * kQuantTileBlockBytes;
    for (int64_t r = 0; r < a.rows; r += kTileRows) {
      chunk.rows = a.rows - r < kTileRows ? a.rows - r : kTileRows;
      for (int64_t p = 0; p < a.panels; ++p) {
        chunk.codes = a.scratch + p * kUnpackedBytes;
        chunk.y = a.y + r * a.y_stride + 16 * p;
        // The same panel's next chunk; after the last one the beginning of the panel that comes
        // after these.
        const std::byte* next = a.panel + (at + bytes < panel_bytes ? p * panel_bytes + at + bytes
                                                                    : (p + a.panels) * panel_bytes);
        chunk.ahead = r == 0 ? next : nullptr;
        multiply(chunk);
      }
      chunk.x += QuantTileBytes(a.layout->cols);
    }
  }
}

// Asks for one block's share of the chunk ahead.
template <DType kType>
TANDEM_LANE void PrefetchBlock(const Chunk& chunk, int64_t b) {
  constexpr PackedForm kForm = FormOf(kType);
  constexpr int64_t kBytes = kForm.group_bytes() / kForm.group_blocks();
  if (chunk.ahead == nullptr) return;
  PrefetchLines<(kBytes + kLineBytes - 1) / kLineBytes>(chunk.ahead + b * kBytes);
}

// --- With lanes.

template <DType kType, int kRows, int kJ, int kEnd>
TANDEM_LANE void AddUnpackedLines(const std::byte* codes, const std::byte* x, I32x16* sums) {
  if constexpr (kJ < kEnd) {
    constexpr bool kWide = FormOf(kType).is_wide();
    const Line line = LoadLine(codes + kJ * kLineBytes);
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      sums[r] = DotLine<kWide>(sums[r], line,
                               reinterpret_cast<const int8_t*>(x + r * kBlockCols + 4 * kJ));
    }
    AddUnpackedLines<kType, kRows, kJ + 1, kEnd>(codes, x, sums);
  }
}

// kRows rows of a chunk from row `row` on.
template <DType kType, int kRows>
static void LaneChunk(const Chunk& chunk, int64_t row) {
  constexpr PackedForm kForm = FormOf(kType);
  constexpr int kGroupLines = kBlockLines / kForm.groups;
  constexpr bool kStartsAtZero = kForm.zero == 0 || (kForm.is_wide() && kWideCodesAreSigned);
  F32x16 acc[kRows];
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    acc[r] = chunk.first ? Set(0.0f) : Load(chunk.y + (row + r) * chunk.y_stride);
  }
  const std::byte* block = chunk.codes;
  const std::byte* x = chunk.x;
  for (int64_t b = 0; b < chunk.blocks; ++b) {
    if (row == 0) PrefetchBlock<kType>(chunk, b);
    const float* numbers = reinterpret_cast<const float*>(block + kBlockLines * kLineBytes);
    const float* scales = reinterpret_cast<const float*>(x + kTileScalesOffset) + row;
    const float* row_sums = reinterpret_cast<const float*>(x + kTileSumsOffset) + row;
    const int32_t* code_sums = reinterpret_cast<const int32_t*>(x + kTileCodeSumsOffset) + row;
    const auto group = [&]<int kG>() __attribute__((always_inline)) {
      constexpr int kPart = kForm.groups == 2 ? 1 + kG : 0;
      I32x16 sums[kRows];
      TANDEM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        sums[r] = SetI(kStartsAtZero ? 0 : -kForm.zero * code_sums[16 * kPart + r]);
      }
      AddUnpackedLines<kType, kRows, kG * kGroupLines, (kG + 1) * kGroupLines>(
          block, x + row * kBlockCols, sums);
      const F32x16 scale = Load(numbers + 16 * kG);
      TANDEM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        acc[r] = Fma(ToFloat(sums[r]), Mul(scale, Set(scales[r])), acc[r]);
      }
      if constexpr (kForm.has_mins()) {
        const F32x16 min = Load(numbers + 16 * (kForm.groups + kG));
        TANDEM_UNROLL
        for (int r = 0; r < kRows; ++r) {
          acc[r] = NegFma(min, Set(row_sums[16 * kPart + r]), acc[r]);
        }
      }
    };
    group.template operator()<0>();
    if constexpr (kForm.groups == 2) group.template operator()<1>();
    block += UnpackedBlockBytes<kType>();
    x += kQuantTileBlockBytes;
  }
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) Store(chunk.y + (row + r) * chunk.y_stride, acc[r]);
}

template <DType kType>
static void LaneTilesBody(const TileArgs& a) {
  constexpr bool kSigned = FormOf(kType).is_wide() && kWideCodesAreSigned;
  ForEachChunk<kType, kSigned>(a, [](const Chunk& chunk) {
    for (int64_t row = 0; row < chunk.rows; row += kTileRowsOfX) {
      LaneChunk<kType, kTileRowsOfX>(chunk, row);
    }
  });
}
