// The i-quants: indices into codebooks of short vectors. Included inside an instruction set's
// namespace after its lanes.

constexpr uint64_t kOnes = 0x0101010101010101u;

TANDEM_LANE uint64_t LoadWord(const void* p) {
  uint64_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return word;
}
TANDEM_LANE uint32_t LoadWord32(const void* p) {
  uint32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return word;
}

// Negates the bytes of `values` where `mask` is 0xFF: ~v + 1, without a carry because no codebook
// value is 0.
TANDEM_LANE void StoreSigned(uint64_t values, uint64_t mask, int8_t* out) {
  const uint64_t word = (values ^ mask) + (mask & kOnes);
  __builtin_memcpy(out, &word, sizeof(word));
}

// Codes 8 g + 1 or 8 g - 1 of four codebook vectors. g is -1, 0 or 1: shifting the word left by 3
// and clearing what came from the byte below multiplies every byte by 8.
TANDEM_LANE void StoreShifted4(const uint64_t* vectors, const uint64_t* shifts, int8_t* out) {
  uint64_t eights[4];
  TANDEM_UNROLL
  for (int l = 0; l < 4; ++l) eights[l] = (vectors[l] << 3) & (0xf8 * kOnes);
  StoreWordsPlus(eights, shifts, out);
}

constexpr uint64_t kShiftUp = kOnes;                  // +1 in every byte
constexpr uint64_t kShiftDown = 0xffffffffffffffffu;  // -1 in every byte

static void UnpackIQ1_S(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockIQ1_S* blocks = reinterpret_cast<const BlockIQ1_S*>(src);
  const int8_t* grid = GridIQ1_S();
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockIQ1_S& block = blocks[b];
    const float eighth = HalfToFloat(block.d) * 0.125f;
    for (int sub = 0; sub < 8; ++sub) {
      const uint32_t qh = block.qh[sub];
      const uint64_t shift = (qh & 0x8000) ? kShiftDown : kShiftUp;
      uint64_t vectors[4];
      const uint64_t shifts[4] = {shift, shift, shift, shift};
      TANDEM_UNROLL
      for (int l = 0; l < 4; ++l) {
        const uint32_t index = block.qs[4 * sub + l] | (((qh >> (3 * l)) & 7) << 8);
        vectors[l] = LoadWord(grid + 8 * index);
      }
      StoreShifted4(vectors, shifts, out.codes + 256 * b + 32 * sub);
      SetTwo(out.scales + 16 * b + 2 * sub,
             eighth * static_cast<float>(static_cast<int>(2 * ((qh >> 12) & 7) + 1)));
    }
  }
}

static void UnpackIQ1_M(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockIQ1_M* blocks = reinterpret_cast<const BlockIQ1_M*>(src);
  const int8_t* grid = GridIQ1_S();
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockIQ1_M& block = blocks[b];
    const float eighth = HalfToFloat(SuperScaleIQ1_M(block.scales)) * 0.125f;
    for (int sub = 0; sub < 8; ++sub) {
      uint64_t vectors[4], shifts[4];
      TANDEM_UNROLL
      for (int l = 0; l < 4; ++l) {
        const uint32_t high = (block.qh[2 * sub + l / 2] >> (4 * (l % 2))) & 15;
        vectors[l] = LoadWord(grid + 8 * (block.qs[4 * sub + l] | ((high & 7) << 8)));
        shifts[l] = (high & 8) ? kShiftDown : kShiftUp;
      }
      StoreShifted4(vectors, shifts, out.codes + 256 * b + 32 * sub);
    }
    for (int j = 0; j < 16; ++j) {
      const int code = (block.scales[j / 4] >> (3 * (j % 4))) & 7;
      out.scales[16 * b + j] = eighth * static_cast<float>(2 * code + 1);
    }
  }
}

// d * (code + 1/2) / 4.
TANDEM_LANE float ScaleIQ2(float d, uint32_t code) {
  return d * 0.125f * static_cast<float>(static_cast<int>(2 * code + 1));
}

static void UnpackIQ2_XXS(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockIQ2_XXS* blocks = reinterpret_cast<const BlockIQ2_XXS*>(src);
  const uint8_t* grid = GridIQ2_XXS();
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockIQ2_XXS& block = blocks[b];
    const float d = HalfToFloat(block.d);
    for (int sub = 0; sub < 8; ++sub) {
      const uint32_t indices = LoadWord32(block.qs + 4 * sub);
      const uint32_t signs = LoadWord32(block.qs + 4 * sub + 2);
      int8_t* codes = out.codes + 256 * b + 32 * sub;
      for (int l = 0; l < 4; ++l) {
        StoreSigned(LoadWord(grid + 8 * ((indices >> (8 * l)) & 255)),
                    kEvenMasks[(signs >> (7 * l)) & 127], codes + 8 * l);
      }
      SetTwo(out.scales + 16 * b + 2 * sub, ScaleIQ2(d, signs >> 28));
    }
  }
}

