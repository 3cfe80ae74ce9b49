// Packed block-quantized weights times int8 activations; panel.h defines the arithmetic,
// packed_form.h the layout. Included inside an instruction set's namespace after its lanes and
// lines.

// --- Codes of one line.

// Bits of line kJ of a block from its planes.
template <Planes kPlanes, int kJ>
TANDEM_LANE Line PlaneCodes(const std::byte* block) {
  if constexpr (kPlanes == Planes::kBytes) {
    return LoadLine(block + kJ * kLineBytes);
  } else if constexpr (kPlanes == Planes::kPairs || kPlanes == Planes::kPairsBits) {
    constexpr int kShift = 2 * (kJ % 4);
    const Line pairs = ShrLine<kShift>(LoadLine(block + kJ / 4 * kLineBytes));
    if constexpr (kPlanes == Planes::kPairs) return AndLine(pairs, 3);
    const Line bits = LoadLine(block + 2 * kLineBytes);
    const Line bit = kJ < 2             ? ShlLine < kJ < 2 ? 2 - kJ : 0 > (bits)
                                 : ShrLine < kJ < 2 ? 0
                                        : kJ - 2 > (bits);
    return AndOrLine(pairs, 3, AndLine(bit, 4));
  } else {
    const Line nibbles = ShrLine < kJ < 4 ? 0 : 4 > (LoadLine(block + kJ % 4 * kLineBytes));
    if constexpr (kPlanes == Planes::kNibbles) return AndLine(nibbles, 15);
    if constexpr (kPlanes == Planes::kNibblesBits) {
      const Line bits = LoadLine(block + 4 * kLineBytes);
      const Line bit = kJ < 4             ? ShlLine < kJ < 4 ? 4 - kJ : 0 > (bits)
                                   : ShrLine < kJ < 4 ? 0
                                          : kJ - 4 > (bits);
      return AndOrLine(nibbles, 15, AndLine(bit, 0x10));
    }
    constexpr int kT = kJ % 4;
    const Line pairs = LoadLine(block + (4 + kJ / 4) * kLineBytes);
    const Line pair = kT < 2             ? ShlLine < kT < 2 ? 4 - 2 * kT : 0 > (pairs)
                                  : ShrLine < kT < 2 ? 0
                                         : 2 * kT - 4 > (pairs);
    return AndOrLine(nibbles, 15, AndLine(pair, 0x30));
  }
}

// Line kJ as codes 0..255, `zero` of the form meaning 0. `shift`: 2 in the bytes of rows whose
// trits are shifted up.
template <DType kType, int kJ>
TANDEM_LANE Line CodesOf(const std::byte* block, const Line& shift) {
  constexpr PackedForm kForm = FormOf(kType);
  if constexpr (kForm.head == Head::kTrit) {
    // Eight times the trit: its two bits land on bits 3 and 4.
    constexpr int kFrom = 2 * (kJ % 4);
    const Line pairs = LoadLine(block + kJ / 4 * kLineBytes);
    const Line eights = kFrom < 3             ? ShlLine < kFrom < 3 ? 3 - kFrom : 0 > (pairs)
                                    : ShrLine < kFrom < 3 ? 0
                                              : kFrom - 3 > (pairs);
    return AndOrLine(eights, 0x18, shift);
  } else if constexpr (kForm.has_levels) {
    static constexpr PackedForm kStaticForm = FormOf(kType);
    return LevelsOf(kStaticForm.levels, PlaneCodes<kForm.planes, kJ>(block));
  } else {
    return PlaneCodes<kForm.planes, kJ>(block);
  }
}

// --- Scales of one block.

struct BlockScales {
  F32x16 scale[2];
  F32x16 min[2];
  Line shift;  // kTrit: see CodesOf
};
struct GroupScales {
  F32x16 super, super_min;
};

template <DType kType>
TANDEM_LANE GroupScales LoadGroupScales(const std::byte* head) {
  constexpr PackedForm kForm = FormOf(kType);
  GroupScales group = {Set(0.0f), Set(0.0f)};
  if constexpr (kForm.head != Head::kHalf) {
    group.super = LoadF16(reinterpret_cast<const uint16_t*>(head));
    if constexpr (kForm.super_factor != 1.0f) {
      group.super = Mul(group.super, Set(kForm.super_factor));
    }
    if constexpr (kForm.has_mins()) {
      group.super_min = LoadF16(reinterpret_cast<const uint16_t*>(head + 32));
    }
  }
  return group;
}

