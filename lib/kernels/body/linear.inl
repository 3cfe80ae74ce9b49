// Float linear layers: one accumulator of sixteen lanes per (row, output), so that the order over K
// is the same in every tile shape. Included inside an instruction set's namespace after its lanes.

// Values past `n` are zero.
TANDEM_LANE F32x16 LoadFirst(const float* p, int64_t n) {
  float padded[16] = {};
  __builtin_memcpy(padded, p, n * sizeof(float));
  return Load(padded);
}
TANDEM_LANE F32x16 LoadFirst(const uint16_t* p, int64_t n) {
  uint16_t padded[16] = {};
  __builtin_memcpy(padded, p, n * sizeof(uint16_t));
  return LoadBf16(padded);
}
TANDEM_LANE F32x16 LoadLanes(const float* p) { return Load(p); }
TANDEM_LANE F32x16 LoadLanes(const uint16_t* p) { return LoadBf16(p); }

// y[r][o] for kRows rows of x (f32, x_stride apart) and kOuts rows of w (w_stride apart).
template <int kRows, int kOuts, typename W>
static void LinearTile(const float* x, int64_t x_stride, const W* w, int64_t w_stride, int64_t cols,
                       float* y, int64_t y_stride) {
  F32x16 acc[kRows][kOuts];
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TANDEM_UNROLL
    for (int o = 0; o < kOuts; ++o) acc[r][o] = Set(0.0f);
  }
  const int64_t whole = cols & ~int64_t{15};
  for (int64_t k = 0; k < whole; k += 16) {
    F32x16 weights[kOuts];
    TANDEM_UNROLL
    for (int o = 0; o < kOuts; ++o) weights[o] = LoadLanes(w + o * w_stride + k);
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const F32x16 values = Load(x + r * x_stride + k);
      TANDEM_UNROLL
      for (int o = 0; o < kOuts; ++o) acc[r][o] = Fma(values, weights[o], acc[r][o]);
    }
  }
  if (whole < cols) {
    F32x16 weights[kOuts];
    TANDEM_UNROLL
    for (int o = 0; o < kOuts; ++o) weights[o] = LoadFirst(w + o * w_stride + whole, cols - whole);
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const F32x16 values = LoadFirst(x + r * x_stride + whole, cols - whole);
      TANDEM_UNROLL
      for (int o = 0; o < kOuts; ++o) acc[r][o] = Fma(values, weights[o], acc[r][o]);
    }
  }
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TANDEM_UNROLL
    for (int o = 0; o < kOuts; ++o) y[r * y_stride + o] = ReduceSum(acc[r][o]);
  }
}

// All outputs of one block for a tile of exactly kRows rows.
template <int kRows, typename W>
static void LinearOuts(const float* x, int64_t x_stride, const W* w, int64_t cols, int64_t outs,
                       float* y, int64_t y_stride) {
  // A lone row has registers to spare for more outputs, which keeps more loads in flight.
  constexpr int kOuts = kRows == 1 && kLinearTileOuts > 1 ? 4 : kLinearTileOuts;
  int64_t o = 0;
  for (; o + kOuts <= outs; o += kOuts) {
    LinearTile<kRows, kOuts, W>(x, x_stride, w + o * cols, cols, cols, y + o, y_stride);
  }
  for (; o < outs; ++o) {
    LinearTile<kRows, 1, W>(x, x_stride, w + o * cols, cols, cols, y + o, y_stride);
  }
}

template <int kRows, typename W>
static void LinearRows(int64_t rows, const float* x, int64_t x_stride, const W* w, int64_t cols,
                       int64_t outs, float* y, int64_t y_stride) {
  if (rows == kRows) {
    LinearOuts<kRows, W>(x, x_stride, w, cols, outs, y, y_stride);
  } else if constexpr (kRows > 1) {
    LinearRows<kRows - 1, W>(rows, x, x_stride, w, cols, outs, y, y_stride);
  }
}

// 64 rows of 7168 bf16 weights are 0.9 MiB: a block that stays in a level-2 cache while all rows of
// x pass by.
constexpr int64_t kLinearBlockOuts = 64;

static void LinearF32Body(const LinearArgs& a, float*) {
  const float* w = static_cast<const float*>(a.w);
  const float* x = static_cast<const float*>(a.x);
  for (int64_t n = a.n_begin; n < a.n_end; n += kLinearBlockOuts) {
    const int64_t outs = a.n_end - n < kLinearBlockOuts ? a.n_end - n : kLinearBlockOuts;
    for (int64_t r = 0; r < a.rows; r += kLinearTileRows) {
      const int64_t rows = a.rows - r < kLinearTileRows ? a.rows - r : kLinearTileRows;
      LinearRows<kLinearTileRows, float>(rows, x + r * a.x_stride, a.x_stride, w + n * a.cols,
                                         a.cols, outs, a.y + r * a.y_stride + n, a.y_stride);
    }
  }
}

// Widens `rows` rows of bf16 to f32, padded to whole lanes.
static void WidenRows(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t cols, float* out,
                      int64_t out_stride) {
  const int64_t whole = cols & ~int64_t{15};
  for (int64_t r = 0; r < rows; ++r) {
    const uint16_t* from = x + r * x_stride;
    float* to = out + r * out_stride;
    for (int64_t k = 0; k < whole; k += 16) Store(to + k, LoadBf16(from + k));
    if (whole < cols) Store(to + whole, LoadFirst(from + whole, cols - whole));
  }
}

// `scratch` [kLinearTileRowsMax, cols rounded up to 16] f32.
static void LinearBf16Body(const LinearArgs& a, float* scratch) {
  const uint16_t* w = static_cast<const uint16_t*>(a.w);
  const uint16_t* x = static_cast<const uint16_t*>(a.x);
  const int64_t stride = (a.cols + 15) & ~int64_t{15};
  for (int64_t n = a.n_begin; n < a.n_end; n += kLinearBlockOuts) {
    const int64_t outs = a.n_end - n < kLinearBlockOuts ? a.n_end - n : kLinearBlockOuts;
    for (int64_t r = 0; r < a.rows; r += kLinearTileRows) {
      const int64_t rows = a.rows - r < kLinearTileRows ? a.rows - r : kLinearTileRows;
      // A single tile of rows stays widened from block to block.
      if (n == a.n_begin || a.rows > kLinearTileRows) {
        WidenRows(x + r * a.x_stride, a.x_stride, rows, a.cols, scratch, stride);
      }
      LinearRows<kLinearTileRows, uint16_t>(rows, scratch, stride, w + n * a.cols, a.cols, outs,
                                            a.y + r * a.y_stride + n, a.y_stride);
    }
  }
}

static float DotF32Body(const float* a, const float* b, int64_t n) {
  F32x16 acc = Set(0.0f);
  const int64_t whole = n & ~int64_t{15};
  for (int64_t k = 0; k < whole; k += 16) acc = Fma(Load(a + k), Load(b + k), acc);
  if (whole < n) acc = Fma(LoadFirst(a + whole, n - whole), LoadFirst(b + whole, n - whole), acc);
  return ReduceSum(acc);
}
