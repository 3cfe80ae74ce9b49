// Sixteen lanes in portable C++: what the vector files must equal bit for bit. Included inside an
// instruction set's namespace.

struct F32x16 {
  float v[16];
};
struct I32x16 {
  int32_t v[16];
};

// Register tile of the float linear kernels: rows of x times rows of W.
constexpr int kLinearTileRows = 1;
constexpr int kLinearTileOuts = 1;

TANDEM_LANE float BitsToFloat(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
TANDEM_LANE uint32_t FloatToBits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

TANDEM_LANE F32x16 Set(float value) {
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = value;
  return r;
}
TANDEM_LANE F32x16 Load(const float* p) {
  F32x16 r;
  __builtin_memcpy(r.v, p, sizeof(r.v));
  return r;
}
TANDEM_LANE void Store(float* p, const F32x16& a) { __builtin_memcpy(p, a.v, sizeof(a.v)); }
TANDEM_LANE F32x16 LoadBf16(const uint16_t* p) {
  uint16_t raw[16];
  __builtin_memcpy(raw, p, sizeof(raw));
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = BitsToFloat(static_cast<uint32_t>(raw[l]) << 16);
  return r;
}
TANDEM_LANE F32x16 Add(const F32x16& a, const F32x16& b) {
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = a.v[l] + b.v[l];
  return r;
}
TANDEM_LANE F32x16 Sub(const F32x16& a, const F32x16& b) {
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = a.v[l] - b.v[l];
  return r;
}
TANDEM_LANE F32x16 Mul(const F32x16& a, const F32x16& b) {
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = a.v[l] * b.v[l];
  return r;
}
TANDEM_LANE F32x16 Div(const F32x16& a, const F32x16& b) {
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = a.v[l] / b.v[l];
  return r;
}
// a * b + c, rounded once.
TANDEM_LANE F32x16 Fma(const F32x16& a, const F32x16& b, const F32x16& c) {
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = __builtin_fmaf(a.v[l], b.v[l], c.v[l]);
  return r;
}
TANDEM_LANE F32x16 Negate(const F32x16& a) {
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = BitsToFloat(FloatToBits(a.v[l]) ^ 0x80000000u);
  return r;
}
// a > b ? yes : no, per lane; false with a NaN.
TANDEM_LANE F32x16 IfGreater(const F32x16& a, const F32x16& b, const F32x16& yes,
                             const F32x16& no) {
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = a.v[l] > b.v[l] ? yes.v[l] : no.v[l];
  return r;
}
TANDEM_LANE I32x16 Bits(const F32x16& a) {
  I32x16 r;
  __builtin_memcpy(r.v, a.v, sizeof(r.v));
  return r;
}
TANDEM_LANE F32x16 FromBits(const I32x16& a) {
  F32x16 r;
  __builtin_memcpy(r.v, a.v, sizeof(r.v));
  return r;
}
TANDEM_LANE I32x16 SetI(int32_t value) {
  I32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = value;
  return r;
}
TANDEM_LANE I32x16 AddI(const I32x16& a, const I32x16& b) {
  I32x16 r;
  for (int l = 0; l < 16; ++l) {
    r.v[l] = static_cast<int32_t>(static_cast<uint32_t>(a.v[l]) + static_cast<uint32_t>(b.v[l]));
  }
  return r;
}
TANDEM_LANE I32x16 SubI(const I32x16& a, const I32x16& b) {
  I32x16 r;
  for (int l = 0; l < 16; ++l) {
    r.v[l] = static_cast<int32_t>(static_cast<uint32_t>(a.v[l]) - static_cast<uint32_t>(b.v[l]));
  }
  return r;
}
// Arithmetic shift right by one.
TANDEM_LANE I32x16 HalveI(const I32x16& a) {
  I32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = a.v[l] >> 1;
  return r;
}
// Shift left by 23: an integer becomes the exponent field of an f32.
TANDEM_LANE I32x16 ToExponentI(const I32x16& a) {
  I32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = static_cast<int32_t>(static_cast<uint32_t>(a.v[l]) << 23);
  return r;
}
// Lanes 0..15 by one fixed tree: l + (l+8), then +4, +2, +1.
TANDEM_LANE float ReduceSum(const F32x16& a) {
  float t[8];
  for (int l = 0; l < 8; ++l) t[l] = a.v[l] + a.v[l + 8];
  for (int l = 0; l < 4; ++l) t[l] = t[l] + t[l + 4];
  for (int l = 0; l < 2; ++l) t[l] = t[l] + t[l + 2];
  return t[0] + t[1];
}

TANDEM_LANE float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t mantissa = half & 1023;
  if (exponent == 0) {  // zero and subnormals: multiples of 2^-24
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return BitsToFloat(FloatToBits(magnitude) | sign);
  }
  if (exponent == 31) {  // infinity; a NaN becomes quiet, as the instruction makes it
    return BitsToFloat(sign | 0x7f800000u | (mantissa << 13) | (mantissa != 0 ? 0x400000u : 0));
  }
  return BitsToFloat(sign | ((exponent + 112) << 23) | (mantissa << 13));
}
TANDEM_LANE F32x16 LoadF16(const uint16_t* p) {
  uint16_t raw[16];
  __builtin_memcpy(raw, p, sizeof(raw));
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = HalfToFloat(raw[l]);
  return r;
}
// The 32 levels of 32 nibbles: low nibbles are the first sixteen.
TANDEM_LANE void StoreLevels(const int8_t* levels, const uint8_t* packed, int8_t* out) {
  for (int k = 0; k < 16; ++k) {
    out[k] = levels[packed[k] & 15];
    out[k + 16] = levels[packed[k] >> 4];
  }
}
// 32 bytes: those of four words, each byte plus the byte of `add` in its place (modulo 256).
TANDEM_LANE void StoreWordsPlus(const uint64_t* words, const uint64_t* add, int8_t* out) {
  uint8_t a[32], b[32];
  __builtin_memcpy(a, words, 32);
  __builtin_memcpy(b, add, 32);
  for (int k = 0; k < 32; ++k) out[k] = static_cast<int8_t>(static_cast<uint8_t>(a[k] + b[k]));
}
// 32 e4m3 codes, none of them NaN, as bf16: exponents move from a bias of 7 to one of 127; codes
// below 8 are multiples of 2^-9.
TANDEM_LANE void StoreFp8(const uint8_t* codes, uint16_t* out) {
  constexpr uint16_t kSmall[8] = {0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60};
  for (int k = 0; k < 32; ++k) {
    const unsigned magnitude = codes[k] & 127u;
    const unsigned value = magnitude < 8 ? kSmall[magnitude] : (magnitude << 4) + (120 << 7);
    out[k] = static_cast<uint16_t>(value | (codes[k] & 128u) << 8);
  }
}
// bf16 bits of a finite value, to nearest even.
TANDEM_LANE uint16_t NarrowFinite(float value) {
  const uint32_t bits = FloatToBits(value);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
// 32 bytes minus 128, times `scale`, as bf16.
TANDEM_LANE void StoreMarlin8(const uint8_t* codes, float scale, uint16_t* out) {
  for (int k = 0; k < 32; ++k) {
    out[k] = NarrowFinite(static_cast<float>(static_cast<int32_t>(codes[k]) - 128) * scale);
  }
}
// `chunks` times 32 nibbles minus 8, times `scale`, as bf16; sixteen bytes a chunk, low nibbles are
// the first sixteen.
TANDEM_LANE void StoreMarlin4(const uint8_t* packed, float scale, int64_t chunks, uint16_t* out) {
  uint16_t levels[16];
  for (int code = 0; code < 16; ++code) {
    levels[code] = NarrowFinite(static_cast<float>(code - 8) * scale);
  }
  for (int64_t c = 0; c < chunks; ++c) {
    for (int k = 0; k < 16; ++k) {
      out[32 * c + k] = levels[packed[16 * c + k] & 15];
      out[32 * c + k + 16] = levels[packed[16 * c + k] >> 4];
    }
  }
}
#include "lib/kernels/isa/lines_scalar.inl"