// The sixteen scales of iq2_xs and iq2_s: nibbles, low first.
TANDEM_LANE void StoreScalesIQ2(const uint8_t* packed, float d, float* scales) {
  for (int j = 0; j < 8; ++j) {
    scales[2 * j] = ScaleIQ2(d, packed[j] & 15);
    scales[2 * j + 1] = ScaleIQ2(d, packed[j] >> 4);
  }
}

static void UnpackIQ2_XS(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockIQ2_XS* blocks = reinterpret_cast<const BlockIQ2_XS*>(src);
  const uint8_t* grid = GridIQ2_XS();
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockIQ2_XS& block = blocks[b];
    for (int group = 0; group < 32; ++group) {
      const uint32_t q = block.qs[group];
      StoreSigned(LoadWord(grid + 8 * (q & 511)), kEvenMasks[q >> 9],
                  out.codes + 256 * b + 8 * group);
    }
    StoreScalesIQ2(block.scales, HalfToFloat(block.d), out.scales + 16 * b);
  }
}

static void UnpackIQ2_S(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockIQ2_S* blocks = reinterpret_cast<const BlockIQ2_S*>(src);
  const uint8_t* grid = GridIQ2_S();
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockIQ2_S& block = blocks[b];
    for (int group = 0; group < 32; ++group) {
      const uint32_t high = (block.qh[group / 4] >> (2 * (group % 4))) & 3;
      StoreSigned(LoadWord(grid + 8 * (block.qs[group] | (high << 8))),
                  kByteMasks[block.signs[group]], out.codes + 256 * b + 8 * group);
    }
    StoreScalesIQ2(block.scales, HalfToFloat(block.d), out.scales + 16 * b);
  }
}

// Two four-byte vectors as one word.
TANDEM_LANE uint64_t TwoVectors(const uint8_t* grid, uint32_t first, uint32_t second) {
  return LoadWord32(grid + 4 * first) |
         (static_cast<uint64_t>(LoadWord32(grid + 4 * second)) << 32);
}

static void UnpackIQ3_XXS(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockIQ3_XXS* blocks = reinterpret_cast<const BlockIQ3_XXS*>(src);
  const uint8_t* grid = GridIQ3_XXS();
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockIQ3_XXS& block = blocks[b];
    const float quarter = HalfToFloat(block.d) * 0.25f;
    for (int sub = 0; sub < 8; ++sub) {
      const uint32_t signs = LoadWord32(block.scales_and_signs + 4 * sub);
      const uint8_t* qs = block.qs + 8 * sub;
      int8_t* codes = out.codes + 256 * b + 32 * sub;
      for (int l = 0; l < 4; ++l) {
        StoreSigned(TwoVectors(grid, qs[2 * l], qs[2 * l + 1]),
                    kEvenMasks[(signs >> (7 * l)) & 127], codes + 8 * l);
      }
      // d * (code + 1/2) / 2.
      SetTwo(out.scales + 16 * b + 2 * sub,
             quarter * static_cast<float>(static_cast<int>(2 * (signs >> 28) + 1)));
    }
  }
}

static void UnpackIQ3_S(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockIQ3_S* blocks = reinterpret_cast<const BlockIQ3_S*>(src);
  const uint8_t* grid = GridIQ3_S();
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockIQ3_S& block = blocks[b];
    const float d = HalfToFloat(block.d);
    for (int sub = 0; sub < 8; ++sub) {
      const uint8_t* qs = block.qs + 8 * sub;
      const uint32_t high = block.qh[sub];
      int8_t* codes = out.codes + 256 * b + 32 * sub;
      for (int l = 0; l < 4; ++l) {
        const uint32_t first = qs[2 * l] | (((high >> (2 * l)) & 1) << 8);
        const uint32_t second = qs[2 * l + 1] | (((high >> (2 * l + 1)) & 1) << 8);
        StoreSigned(TwoVectors(grid, first, second), kByteMasks[block.signs[4 * sub + l]],
                    codes + 8 * l);
      }
      const int code = (block.scales[sub / 2] >> (4 * (sub % 2))) & 15;
      SetTwo(out.scales + 16 * b + 2 * sub, d * static_cast<float>(1 + 2 * code));
    }
  }
}

static void UnpackIQ4_XS(const std::byte* src, int64_t cols, const UnpackedRow& out) {
  const BlockIQ4_XS* blocks = reinterpret_cast<const BlockIQ4_XS*>(src);
  for (int64_t b = 0; b < cols / 256; ++b) {
    const BlockIQ4_XS& block = blocks[b];
    const float d = HalfToFloat(block.d);
    for (int sub = 0; sub < 8; ++sub) {
      StoreLevels(kIQ4Levels, block.qs + 16 * sub, out.codes + 256 * b + 32 * sub);
      const int low = (block.scales_l[sub / 2] >> (4 * (sub % 2))) & 15;
      const int high = (block.scales_h >> (2 * sub)) & 3;
      SetTwo(out.scales + 16 * b + 2 * sub, d * static_cast<float>((low | (high << 4)) - 32));
    }
  }
}
