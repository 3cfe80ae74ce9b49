// Lines of 64 bytes as two 256-bit registers. Meanings: isa/lines_scalar.inl. Included inside an
// instruction set's namespace and target region after its lanes.

struct Line {
  __m256i lo, hi;
};

// Of 16 registers: sums and float sums of two rows take 8, a line 2.
constexpr int kPanelRowsOfX = 2;
constexpr int kTileRowsOfX = 2;
constexpr int kFloatRowsOfX = 1;
constexpr int kPanelStreams = 1;

TANDEM_LANE Line LoadLine(const std::byte* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
TANDEM_LANE void StoreLine(std::byte* p, const Line& a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), a.hi);
}
TANDEM_LANE Line ZeroLine() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
template <int kBits>
TANDEM_LANE Line ShrLine(const Line& a) {
  if constexpr (kBits == 0) return a;
  return {_mm256_srli_epi16(a.lo, kBits), _mm256_srli_epi16(a.hi, kBits)};
}
template <int kBits>
TANDEM_LANE Line ShlLine(const Line& a) {
  if constexpr (kBits == 0) return a;
  return {_mm256_slli_epi16(a.lo, kBits), _mm256_slli_epi16(a.hi, kBits)};
}
TANDEM_LANE __m256i Bytes(uint8_t value) { return _mm256_set1_epi8(static_cast<char>(value)); }
TANDEM_LANE Line AndLine(const Line& a, uint8_t mask) {
  return {_mm256_and_si256(a.lo, Bytes(mask)), _mm256_and_si256(a.hi, Bytes(mask))};
}
TANDEM_LANE Line AndOrLine(const Line& a, uint8_t mask, const Line& b) {
  const Line masked = AndLine(a, mask);
  return {_mm256_or_si256(masked.lo, b.lo), _mm256_or_si256(masked.hi, b.hi)};
}
TANDEM_LANE Line SubLine(const Line& a, uint8_t value) {
  return {_mm256_sub_epi8(a.lo, Bytes(value)), _mm256_sub_epi8(a.hi, Bytes(value))};
}
TANDEM_LANE Line LevelsOf(const uint8_t* levels, const Line& a) {
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)));
  return {_mm256_shuffle_epi8(table, a.lo), _mm256_shuffle_epi8(table, a.hi)};
}
TANDEM_LANE __m256i LowBytes8(__m256i a) {
  return _mm256_shuffle_epi8(
      a, _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 0, 0, 0, 0, 4, 4, 4,
                          4, 8, 8, 8, 8, 12, 12, 12, 12));
}
TANDEM_LANE Line SpreadLowBytes(const I32x16& a) { return {LowBytes8(a.lo), LowBytes8(a.hi)}; }
TANDEM_LANE I32x16 LineAsI32(const Line& a) { return {a.lo, a.hi}; }

TANDEM_LANE __m128i Load8Bytes(const std::byte* p) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
}
TANDEM_LANE I32x16 LoadU8(const std::byte* p) {
  return {_mm256_cvtepu8_epi32(Load8Bytes(p)), _mm256_cvtepu8_epi32(Load8Bytes(p + 8))};
}
TANDEM_LANE I32x16 LoadI8(const std::byte* p) {
  return {_mm256_cvtepi8_epi32(Load8Bytes(p)), _mm256_cvtepi8_epi32(Load8Bytes(p + 8))};
}
TANDEM_LANE F32x16 ToFloat(const I32x16& a) {
  return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}
TANDEM_LANE I32x16 AndI(const I32x16& a, int32_t mask) {
  const __m256i m = _mm256_set1_epi32(mask);
  return {_mm256_and_si256(a.lo, m), _mm256_and_si256(a.hi, m)};
}
TANDEM_LANE I32x16 OrI(const I32x16& a, const I32x16& b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
template <int kBits>
TANDEM_LANE I32x16 ShrI(const I32x16& a) {
  return {_mm256_srli_epi32(a.lo, kBits), _mm256_srli_epi32(a.hi, kBits)};
}
template <int kBits>
TANDEM_LANE I32x16 ShlI(const I32x16& a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}
TANDEM_LANE F32x16 NegFma(const F32x16& a, const F32x16& b, const F32x16& c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