template <DType kType>
TANDEM_LANE BlockScales LoadBlockScales(const std::byte* head, const GroupScales& group,
                                        int64_t b) {
  constexpr PackedForm kForm = FormOf(kType);
  BlockScales s = {{Set(0.0f), Set(0.0f)}, {Set(0.0f), Set(0.0f)}, ZeroLine()};
  const std::byte* codes = head + kForm.head_super_bytes() + b * kForm.head_block_bytes();
  if constexpr (kForm.head == Head::kHalf) {
    s.scale[0] = LoadF16(reinterpret_cast<const uint16_t*>(head + 32 * b));
  } else if constexpr (kForm.head == Head::kHalfMin) {
    s.scale[0] = group.super;
    s.min[0] = group.super_min;
  } else if constexpr (kForm.head == Head::kTrit) {
    const I32x16 bytes = LoadU8(codes);
    s.scale[0] = Mul(group.super, ToFloat(AndI(bytes, 0x7f)));
    // Bit 7 clear: shifted up, 2 in every byte.
    s.shift = SpreadLowBytes(AndI(ShrI<6>(SubI(SetI(255), bytes)), 2));
  } else if constexpr (kForm.head == Head::kSuper) {
    TANDEM_UNROLL
    for (int g = 0; g < kForm.groups; ++g) {
      s.scale[g] = Mul(group.super, ToFloat(LoadI8(codes + 16 * g)));
    }
  } else if constexpr (kForm.groups == 1) {
    s.scale[0] = Mul(group.super, ToFloat(LoadU8(codes)));
    s.min[0] = Mul(group.super_min, ToFloat(LoadU8(codes + 16)));
  } else {
    TANDEM_UNROLL
    for (int g = 0; g < 2; ++g) {
      const I32x16 bytes = LoadU8(codes + 16 * g);
      s.scale[g] = Mul(group.super, ToFloat(AndI(bytes, 15)));
      s.min[g] = Mul(group.super_min, ToFloat(ShrI<4>(bytes)));
    }
  }
  return s;
}

// --- Products.

template <DType kType, int kRows, int kJ, int kEnd>
TANDEM_LANE void AddLines(const std::byte* block, const Line& shift, const int8_t* const* x,
                          I32x16* sums) {
  if constexpr (kJ < kEnd) {
    constexpr PackedForm kForm = FormOf(kType);
    Line line = CodesOf<kType, kJ>(block, shift);
    if constexpr (kForm.is_wide() && kWideCodesAreSigned) line = SubLine(line, 128);
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      sums[r] = DotLine<kForm.is_wide()>(sums[r], line, x[r] + 4 * kJ);
    }
    AddLines<kType, kRows, kJ + 1, kEnd>(block, shift, x, sums);
  }
}

// acc += scale * activation scale * sum, then - min * activation sum: the order of panel.h.
template <DType kType, int kRows>
TANDEM_LANE void AddScaled(const BlockScales& s, int g, const I32x16* sums,
                           const QuantRow* const* x, int64_t block, F32x16* acc) {
  constexpr PackedForm kForm = FormOf(kType);
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    acc[r] = Fma(ToFloat(sums[r]), Mul(s.scale[g], Set(x[r]->scales[block])), acc[r]);
  }
  if constexpr (kForm.has_mins()) {
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const float* row_sums = x[r]->sums + 2 * block;
      // With one scale for 32 columns the two halves' sums count together.
      const float sum = kForm.groups == 2 ? row_sums[g] : x[r]->block_sums[block];
      acc[r] = NegFma(s.min[g], Set(sum), acc[r]);
    }
  }
}

// Start of the integer sums: -zero times the sum of the activations, so that codes need no offset.
template <DType kType>
TANDEM_LANE I32x16 SumStart(const QuantRow& x, int64_t block, int g) {
  constexpr PackedForm kForm = FormOf(kType);
  if constexpr (kForm.zero == 0 || (kForm.is_wide() && kWideCodesAreSigned)) return SetI(0);
  const int32_t* sums = x.code_sums + 2 * block;
  return SetI(-kForm.zero * (kForm.groups == 2 ? sums[g] : sums[0] + sums[1]));
}

// How far ahead of its reads a kernel asks for memory. The processor's own prefetchers stop at each
// 4 KiB; a few lines of lead carry the stream across (docs/benchmarks.md has the measurement).
constexpr int64_t kPrefetchBytes = 2048;

template <int kLines>
TANDEM_LANE void PrefetchLines(const std::byte* p) {
  TANDEM_UNROLL
  for (int l = 0; l < kLines; ++l) __builtin_prefetch(p + l * kLineBytes, 0, 2);
}

// Panels read side by side: as many as leave registers for the rows' sums.
constexpr int PanelStreams(int rows) {
  if (rows == 1) return kPanelStreams;
  return rows <= 4 && kPanelStreams > 1 ? kPanelStreams / 2 : 1;
}

