// Packed float weights times float activations; panel.h defines the arithmetic, packed_form.h the
// layout. Included inside an instruction set's namespace after its lanes and lines.

// --- bf16, f16, fp8: even and odd columns in chains of their own.

// e4m3 bits (low byte of each lane) as f32, exactly. Normal numbers need their exponent moved from
// a bias of 7 to one of 127; below 8 lie the multiples of 2^-9.
TANDEM_LANE F32x16 Fp8ToF32(const I32x16& bits) {
  const I32x16 magnitude = AndI(bits, 0x7f);
  const F32x16 number = ToFloat(magnitude);
  const F32x16 normal = FromBits(AddI(ShlI<20>(magnitude), SetI(120 << 23)));
  const F32x16 small = Mul(number, Set(0x1p-9f));
  const F32x16 value = IfGreater(number, Set(7.5f), normal, small);
  return FromBits(OrI(Bits(value), ShlI<24>(AndI(bits, 0x80))));
}

// Weights of columns 2 kPair and 2 kPair + 1 of a chunk.
template <DType kType>
TANDEM_LANE void LoadPair(const std::byte* chunk, int pair, F32x16* even, F32x16* odd) {
  if constexpr (kType == DType::kBF16) {
    const I32x16 line = LineAsI32(LoadLine(chunk + pair * kLineBytes));
    *even = FromBits(ShlI<16>(line));
    *odd = FromBits(AndI(line, static_cast<int32_t>(0xffff0000u)));
  } else if constexpr (kType == DType::kF16) {
    const uint16_t* line = reinterpret_cast<const uint16_t*>(chunk + pair * kLineBytes);
    *even = LoadF16(line);
    *odd = LoadF16(line + 16);
  } else {
    const I32x16 line = LineAsI32(LoadLine(chunk + pair / 2 * kLineBytes));
    if (pair % 2 == 0) {
      *even = Fp8ToF32(AndI(line, 255));
      *odd = Fp8ToF32(AndI(ShrI<16>(line), 255));
    } else {
      *even = Fp8ToF32(AndI(ShrI<8>(line), 255));
      *odd = Fp8ToF32(ShrI<24>(line));
    }
  }
}

// acc + (sum over even columns + sum over odd columns) of one chunk of 32 columns.
template <DType kType, int kRows>
TANDEM_LANE void AddChunk(const std::byte* chunk, const float* const* x, int64_t k, F32x16* acc) {
  F32x16 even[kRows], odd[kRows];
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) even[r] = odd[r] = Set(0.0f);
  PrefetchLines<InfoHalfBytes(kType) * 8>(chunk + kPrefetchBytes);
  TANDEM_UNROLL
  for (int pair = 0; pair < 16; ++pair) {
    F32x16 w_even, w_odd;
    LoadPair<kType>(chunk, pair, &w_even, &w_odd);
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      even[r] = Fma(w_even, Set(x[r][k + 2 * pair]), even[r]);
      odd[r] = Fma(w_odd, Set(x[r][k + 2 * pair + 1]), odd[r]);
    }
  }
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) acc[r] = Add(acc[r], Add(even[r], odd[r]));
}

// kPanels panels, chunk by chunk in turns, times kRows rows of x.
template <DType kType, int kRows, int kPanels>
static void HalfTile(const PanelArgs& a, const std::byte* panel, const float* const* x, float* y) {
  constexpr int64_t kChunkBytes = kBlockCols * InfoHalfBytes(kType) * 16;
  const int64_t panel_bytes = a.layout->panel_bytes;
  F32x16 acc[kPanels][kRows];
  TANDEM_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) acc[p][r] = Set(0.0f);
  }
  const std::byte* chunk = panel;
  if constexpr (kType != DType::kF8E4M3) {
    for (int64_t k = 0; k < a.layout->cols; k += kBlockCols, chunk += kChunkBytes) {
      TANDEM_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        AddChunk<kType, kRows>(chunk + p * panel_bytes, x, k, acc[p]);
      }
    }
  } else {
    static_assert(kPanels == 1);
    const int64_t scale_cols = Fp8ScaleCols(*a.layout);
    for (int64_t k = 0; k < a.layout->cols;) {
      const F32x16 scale = Load(reinterpret_cast<const float*>(chunk));
      chunk += kLineBytes;
      F32x16 part[kRows];
      TANDEM_UNROLL
      for (int r = 0; r < kRows; ++r) part[r] = Set(0.0f);
      const int64_t end = k + scale_cols < a.layout->cols ? k + scale_cols : a.layout->cols;
      for (; k < end; k += kBlockCols, chunk += kChunkBytes) {
        AddChunk<kType, kRows>(chunk, x, k, part);
      }
      TANDEM_UNROLL
      for (int r = 0; r < kRows; ++r) acc[0][r] = Fma(part[r], scale, acc[0][r]);
    }
  }
  TANDEM_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) Store(y + r * a.y_stride + 16 * p, acc[p][r]);
  }
}

