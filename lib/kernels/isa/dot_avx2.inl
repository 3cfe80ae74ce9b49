// Products of a line of codes with four activations, by the saturating 8-bit multiply-add. A pair
// of products is at most 2 * 128 * 127 = 32512, so nothing saturates: codes reach 128 at most, and
// wide ones come as signed bytes whose magnitude does.

constexpr bool kWideCodesAreSigned = true;

template <bool kWide>
TANDEM_LANE __m256i DotLine8(__m256i acc, __m256i line, __m256i x) {
  const __m256i pairs = kWide
                            ? _mm256_maddubs_epi16(_mm256_abs_epi8(line), _mm256_sign_epi8(x, line))
                            : _mm256_maddubs_epi16(line, x);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
template <bool kWide>
TANDEM_LANE I32x16 DotLine(const I32x16& acc, const Line& line, const int8_t* x) {
  const __m256i four = _mm256_set1_epi32(LoadFour(x));
  return {DotLine8<kWide>(acc.lo, line.lo, four), DotLine8<kWide>(acc.hi, line.hi, four)};
}
