// Activations to int8 and between float formats, and outputs onto the grid. Included inside an
// instruction set's namespace after its lanes; the definition of the arithmetic is in quant.h.

// 1.5 * 2^23: adding it to |v| < 2^22 rounds v to the nearest even integer, found in the low bits
// of the sum.
constexpr float kRoundingMagic = 12582912.0f;
constexpr int32_t kRoundingMagicBits = 0x4b400000;
constexpr int32_t kInfinityBits = 0x7f800000;
// Blocks whose largest magnitude is below 2^-110 become zeros: 127 / max would leave f32, and what
// is lost is under 1e-33.
constexpr int32_t kTinyBits = (127 - 110) << 23;

// x [n] f32 into `out`. n is a multiple of 32.
static void QuantizeRowBody(const float* __restrict x, int64_t n, const QuantRow& out) {
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
    out.block_sums[block] = scale * static_cast<float>(sums[0] + sums[1]);
    out.code_sums[2 * block] = sums[0];
    out.code_sums[2 * block + 1] = sums[1];
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
