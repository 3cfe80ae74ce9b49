// Activations to int8, and the dot product of unpacked weights with them. Included inside an
// instruction set's namespace after its lanes; the definition of the arithmetic is in quant.h.

// 1.5 * 2^23: adding it to |v| < 2^22 rounds v to the nearest even integer, found in the low bits
// of the sum.
constexpr float kRoundingMagic = 12582912.0f;
constexpr int32_t kRoundingMagicBits = 0x4b400000;
constexpr int32_t kInfinityBits = 0x7f800000;
// Blocks whose largest magnitude is below 2^-110 become zeros: 127 / max would leave f32, and what
// is lost is under 1e-33.
constexpr int32_t kTinyBits = (127 - 110) << 23;

// x [n] f32 into `out`, zero-padded to whole chunks. n is a multiple of 32.
static void QuantizeRowBody(const float* __restrict x, int64_t n, const QuantRow& out) {
  const int64_t padded = (n + kCodeChunk - 1) / kCodeChunk * kCodeChunk;
  for (int64_t block = 0; block < n / kActivationBlock; ++block) {
    const float* values = x + block * kActivationBlock;
    int8_t* __restrict codes = out.codes + block * kActivationBlock;
    int32_t bits[kActivationBlock];
    __builtin_memcpy(bits, values, sizeof(bits));
    // Ordered as integers magnitudes are ordered as floats, infinity and NaN last, whatever the
    // instruction set.
    int32_t largest = 0;
    for (int k = 0; k < kActivationBlock; ++k) {
      const int32_t magnitude = bits[k] & 0x7fffffff;
      largest = magnitude > largest ? magnitude : largest;
    }
    float scale = 0.0f, inverse = 0.0f;
    if (largest >= kInfinityBits) {
      scale = __builtin_nanf("");  // a value that is not finite spoils the whole output, visibly
    } else if (largest >= kTinyBits) {
      float magnitude;
      __builtin_memcpy(&magnitude, &largest, sizeof(magnitude));
      scale = magnitude / 127.0f;
      inverse = 127.0f / magnitude;
    }
    int32_t sums[2] = {0, 0};
    if (inverse > 0.0f) {
      float rounded[kActivationBlock];
      for (int k = 0; k < kActivationBlock; ++k) rounded[k] = values[k] * inverse + kRoundingMagic;
      int32_t whole[kActivationBlock];
      __builtin_memcpy(whole, rounded, sizeof(whole));
      for (int k = 0; k < kActivationBlock; ++k) whole[k] -= kRoundingMagicBits;
      for (int k = 0; k < kActivationBlock; ++k) codes[k] = static_cast<int8_t>(whole[k]);
      for (int k = 0; k < 16; ++k) sums[0] += whole[k];
      for (int k = 16; k < 32; ++k) sums[1] += whole[k];
    } else {
      __builtin_memset(codes, 0, kActivationBlock);
    }
    out.scales[block] = scale;
    out.sums[2 * block] = scale * static_cast<float>(sums[0]);
    out.sums[2 * block + 1] = scale * static_cast<float>(sums[1]);
  }
  if (padded > n) {
    __builtin_memset(out.codes + n, 0, padded - n);
    out.scales[n / 32] = 0.0f;
    out.sums[n / 16] = 0.0f;
    out.sums[n / 16 + 1] = 0.0f;
  }
}

template <int kRows, int kOuts>
static void DotTile(const QuantDotArgs& a, const QuantRow* x, const UnpackedRow* w, float* y) {
  F32x16 acc[kRows][kOuts];
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TANDEM_UNROLL
    for (int o = 0; o < kOuts; ++o) acc[r][o] = Set(0.0f);
  }
  for (int64_t k = 0; k < a.cols_padded; k += kCodeChunk) {
    WeightCodes codes[kOuts];
    F32x16 scales[kOuts];
    TANDEM_UNROLL
    for (int o = 0; o < kOuts; ++o) {
      codes[o] = LoadWeightCodes(w[o].codes + k);
      scales[o] = SpreadFour(w[o].scales + k / 16);
    }
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const RowCodes row = LoadRowCodes(x[r].codes + k);
      const F32x16 row_scale = SpreadTwo(x[r].scales + k / 32);
      TANDEM_UNROLL
      for (int o = 0; o < kOuts; ++o) {
        acc[r][o] = Fma(DotCodes(codes[o], row), Mul(scales[o], row_scale), acc[r][o]);
      }
    }
  }
  if (a.has_mins) {
    const int64_t groups = a.cols_padded / kWeightGroup;
    const int64_t whole = groups & ~int64_t{15};
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      TANDEM_UNROLL
      for (int o = 0; o < kOuts; ++o) {
        for (int64_t g = 0; g < whole; g += 16) {
          acc[r][o] = Fma(Negate(Load(w[o].mins + g)), Load(x[r].sums + g), acc[r][o]);
        }
        if (whole < groups) {
          acc[r][o] = Fma(Negate(LoadFirst(w[o].mins + whole, groups - whole)),
                          LoadFirst(x[r].sums + whole, groups - whole), acc[r][o]);
        }
      }
    }
  }
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TANDEM_UNROLL
    for (int o = 0; o < kOuts; ++o) y[r * a.y_stride + o] = ReduceSum(acc[r][o]);
  }
}

