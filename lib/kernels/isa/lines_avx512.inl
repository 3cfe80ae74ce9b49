// Lines of 64 bytes as one 512-bit register. Meanings: isa/lines_scalar.inl. Included inside an
// instruction set's namespace and target region after its lanes.

struct Line {
  __m512i v;
};

// Of 32 registers: sums and float sums of eight rows take 16, lines and scales the rest.
constexpr int kPanelRowsOfX = 4;
constexpr int kTileRowsOfX = 8;
// Two chains and a sum a row, two halves of a line.
constexpr int kFloatRowsOfX = 8;
constexpr int kPanelStreams = 4;

TANDEM_LANE Line LoadLine(const std::byte* p) { return {_mm512_loadu_si512(p)}; }
TANDEM_LANE void StoreLine(std::byte* p, const Line& a) { _mm512_storeu_si512(p, a.v); }
TANDEM_LANE Line ZeroLine() { return {_mm512_setzero_si512()}; }
template <int kBits>
TANDEM_LANE Line ShrLine(const Line& a) {
  if constexpr (kBits == 0) return a;
  return {_mm512_srli_epi16(a.v, kBits)};
}
template <int kBits>
TANDEM_LANE Line ShlLine(const Line& a) {
  if constexpr (kBits == 0) return a;
  return {_mm512_slli_epi16(a.v, kBits)};
}
TANDEM_LANE __m512i Bytes(uint8_t value) { return _mm512_set1_epi8(static_cast<char>(value)); }
TANDEM_LANE Line AndLine(const Line& a, uint8_t mask) {
  return {_mm512_and_si512(a.v, Bytes(mask))};
}
// 0xea is the truth table of (a & b) | c.
TANDEM_LANE Line AndOrLine(const Line& a, uint8_t mask, const Line& b) {
  return {_mm512_ternarylogic_epi32(a.v, Bytes(mask), b.v, 0xea)};
}
TANDEM_LANE Line SubLine(const Line& a, uint8_t value) {
  return {_mm512_sub_epi8(a.v, Bytes(value))};
}
TANDEM_LANE Line LevelsOf(const uint8_t* levels, const Line& a) {
  const __m512i table =
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)));
  return {_mm512_shuffle_epi8(table, a.v)};
}
TANDEM_LANE Line SpreadLowBytes(const I32x16& a) {
  const __m512i low =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
  return {_mm512_shuffle_epi8(a.v, low)};
}
TANDEM_LANE I32x16 LineAsI32(const Line& a) { return {a.v}; }

TANDEM_LANE I32x16 LoadU8(const std::byte* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
TANDEM_LANE I32x16 LoadI8(const std::byte* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
TANDEM_LANE F32x16 ToFloat(const I32x16& a) { return {_mm512_cvtepi32_ps(a.v)}; }
TANDEM_LANE I32x16 AndI(const I32x16& a, int32_t mask) {
  return {_mm512_and_si512(a.v, _mm512_set1_epi32(mask))};
}
TANDEM_LANE I32x16 OrI(const I32x16& a, const I32x16& b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int kBits>
TANDEM_LANE I32x16 ShrI(const I32x16& a) {
  return {_mm512_srli_epi32(a.v, kBits)};
}
template <int kBits>
TANDEM_LANE I32x16 ShlI(const I32x16& a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
TANDEM_LANE F32x16 NegFma(const F32x16& a, const F32x16& b, const F32x16& c) {
  return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}
