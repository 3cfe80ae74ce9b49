// Integer products of 64 codes with VNNI: x + 128 is the unsigned operand, and the sum starts at
// -128 times the weights' sum, so that the result is the exact sum of w * x (at most 4 * 128 * 255
// in between: no overflow).

struct WeightCodes {
  __m512i v;
  __m512i start;
};
struct RowCodes {
  __m512i biased;
};
TANDEM_LANE WeightCodes LoadWeightCodes(const int8_t* p) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i w = _mm512_loadu_si512(p);
  return {w, _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(-128), w))};
}
TANDEM_LANE RowCodes LoadRowCodes(const int8_t* p) {
  return {_mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128))};
}
TANDEM_LANE F32x16 DotCodes(const WeightCodes& w, const RowCodes& x) {
  return {_mm512_cvtepi32_ps(_mm512_dpbusd_epi32(w.start, x.biased, w.v))};
}
