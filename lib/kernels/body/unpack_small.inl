// Formats with one scale per 32 values. Included inside an instruction set's namespace after its
// lanes.

TANDEM_LANE void SetTwo(float* p, float value) {
  p[0] = value;
  p[1] = value;
}

// Low nibbles are the first sixteen values.
TANDEM_LANE void SplitNibbles16(const uint8_t* __restrict packed, int8_t* __restrict out,
                                int offset) {
  for (int k = 0; k < 16; ++k) out[k] = static_cast<int8_t>((packed[k] & 15) - offset);
  for (int k = 0; k < 16; ++k) out[k + 16] = static_cast<int8_t>((packed[k] >> 4) - offset);
}

// As above, with bit k of `high` worth 16 in value k.
TANDEM_LANE void SplitFiveBits(const uint8_t* packed, const uint8_t* high, int8_t* __restrict out,
                               int offset) {
  uint8_t fifth[32];
  for (int b = 0; b < 4; ++b) __builtin_memcpy(fifth + 8 * b, &kByteMasks[high[b]], 8);
  for (int k = 0; k < 16; ++k) {
    out[k] = static_cast<int8_t>(((packed[k] & 15) | (fifth[k] & 16)) - offset);
  }
  for (int k = 0; k < 16; ++k) {
    out[k + 16] = static_cast<int8_t>(((packed[k] >> 4) | (fifth[k + 16] & 16)) - offset);
  }
}

static void UnpackQ8_0(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockQ8_0* blocks = reinterpret_cast<const BlockQ8_0*>(src);
  for (int64_t b = 0; b < cols / 32; ++b) {
    __builtin_memcpy(out.codes + 32 * b, blocks[b].qs, 32);
    SetTwo(out.scales + 2 * b, HalfToFloat(blocks[b].d));
  }
}

static void UnpackQ4_0(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockQ4_0* blocks = reinterpret_cast<const BlockQ4_0*>(src);
  for (int64_t b = 0; b < cols / 32; ++b) {
    SplitNibbles16(blocks[b].qs, out.codes + 32 * b, 8);
    SetTwo(out.scales + 2 * b, HalfToFloat(blocks[b].d));
  }
}

static void UnpackQ4_1(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockQ4_1* blocks = reinterpret_cast<const BlockQ4_1*>(src);
  for (int64_t b = 0; b < cols / 32; ++b) {
    SplitNibbles16(blocks[b].qs, out.codes + 32 * b, 0);
    SetTwo(out.scales + 2 * b, HalfToFloat(blocks[b].d));
    SetTwo(out.mins + 2 * b, -HalfToFloat(blocks[b].m));
  }
}

static void UnpackQ5_0(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockQ5_0* blocks = reinterpret_cast<const BlockQ5_0*>(src);
  for (int64_t b = 0; b < cols / 32; ++b) {
    SplitFiveBits(blocks[b].qs, blocks[b].qh, out.codes + 32 * b, 16);
    SetTwo(out.scales + 2 * b, HalfToFloat(blocks[b].d));
  }
}

static void UnpackQ5_1(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockQ5_1* blocks = reinterpret_cast<const BlockQ5_1*>(src);
  for (int64_t b = 0; b < cols / 32; ++b) {
    SplitFiveBits(blocks[b].qs, blocks[b].qh, out.codes + 32 * b, 0);
    SetTwo(out.scales + 2 * b, HalfToFloat(blocks[b].d));
    SetTwo(out.mins + 2 * b, -HalfToFloat(blocks[b].m));
  }
}

static void UnpackIQ4_NL(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockIQ4_NL* blocks = reinterpret_cast<const BlockIQ4_NL*>(src);
  for (int64_t b = 0; b < cols / 32; ++b) {
    StoreLevels(kIQ4Levels, blocks[b].qs, out.codes + 32 * b);
    SetTwo(out.scales + 2 * b, HalfToFloat(blocks[b].d));
  }
}
