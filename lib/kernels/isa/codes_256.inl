// Helpers on integer codes that gain nothing from 512 bits: shared by the AVX2 and AVX-512 files.
// Meanings: isa/lanes_scalar.inl. Included inside an instruction set's namespace and target region.

TANDEM_LANE float HalfToFloat(uint16_t half) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}
TANDEM_LANE void StoreLevels(const int8_t* levels, const uint8_t* packed, int8_t* out) {
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(levels));
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
  const __m128i low_nibble = _mm_set1_epi8(15);
  const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), low_nibble);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_shuffle_epi8(table, _mm_and_si128(bytes, low_nibble)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), _mm_shuffle_epi8(table, high));
}
TANDEM_LANE __m256i FourWords(const uint64_t* p) {
  return _mm256_set_epi64x(static_cast<int64_t>(p[3]), static_cast<int64_t>(p[2]),
                           static_cast<int64_t>(p[1]), static_cast<int64_t>(p[0]));
}
TANDEM_LANE void StoreWordsPlus(const uint64_t* words, const uint64_t* add, int8_t* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                      _mm256_add_epi8(FourWords(words), FourWords(add)));
}
// Four activations as one word, to be multiplied with four codes of every row.
TANDEM_LANE int32_t LoadFour(const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, sizeof(four));
  return four;
}
