// Products of a line of codes with four activations, by AVX-VNNI: exact for all 256 codes.

constexpr bool kWideCodesAreSigned = false;

template <bool kWide>
TANDEM_LANE I32x16 DotLine(const I32x16& acc, const Line& line, const int8_t* x) {
  const __m256i four = _mm256_set1_epi32(LoadFour(x));
  return {_mm256_dpbusd_avx_epi32(acc.lo, line.lo, four),
          _mm256_dpbusd_avx_epi32(acc.hi, line.hi, four)};
}