// One block of one panel times kRows rows of x.
template <DType kType, int kRows>
TANDEM_LANE void AddBlock(const std::byte* head, const GroupScales& group, int64_t b,
                          const QuantRow* const* x, int64_t at, F32x16* acc) {
  constexpr PackedForm kForm = FormOf(kType);
  constexpr int kGroupLines = kBlockLines / kForm.groups;
  const std::byte* block = head + kForm.head_bytes() + b * kForm.block_bytes();
  PrefetchLines<kForm.block_lines()>(block + kPrefetchBytes);
  const BlockScales s = LoadBlockScales<kType>(head, group, b);
  const int8_t* codes[kRows];
  I32x16 sums[kRows];
  TANDEM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    codes[r] = x[r]->codes + at * kBlockCols;
    sums[r] = SumStart<kType>(*x[r], at, 0);
  }
  AddLines<kType, kRows, 0, kGroupLines>(block, s.shift, codes, sums);
  AddScaled<kType, kRows>(s, 0, sums, x, at, acc);
  if constexpr (kForm.groups == 2) {
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) sums[r] = SumStart<kType>(*x[r], at, 1);
    AddLines<kType, kRows, kGroupLines, kBlockLines>(block, s.shift, codes, sums);
    AddScaled<kType, kRows>(s, 1, sums, x, at, acc);
  }
}

// kPanels panels times kRows rows of x. Panels take turns block by block: memory serves several
// streams faster than one (docs/benchmarks.md).
template <DType kType, int kRows, int kPanels>
static void PanelTile(const PanelArgs& a, const std::byte* panel, const QuantRow* const* x,
                      float* y) {
  constexpr PackedForm kForm = FormOf(kType);
  const int64_t panel_bytes = a.layout->panel_bytes;
  F32x16 acc[kPanels][kRows];
  TANDEM_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r) acc[p][r] = Set(0.0f);
  }
  int64_t at = 0;  // block
  const std::byte* end = panel + panel_bytes;
  for (const std::byte* head = panel; head < end; head += kForm.group_bytes()) {
    GroupScales group[kPanels];
    TANDEM_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      PrefetchLines<kForm.head_bytes() / kLineBytes>(head + p * panel_bytes + kPrefetchBytes);
      group[p] = LoadGroupScales<kType>(head + p * panel_bytes);
    }
    for (int64_t b = 0; b < kForm.group_blocks(); ++b, ++at) {
      TANDEM_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        AddBlock<kType, kRows>(head + p * panel_bytes, group[p], b, x, at, acc[p]);
      }
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
static void PanelRows(const PanelArgs& a, const QuantRow* const* x, float* y) {
  constexpr int kStreams = PanelStreams(kRows);
  const int64_t panel_bytes = a.layout->panel_bytes;
  int64_t p = 0;
  for (; p + kStreams <= a.panels; p += kStreams) {
    PanelTile<kType, kRows, kStreams>(a, a.panel + p * panel_bytes, x, y + 16 * p);
  }
  for (; p < a.panels; ++p) {
    PanelTile<kType, kRows, 1>(a, a.panel + p * panel_bytes, x, y + 16 * p);
  }
}

template <DType kType, int kRows>
static void PanelRest(const PanelArgs& a, int64_t rows, const QuantRow* const* x, float* y) {
  if (rows == kRows) {
    PanelRows<kType, kRows>(a, x, y);
  } else if constexpr (kRows > 1) {
    PanelRest<kType, kRows - 1>(a, rows, x, y);
  }
}

template <DType kType>
static void PanelCodesBody(const PanelArgs& a) {
  for (int64_t r = 0; r < a.rows; r += kPanelRowsOfX) {
    const int64_t rows = a.rows - r < kPanelRowsOfX ? a.rows - r : kPanelRowsOfX;
    PanelRest<kType, kPanelRowsOfX>(a, rows, a.quant_x + r, a.y + r * a.y_stride);
  }
}

// --- Values: f32 lines, one a column.

template <DType kType, int kJ>
TANDEM_LANE void StoreValues(const std::byte* block, const BlockScales& s, float* out) {
  if constexpr (kJ < kBlockLines) {
    constexpr PackedForm kForm = FormOf(kType);
    constexpr int kG = kForm.groups == 2 ? kJ / 4 : 0;
    const I32x16 four = LineAsI32(CodesOf<kType, kJ>(block, s.shift));
    const I32x16 codes[4] = {AndI(four, 255), AndI(ShrI<8>(four), 255), AndI(ShrI<16>(four), 255),
                             ShrI<24>(four)};
    TANDEM_UNROLL
    for (int i = 0; i < 4; ++i) {
      F32x16 value = Mul(s.scale[kG], ToFloat(SubI(codes[i], SetI(kForm.zero))));
      if constexpr (kForm.has_mins()) value = Sub(value, s.min[kG]);
      Store(out + 16 * (4 * kJ + i), value);
    }
    StoreValues<kType, kJ + 1>(block, s, out);
  }
}

template <DType kType>
static void UnpackValues(const PackedLayout& layout, const std::byte* panel, float* out) {
  constexpr PackedForm kForm = FormOf(kType);
  const std::byte* end = panel + layout.panel_bytes;
  for (const std::byte* head = panel; head < end; head += kForm.group_bytes()) {
    const GroupScales group = LoadGroupScales<kType>(head);
    const std::byte* block = head + kForm.head_bytes();
    for (int64_t b = 0; b < kForm.group_blocks(); ++b, block += kForm.block_bytes()) {
      StoreValues<kType, 0>(block, LoadBlockScales<kType>(head, group, b), out);
      out += kBlockCols * 16;
    }
  }
}
