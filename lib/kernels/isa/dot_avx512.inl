// Products of a line of codes with four activations, by AVX-512 BW: as in dot_avx2.inl.

constexpr bool kWideCodesAreSigned = true;

template <bool kWide>
TANDEM_LANE I32x16 DotLine(const I32x16& acc, const Line& line, const int8_t* x) {
  const __m512i four = _mm512_set1_epi32(LoadFour(x));
  __m512i pairs;
  if constexpr (kWide) {
    const __m512i signed_x =
        _mm512_mask_sub_epi8(four, _mm512_movepi8_mask(line.v), _mm512_setzero_si512(), four);
    pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(line.v), signed_x);
  } else {
    pairs = _mm512_maddubs_epi16(line.v, four);
  }
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
