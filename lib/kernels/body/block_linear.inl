// Linear layers on fp8 and on Marlin's int4 and int8: a few rows of weights are decoded to bf16,
// which holds them exactly, and multiplied while the cache has them. fp8_linear.h and
// marlin_linear.h define the arithmetic. Included inside an instruction set's namespace after
// body/linear.inl.

// e4m3 inputs as bf16. Written for the compiler to vectorize; every operation is exact or rounds to
// nearest even on every instruction set.
static void QuantizeFp8Body(const float* __restrict x, int64_t cols, uint16_t* __restrict out,
                            float* __restrict scales) {
  constexpr int kBlock = static_cast<int>(kFp8Block);
  constexpr uint32_t kInfinity = 0x7f800000, kSmallestNormal = 0x00800000;
  constexpr uint32_t kLargest = 0x43e00000;    // 448
  constexpr uint32_t kFp8Normal = 0x3c800000;  // 2^-6; below lie the multiples of 2^-9
  constexpr float kMagic = 0x1.8p14f;          // added to less than 2^-6 it rounds to 2^-9
  for (int64_t begin = 0; begin < cols; begin += kBlock) {
    const int64_t n = cols - begin < kBlock ? cols - begin : kBlock;
    float values[kBlock] = {};
    __builtin_memcpy(values, x + begin, n * sizeof(float));
    uint32_t bits[kBlock];
    __builtin_memcpy(bits, values, sizeof(bits));
    // Ordered as integers, magnitudes are ordered as floats, infinity and NaN last.
    uint32_t largest = 0;
    for (int k = 0; k < kBlock; ++k) {
      const uint32_t magnitude = bits[k] & 0x7fffffffu;
      largest = magnitude > largest ? magnitude : largest;
    }
    float top, scale;
    __builtin_memcpy(&top, &largest, sizeof(top));
    scale = top / kFp8Max;
    uint32_t scale_bits;
    __builtin_memcpy(&scale_bits, &scale, sizeof(scale_bits));
    uint16_t numbers[kBlock] = {};
    if (largest >= kInfinity) {
      scale = __builtin_nanf("");
    } else if (scale_bits < kSmallestNormal) {
      scale = 0.0f;
    } else {
      for (int k = 0; k < kBlock; ++k) values[k] = values[k] / scale;
      __builtin_memcpy(bits, values, sizeof(bits));
      for (int k = 0; k < kBlock; ++k) {
        const uint32_t exact = bits[k] & 0x7fffffffu;
        const uint32_t magnitude = exact < kLargest ? exact : kLargest;
        float small;
        __builtin_memcpy(&small, &magnitude, sizeof(small));
        small = (small + kMagic) - kMagic;
        uint32_t small_bits;
        __builtin_memcpy(&small_bits, &small, sizeof(small_bits));
        // Three bits of mantissa stay of 23.
        const uint32_t normal = (magnitude + 0x7ffffu + ((magnitude >> 20) & 1)) & 0xfff00000u;
        const uint32_t rounded = magnitude >= kFp8Normal ? normal : small_bits;
        numbers[k] = static_cast<uint16_t>((rounded | (bits[k] & 0x80000000u)) >> 16);
      }
    }
    scales[begin / kBlock] = scale;
    __builtin_memcpy(out + begin, numbers, n * sizeof(uint16_t));
  }
}

// Outputs decoded at a time: for a lone tile of rows so few that the decoded weights (7168 columns:
// 112 KiB) hardly leave the first cache; for more rows as many as linear.inl's, which decodes them
// once for all rows.
constexpr int64_t kFewRowsOuts = 8;
static_assert(kBlockLinearOutsMax == kLinearBlockOuts);

struct Fp8Format {
  using Args = Fp8LinearArgs;

  static void Decode(const Args& a, int64_t n, uint16_t* out) {
    const uint8_t* codes = a.w + n * Fp8RowBytes(a.cols);
    for (int64_t k = 0; k < a.cols; k += 32) StoreFp8(codes + k, out + k);
  }