template <int kRows>
static void DotOuts(const QuantDotArgs& a, const QuantRow* x, float* y) {
  int64_t o = 0;
  for (; o + kDotTileOuts <= a.outs; o += kDotTileOuts) {
    DotTile<kRows, kDotTileOuts>(a, x, a.w + o, y + o);
  }
  for (; o < a.outs; ++o) DotTile<kRows, 1>(a, x, a.w + o, y + o);
}

template <int kRows>
static void DotRows(const QuantDotArgs& a, int64_t rows, const QuantRow* x, float* y) {
  if (rows == kRows) {
    DotOuts<kRows>(a, x, y);
  } else if constexpr (kRows > 1) {
    DotRows<kRows - 1>(a, rows, x, y);
  }
}

static void QuantDotBody(const QuantDotArgs& a) {
  for (int64_t r = 0; r < a.rows; r += kDotTileRows) {
    const int64_t rows = a.rows - r < kDotTileRows ? a.rows - r : kDotTileRows;
    DotRows<kDotTileRows>(a, rows, a.x + r, a.y + r * a.y_stride);
  }
}

// The f32 values of an unpacked row: bit-equal to the codec's.
static void DequantizeUnpackedBody(const UnpackedRow& row, bool has_mins, int64_t cols,
                                   float* __restrict out) {
  for (int64_t g = 0; g < cols / kWeightGroup; ++g) {
    const int8_t* codes = row.codes + g * kWeightGroup;
    const float scale = row.scales[g];
    float* to = out + g * kWeightGroup;
    for (int k = 0; k < kWeightGroup; ++k) to[k] = scale * static_cast<float>(codes[k]);
    if (has_mins) {
      const float min = row.mins[g];
      for (int k = 0; k < kWeightGroup; ++k) to[k] = to[k] - min;
    }
  }
}

static void WidenF16Body(const uint16_t* x, int64_t n, float* out) {
  const int64_t whole = n & ~int64_t{15};
  for (int64_t k = 0; k < whole; k += 16) Store(out + k, LoadF16(x + k));
  for (int64_t k = whole; k < n; ++k) {
    uint16_t half;
    __builtin_memcpy(&half, x + k, sizeof(half));
    out[k] = HalfToFloat(half);
  }
}

static void WidenBf16Body(const uint16_t* x, int64_t n, float* out) {
  const int64_t whole = n & ~int64_t{15};
  for (int64_t k = 0; k < whole; k += 16) Store(out + k, LoadBf16(x + k));
  if (whole < n) {
    float last[16];
    Store(last, LoadFirst(x + whole, n - whole));
    __builtin_memcpy(out + whole, last, (n - whole) * sizeof(float));
  }
}

// To nearest even; a NaN stays one.
static void NarrowBf16Body(const float* __restrict x, int64_t n, uint16_t* __restrict out) {
  for (int64_t k = 0; k < n; ++k) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + k, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    const uint32_t nan = (bits >> 16) | 0x40;
    out[k] = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
  }
}

// True when every term lay on the grid; a term outside adds nothing. The rounding is GridEncode's.
static bool GridAddBody(const GridAddArgs& a) {
  int32_t outside = 0;
  const float* __restrict y = a.y;
  int32_t* __restrict sums = a.sums;
  for (int64_t k = 0; k < a.n; ++k) {
    const float scaled = (y[k] * a.weight) * a.inverse_step;
    const bool inside = __builtin_fabsf(scaled) <= a.limit;
    const float kept = inside ? scaled : 0.0f;
    outside |= inside ? 0 : 1;
    sums[k] += static_cast<int32_t>(__builtin_rintf(kept));
  }
  return outside == 0;
}
