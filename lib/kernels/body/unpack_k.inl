// The k-quants: 256 values, small integer scales times one f16. Included inside an instruction
// set's namespace after its lanes.

// Bits kShift and kShift + 1 of 32 bytes, less `offset`.
template <int kShift>
TANDEM_LANE void TwoBits32(const uint8_t* __restrict qs, int8_t* __restrict out) {
  for (int k = 0; k < 32; ++k) out[k] = static_cast<int8_t>((qs[k] >> kShift) & 3);
}

static void UnpackQ2_K(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockQ2_K* blocks = reinterpret_cast<const BlockQ2_K*>(src);
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockQ2_K& block = blocks[b];
    for (int half = 0; half < 2; ++half) {
      int8_t* codes = out.codes + 256 * b + 128 * half;
      TwoBits32<0>(block.qs + 32 * half, codes);
      TwoBits32<2>(block.qs + 32 * half, codes + 32);
      TwoBits32<4>(block.qs + 32 * half, codes + 64);
      TwoBits32<6>(block.qs + 32 * half, codes + 96);
    }
    const float d = HalfToFloat(block.d), dmin = HalfToFloat(block.dmin);
    float* __restrict scales = out.scales + 16 * b;
    float* __restrict mins = out.mins + 16 * b;
    for (int j = 0; j < 16; ++j) scales[j] = d * static_cast<float>(block.scales[j] & 15);
    for (int j = 0; j < 16; ++j) mins[j] = dmin * static_cast<float>(block.scales[j] >> 4);
  }
}

// Two low bits from qs, one high bit from hmask, less 4.
template <int kShift, int kHighBit>
TANDEM_LANE void ThreeBits32(const uint8_t* __restrict qs, const uint8_t* __restrict hmask,
                             int8_t* __restrict out) {
  for (int k = 0; k < 32; ++k) {
    out[k] =
        static_cast<int8_t>((((qs[k] >> kShift) & 3) | (((hmask[k] >> kHighBit) & 1) << 2)) - 4);
  }
}

static void UnpackQ3_K(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockQ3_K* blocks = reinterpret_cast<const BlockQ3_K*>(src);
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockQ3_K& block = blocks[b];
    int8_t* codes = out.codes + 256 * b;
    ThreeBits32<0, 0>(block.qs, block.hmask, codes);
    ThreeBits32<2, 1>(block.qs, block.hmask, codes + 32);
    ThreeBits32<4, 2>(block.qs, block.hmask, codes + 64);
    ThreeBits32<6, 3>(block.qs, block.hmask, codes + 96);
    ThreeBits32<0, 4>(block.qs + 32, block.hmask, codes + 128);
    ThreeBits32<2, 5>(block.qs + 32, block.hmask, codes + 160);
    ThreeBits32<4, 6>(block.qs + 32, block.hmask, codes + 192);
    ThreeBits32<6, 7>(block.qs + 32, block.hmask, codes + 224);
    const float d = HalfToFloat(block.d);
    for (int j = 0; j < 16; ++j) {
      out.scales[16 * b + j] = d * static_cast<float>(UnpackScaleQ3_K(block.scales, j));
    }
  }
}

// The eight scales and eight minima of q4_K and q5_K, as bytes: the same bits as UnpackScaleMin,
// four at a time.
TANDEM_LANE void UnpackScalesMins(const uint8_t* packed, uint8_t* scales, uint8_t* mins) {
  uint32_t a, b, c;
  __builtin_memcpy(&a, packed, 4);
  __builtin_memcpy(&b, packed + 4, 4);
  __builtin_memcpy(&c, packed + 8, 4);
  const uint32_t s[2] = {a & 0x3f3f3f3fu, (c & 0x0f0f0f0fu) | ((a >> 2) & 0x30303030u)};
  const uint32_t m[2] = {b & 0x3f3f3f3fu, ((c >> 4) & 0x0f0f0f0fu) | ((b >> 2) & 0x30303030u)};
  __builtin_memcpy(scales, s, 8);
  __builtin_memcpy(mins, m, 8);
}

