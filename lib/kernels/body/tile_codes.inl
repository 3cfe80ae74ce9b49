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

// Unpacks whole groups from `head` to `end`. kSigned: codes less `zero`, as signed bytes.
template <DType kType, bool kSigned>
static void UnpackCodes(const std::byte* head, const std::byte* end, std::byte* out) {
  constexpr PackedForm kForm = FormOf(kType);
  for (; head < end; head += kForm.group_bytes()) {
    const GroupScales group = LoadGroupScales<kType>(head);
    const std::byte* block = head + kForm.head_bytes();
    for (int64_t b = 0; b < kForm.group_blocks(); ++b, block += kForm.block_bytes()) {
      const BlockScales s = LoadBlockScales<kType>(head, group, b);
      StoreCodes<kType, kSigned, 0>(block, s.shift, out);
      float* numbers = reinterpret_cast<float*>(out + kBlockLines * kLineBytes);
      for (int g = 0; g < kForm.groups; ++g) {
        Store(numbers + 16 * g, s.scale[g]);
        if (kForm.has_mins()) Store(numbers + 16 * (kForm.groups + g), s.min[g]);
      }
      out += UnpackedBlockBytes<kType>();
    }
  }
}

// Asks for what the next chunk will read, while this one is computed.
TANDEM_LANE void PrefetchRange(const std::byte* begin, const std::byte* end) {
  for (; begin < end; begin += kLineBytes) __builtin_prefetch(begin, 0, 2);
}

// Calls multiply(unpacked chunk of one panel, blocks, x at its first block, panel, first) for every
// chunk of columns, row tile and panel. `first`: y holds no sums yet.
template <DType kType, bool kSigned, typename Multiply>
TANDEM_LANE void ForEachChunk(const TileArgs& a, const Multiply& multiply) {
  constexpr PackedForm kForm = FormOf(kType);
  constexpr int64_t kChunkGroups = kChunkBlocks / kForm.group_blocks();
  constexpr int64_t kChunkBytes = kChunkGroups * kForm.group_bytes();
  constexpr int64_t kUnpackedBytes = kChunkBlocks * UnpackedBlockBytes<kType>();
  const int64_t panel_bytes = a.layout->panel_bytes;
  const int64_t tile_bytes = QuantTileBytes(a.layout->cols);
  for (int64_t at = 0; at < panel_bytes; at += kChunkBytes) {
    const int64_t bytes = panel_bytes - at < kChunkBytes ? panel_bytes - at : kChunkBytes;
    const int64_t next = panel_bytes - at - bytes < kChunkBytes ? panel_bytes - at - bytes : kChunkBytes;
    const int64_t blocks = bytes / kForm.group_bytes() * kForm.group_blocks();
    for (int64_t p = 0; p < a.panels; ++p) {
      const std::byte* chunk = a.panel + p * panel_bytes + at;
      PrefetchRange(chunk + bytes, chunk + bytes + next);
      UnpackCodes<kType, kSigned>(chunk, chunk + bytes, a.scratch + p * kUnpackedBytes);
    }
    const std::byte* x =
        a.tiles + at / kForm.group_bytes() * kForm.group_blocks() * kQuantTileBlockBytes;
    for (int64_t r = 0; r < a.rows; r += kTileRows, x += tile_bytes) {
      for (int64_t p = 0; p < a.panels; ++p) {
        multiply(a.scratch + p * kUnpackedBytes, blocks, x, r, p, at == 0);
      }
    }
  }
}

// --- With lanes.

template <DType kType, int kRows, int kJ, int kEnd>
TANDEM_LANE void AddUnpackedLines(const std::byte* codes, const std::byte* x, I32x16* sums) {
  if constexpr (kJ < kEnd) {
    constexpr bool kWide = FormOf(kType).is_wide();
    const Line line = LoadLine(codes + kJ * kLineBytes);
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      sums[r] = DotLine<kWide>(
          sums[r], line, reinterpret_cast<const int8_t*>(x + r * kBlockCols + 4 * kJ));
    }
    AddUnpackedLines<kType, kRows, kJ + 1, kEnd>(codes, x, sums);
  }
}

// kRows rows of a tile from row `row` on, one chunk of one panel.
template <DType kType, int kRows>
static void LaneChunk(const std::byte* block, int64_t blocks, const std::byte* x, int64_t row,
                      float* y, int64_t y_stride, bool first) {
  constexpr PackedForm kForm = FormOf(kType);
  constexpr int kGroupLines = kBlockLines / kForm.groups;
  constexpr bool kStartsAtZero = kForm.zero == 0 || (kForm.is_wide() && kWideCodesAreSigned);
  F32x16 acc[kRows];
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) acc[r] = first ? Set(0.0f) : Load(y + r * y_stride);
  for (int64_t b = 0; b < blocks; ++b) {
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
  for (int r = 0; r < kRows; ++r) Store(y + r * y_stride, acc[r]);
}

template <DType kType>
static void LaneTilesBody(const TileArgs& a) {
  constexpr bool kSigned = FormOf(kType).is_wide() && kWideCodesAreSigned;
  ForEachChunk<kType, kSigned>(
      a, [&a](const std::byte* codes, int64_t blocks, const std::byte* x, int64_t r, int64_t p,
              bool first) {
        const int64_t rows = a.rows - r < kTileRows ? a.rows - r : kTileRows;
        for (int64_t row = 0; row < rows; row += kTileRowsOfX) {
          LaneChunk<kType, kTileRowsOfX>(codes, blocks, x, row,
                                         a.y + (r + row) * a.y_stride + 16 * p, a.y_stride, first);
        }
      });
}