  template <int kRows, int kOuts>
  static void Tile(const Args& a, int64_t r, int64_t n, const float* x, const uint16_t* w,
                   int64_t stride) {
    const int64_t blocks = Fp8Blocks(a.cols), padded = (a.cols + 15) & ~int64_t{15};
    const float* x_scales = a.x_scales + r * blocks;
    const float* w_scales[kOuts];
    for (int o = 0; o < kOuts; ++o) w_scales[o] = a.w_scales + (n + o) / kFp8Block * blocks;
    F32x16 total[kRows][kOuts];
    TANDEM_UNROLL
    for (int i = 0; i < kRows; ++i) {
      TANDEM_UNROLL
      for (int o = 0; o < kOuts; ++o) total[i][o] = Set(0.0f);
    }
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t end = (b + 1) * kFp8Block < padded ? (b + 1) * kFp8Block : padded;
      F32x16 part[kRows][kOuts];
      TANDEM_UNROLL
      for (int i = 0; i < kRows; ++i) {
        TANDEM_UNROLL
        for (int o = 0; o < kOuts; ++o) part[i][o] = Set(0.0f);
      }
      for (int64_t k = b * kFp8Block; k < end; k += 16) {
        F32x16 weights[kOuts];
        TANDEM_UNROLL
        for (int o = 0; o < kOuts; ++o) weights[o] = LoadBf16(w + o * stride + k);
        TANDEM_UNROLL
        for (int i = 0; i < kRows; ++i) {
          const F32x16 values = Load(x + i * stride + k);
          TANDEM_UNROLL
          for (int o = 0; o < kOuts; ++o) part[i][o] = Fma(values, weights[o], part[i][o]);
        }
      }
      TANDEM_UNROLL
      for (int i = 0; i < kRows; ++i) {
        TANDEM_UNROLL
        for (int o = 0; o < kOuts; ++o) {
          total[i][o] =
              Fma(part[i][o], Set(x_scales[i * blocks + b] * w_scales[o][b]), total[i][o]);
        }
      }
    }
    float* y = a.y + r * a.y_stride + n;
    TANDEM_UNROLL
    for (int i = 0; i < kRows; ++i) {
      TANDEM_UNROLL
      for (int o = 0; o < kOuts; ++o) y[i * a.y_stride + o] = ReduceSum(total[i][o]);
    }
  }
};

struct MarlinFormat {
  using Args = MarlinLinearArgs;

  static void Decode(const Args& a, int64_t n, uint16_t* out) {
    const uint8_t* codes = a.w + n * a.form.RowBytes(a.cols);
    const uint16_t* scales = a.w_scales + n * a.form.Groups(a.cols);
    for (int64_t begin = 0; begin < a.cols; begin += a.form.group) {
      const int64_t end = begin + a.form.group < a.cols ? begin + a.form.group : a.cols;
      const uint32_t bits = static_cast<uint32_t>(scales[begin / a.form.group]) << 16;
      float scale;
      __builtin_memcpy(&scale, &bits, sizeof(scale));
      if (a.form.bits == 8) {
        for (int64_t k = begin; k < end; k += 32) StoreMarlin8(codes + k, scale, out + k);
      } else {
        StoreMarlin4(codes + begin / 2, scale, (end - begin + 31) / 32, out + begin);
      }
    }
  }

  template <int kRows, int kOuts>
  static void Tile(const Args& a, int64_t r, int64_t n, const float* x, const uint16_t* w,
                   int64_t stride) {
    const int64_t padded = (a.cols + 15) & ~int64_t{15};
    LinearTile<kRows, kOuts, uint16_t>(x, stride, w, stride, padded, a.y + r * a.y_stride + n,
                                       a.y_stride);
  }
};

// `outs` outputs from n on for a tile of exactly kRows rows from r on.
template <typename Format, int kRows>
static void BlockOuts(const typename Format::Args& a, int64_t r, int64_t n, int64_t outs,
                      const float* x, const uint16_t* w, int64_t stride) {
  constexpr int kOuts = kRows == 1 && kLinearTileOuts > 1 ? 4 : kLinearTileOuts;
  int64_t o = 0;
  for (; o + kOuts <= outs; o += kOuts) {
    Format::template Tile<kRows, kOuts>(a, r, n + o, x, w + o * stride, stride);
  }
  for (; o < outs; ++o) Format::template Tile<kRows, 1>(a, r, n + o, x, w + o * stride, stride);
}

template <typename Format, int kRows>
static void BlockRows(int64_t rows, const typename Format::Args& a, int64_t r, int64_t n,
                      int64_t outs, const float* x, const uint16_t* w, int64_t stride) {
  if (rows == kRows) {
    BlockOuts<Format, kRows>(a, r, n, outs, x, w, stride);
  } else if constexpr (kRows > 1) {
    BlockRows<Format, kRows - 1>(rows, a, r, n, outs, x, w, stride);
  }
}

// `scratch` [BlockLinearScratchFloats(cols)]: a widened tile of rows, then decoded weights. The
// weights' padding is zeros, and so is that of x.
template <typename Format>
static void BlockLinearBody(const typename Format::Args& a, float* scratch) {
  const int64_t stride = BlockLinearStride(a.cols);
  uint16_t* w = reinterpret_cast<uint16_t*>(scratch + kLinearTileRowsMax * stride);
  const bool one_tile = a.rows <= kLinearTileRows;
  const int64_t step = one_tile ? kFewRowsOuts : kBlockLinearOutsMax;
  for (int64_t n = a.n_begin; n < a.n_end; n += step) {
    const int64_t outs = a.n_end - n < step ? a.n_end - n : step;
    for (int64_t o = 0; o < outs; ++o) Format::Decode(a, n + o, w + o * stride);
    for (int64_t r = 0; r < a.rows; r += kLinearTileRows) {
      const int64_t rows = a.rows - r < kLinearTileRows ? a.rows - r : kLinearTileRows;
      if (n == a.n_begin || !one_tile) {
        WidenRows(a.x + r * a.x_stride, a.x_stride, rows, a.cols, scratch, stride);
      }
      BlockRows<Format, kLinearTileRows>(rows, a, r, n, outs, scratch, w, stride);
    }
  }
}