// Scales and minima of eight sub-blocks of 32 as sixteen groups of 16.
TANDEM_LANE void StoreScalesMins(const uint8_t* packed, float d, float dmin,
                                 float* __restrict scales, float* __restrict mins) {
  uint8_t s[8], m[8];
  UnpackScalesMins(packed, s, m);
  float sf[8], mf[8];
  for (int j = 0; j < 8; ++j) sf[j] = d * static_cast<float>(s[j]);
  for (int j = 0; j < 8; ++j) mf[j] = dmin * static_cast<float>(m[j]);
  for (int j = 0; j < 8; ++j) SetTwo(scales + 2 * j, sf[j]);
  for (int j = 0; j < 8; ++j) SetTwo(mins + 2 * j, mf[j]);
}

static void UnpackQ4_K(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockQ4_K* blocks = reinterpret_cast<const BlockQ4_K*>(src);
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockQ4_K& block = blocks[b];
    for (int quarter = 0; quarter < 4; ++quarter) {
      const uint8_t* __restrict qs = block.qs + 32 * quarter;
      int8_t* __restrict codes = out.codes + 256 * b + 64 * quarter;
      for (int k = 0; k < 32; ++k) codes[k] = static_cast<int8_t>(qs[k] & 15);
      for (int k = 0; k < 32; ++k) codes[32 + k] = static_cast<int8_t>(qs[k] >> 4);
    }
    StoreScalesMins(block.scales, HalfToFloat(block.d), HalfToFloat(block.dmin),
                    out.scales + 16 * b, out.mins + 16 * b);
  }
}

// Nibbles of 32 bytes (low for even sub-blocks, high for odd) with the fifth bit from qh.
template <int kSub>
TANDEM_LANE void FiveBits32(const uint8_t* __restrict qs, const uint8_t* __restrict qh,
                            int8_t* __restrict out) {
  for (int k = 0; k < 32; ++k) {
    const int nibble = kSub % 2 == 0 ? qs[k] & 15 : qs[k] >> 4;
    out[k] = static_cast<int8_t>(nibble | (((qh[k] >> kSub) & 1) << 4));
  }
}

static void UnpackQ5_K(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockQ5_K* blocks = reinterpret_cast<const BlockQ5_K*>(src);
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockQ5_K& block = blocks[b];
    int8_t* codes = out.codes + 256 * b;
    FiveBits32<0>(block.qs, block.qh, codes);
    FiveBits32<1>(block.qs, block.qh, codes + 32);
    FiveBits32<2>(block.qs + 32, block.qh, codes + 64);
    FiveBits32<3>(block.qs + 32, block.qh, codes + 96);
    FiveBits32<4>(block.qs + 64, block.qh, codes + 128);
    FiveBits32<5>(block.qs + 64, block.qh, codes + 160);
    FiveBits32<6>(block.qs + 96, block.qh, codes + 192);
    FiveBits32<7>(block.qs + 96, block.qh, codes + 224);
    StoreScalesMins(block.scales, HalfToFloat(block.d), HalfToFloat(block.dmin),
                    out.scales + 16 * b, out.mins + 16 * b);
  }
}

// A quarter of 128 values: nibble kQuarter / 2 of 32 bytes, bit pair kQuarter of qh, less 32.
template <int kQuarter>
TANDEM_LANE void SixBits32(const uint8_t* __restrict ql, const uint8_t* __restrict qh,
                           int8_t* __restrict out) {
  for (int k = 0; k < 32; ++k) {
    const int low = kQuarter < 2 ? ql[k] & 15 : ql[k] >> 4;
    out[k] = static_cast<int8_t>((low | (((qh[k] >> (2 * kQuarter)) & 3) << 4)) - 32);
  }
}

static void UnpackQ6_K(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockQ6_K* blocks = reinterpret_cast<const BlockQ6_K*>(src);
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockQ6_K& block = blocks[b];
    for (int half = 0; half < 2; ++half) {
      const uint8_t* ql = block.ql + 64 * half;
      const uint8_t* qh = block.qh + 32 * half;
      int8_t* codes = out.codes + 256 * b + 128 * half;
      SixBits32<0>(ql, qh, codes);
      SixBits32<1>(ql + 32, qh, codes + 32);
      SixBits32<2>(ql, qh, codes + 64);
      SixBits32<3>(ql + 32, qh, codes + 96);
    }
    const float d = HalfToFloat(block.d);
    float* __restrict scales = out.scales + 16 * b;
    for (int j = 0; j < 16; ++j) scales[j] = d * static_cast<float>(block.scales[j]);
  }
}