// All panels for exactly kRows rows.
template <DType kType, int kRows>
static void HalfPanels(const PanelArgs& a, const float* const* x, float* y) {
  constexpr int kStreams = kType == DType::kF8E4M3 ? 1 : PanelStreams(kRows);
  const int64_t panel_bytes = a.layout->panel_bytes;
  int64_t p = 0;
  for (; p + kStreams <= a.panels; p += kStreams) {
    HalfTile<kType, kRows, kStreams>(a, a.panel + p * panel_bytes, x, y + 16 * p);
  }
  for (; p < a.panels; ++p) {
    HalfTile<kType, kRows, 1>(a, a.panel + p * panel_bytes, x, y + 16 * p);
  }
}

template <DType kType, int kRows>
static void HalfRest(const PanelArgs& a, int64_t rows, const float* const* x, float* y) {
  if (rows == kRows) {
    HalfPanels<kType, kRows>(a, x, y);
  } else if constexpr (kRows > 1) {
    HalfRest<kType, kRows - 1>(a, rows, x, y);
  }
}

template <DType kType>
static __attribute__((noinline)) void HalfRows(const PanelArgs& a) {
  for (int64_t r = 0; r < a.rows; r += kFloatRowsOfX) {
    const int64_t rows = a.rows - r < kFloatRowsOfX ? a.rows - r : kFloatRowsOfX;
    HalfRest<kType, kFloatRowsOfX>(a, rows, a.float_x + r, a.y + r * a.y_stride);
  }
}

// The switch of denormals must not move across the arithmetic: that is in a function of its own.
template <DType kType>
static void PanelHalfBody(const PanelArgs& a) {
  const unsigned saved = FlushDenormals();
  HalfRows<kType>(a);
  RestoreDenormals(saved);
}

// --- f32: four chains, by column modulo 4.

template <int kRows>
static void F32Tile(const PanelArgs& a, const std::byte* lines, const float* const* x, float* y) {
  F32x16 acc[kRows][4];
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TANDEM_UNROLL
    for (int i = 0; i < 4; ++i) acc[r][i] = Set(0.0f);
  }
  for (int64_t k = 0; k < a.layout->cols; k += 4) {
    TANDEM_UNROLL
    for (int i = 0; i < 4; ++i) {
      const F32x16 w = Load(reinterpret_cast<const float*>(lines + (k + i) * kLineBytes));
      TANDEM_UNROLL
      for (int r = 0; r < kRows; ++r) acc[r][i] = Fma(w, Set(x[r][k + i]), acc[r][i]);
    }
  }
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    Store(y + r * a.y_stride, Add(Add(acc[r][0], acc[r][1]), Add(acc[r][2], acc[r][3])));
  }
}

constexpr int kF32RowsOfX = kFloatRowsOfX > 4 ? 4 : 1;

static void F32Rows(const PanelArgs& a, const std::byte* lines) {
  int64_t r = 0;
  for (; r + kF32RowsOfX <= a.rows; r += kF32RowsOfX) {
    F32Tile<kF32RowsOfX>(a, lines, a.float_x + r, a.y + r * a.y_stride);
  }
  for (; r < a.rows; ++r) F32Tile<1>(a, lines, a.float_x + r, a.y + r * a.y_stride);
}

// --- Values: f32 lines, one a column.

template <DType kType>
static void UnpackHalves(const PackedLayout& layout, const std::byte* panel, float* out) {
  constexpr int64_t kChunkBytes = kBlockCols * InfoHalfBytes(kType) * 16;
  F32x16 scale = Set(1.0f);
  for (int64_t k = 0; k < layout.cols; k += kBlockCols, panel += kChunkBytes) {
    if (kType == DType::kF8E4M3 && k % Fp8ScaleCols(layout) == 0) {
      scale = Load(reinterpret_cast<const float*>(panel));
      panel += kLineBytes;
    }
    for (int pair = 0; pair < 16; ++pair) {
      F32x16 even, odd;
      LoadPair<kType>(panel, pair, &even, &odd);
      if (kType == DType::kF8E4M3) even = Mul(even, scale), odd = Mul(odd, scale);
      Store(out + 16 * (k + 2 * pair), even);
      Store(out + 16 * (k + 2 * pair + 1), odd);
    }
  }
}

static void UnpackPanelBody(const PackedLayout& layout, const std::byte* panel, float* out) {
  switch (layout.type) {
#define TANDEM_UNPACK_CASE(type) \
  case DType::type:              \
    return UnpackValues<DType::type>(layout, panel, out);
    TANDEM_FOR_EACH_PACKED_TYPE(TANDEM_UNPACK_CASE)
#undef TANDEM_UNPACK_CASE
    case DType::kBF16:
      return UnpackHalves<DType::kBF16>(layout, panel, out);
    case DType::kF16:
      return UnpackHalves<DType::kF16>(layout, panel, out);
    case DType::kF8E4M3:
      return UnpackHalves<DType::kF8E4M3>(layout, panel, out);
    default:
      __builtin_memcpy(out, panel, layout.panel_bytes);
  }
}

// Any type's values times f32 rows.
static void PanelF32Body(const PanelArgs& a) {
  PanelArgs one = a;
  for (int64_t p = 0; p < a.panels; ++p) {
    one.panel = a.panel + p * a.layout->panel_bytes;
    one.y = a.y + 16 * p;
    const std::byte* lines = one.panel;
    if (a.layout->type != DType::kF32) {
      UnpackPanelBody(*a.layout, one.panel, reinterpret_cast<float*>(a.scratch));
      lines = a.scratch;
    }
    F32Rows(one, lines);
  }
}
