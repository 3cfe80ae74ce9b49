// Integer products of 64 codes with AVX-512 BW: as in AVX2 the unsigned operand is |w|, and x is
// negated where w is negative.

struct WeightCodes {
  __m512i magnitude;
  __mmask64 negative;
};
struct RowCodes {
  __m512i v;
};
TANDEM_LANE WeightCodes LoadWeightCodes(const int8_t* p) {
  const __m512i w = _mm512_loadu_si512(p);
  return {_mm512_abs_epi8(w), _mm512_movepi8_mask(w)};
}
TANDEM_LANE RowCodes LoadRowCodes(const int8_t* p) { return {_mm512_loadu_si512(p)}; }
// A pair sums to at most 2 * 128 * 127 = 32512: the 16-bit sums never saturate.
TANDEM_LANE F32x16 DotCodes(const WeightCodes& w, const RowCodes& x) {
  const __m512i signed_x = _mm512_mask_sub_epi8(x.v, w.negative, _mm512_setzero_si512(), x.v);
  const __m512i pairs = _mm512_maddubs_epi16(w.magnitude, signed_x);
  return {_mm512_cvtepi32_ps(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
