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

// 32 low and 32 high bytes, both in the order 0-7, 16-23, 8-15, 24-31, as 32 words in order.
TANDEM_LANE void StoreWords(__m256i low, __m256i high, uint16_t* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_unpacklo_epi8(low, high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16), _mm256_unpackhi_epi8(low, high));
}
constexpr int kSwapMiddleWords = 0xd8;  // quarters 0, 2, 1, 3
TANDEM_LANE __m256i TwiceTable(__m128i table) { return _mm256_broadcastsi128_si256(table); }
// The upper byte of a normal number's bf16 is sign, then 60 + exponent / 2: a table of the upper
// half of the code. The lower byte is the lower half of the code (last bit of the exponent,
// mantissa) moved up. Small codes have tables of their own.
TANDEM_LANE void StoreFp8(const uint8_t* codes, uint16_t* out) {
  const __m256i high_of = TwiceTable(
      _mm_setr_epi8(60, 61, 62, 63, 64, 65, 66, 67, -68, -67, -66, -65, -64, -63, -62, -61));
  const __m256i small_high = TwiceTable(
      _mm_setr_epi8(0, 0x3b, 0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, 0, 0, 0, 0, 0, 0, 0, 0));
  const __m256i small_low =
      TwiceTable(_mm_setr_epi8(0, 0, static_cast<char>(0x80), static_cast<char>(0xc0), 0, 0x20,
                               0x40, 0x60, 0, 0, 0, 0, 0, 0, 0, 0));
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i all = _mm256_permute4x64_epi64(
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)), kSwapMiddleWords);
  const __m256i magnitude = _mm256_and_si256(all, _mm256_set1_epi8(127));
  const __m256i small = _mm256_cmpgt_epi8(_mm256_set1_epi8(8), magnitude);
  const __m256i high =
      _mm256_shuffle_epi8(high_of, _mm256_and_si256(_mm256_srli_epi16(all, 4), nibble));
  const __m256i low = _mm256_slli_epi16(_mm256_and_si256(all, nibble), 4);
  const __m256i sign = _mm256_andnot_si256(_mm256_set1_epi8(127), all);
  const __m256i high_if_small = _mm256_or_si256(_mm256_shuffle_epi8(small_high, magnitude), sign);
  StoreWords(_mm256_blendv_epi8(low, _mm256_shuffle_epi8(small_low, magnitude), small),
             _mm256_blendv_epi8(high, high_if_small, small), out);
}
// bf16 bits of finite values in the upper halves, to nearest even.
TANDEM_LANE __m256i RoundedToUpper(__m256 value) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
}
// Sixteen finite values as bf16, in order.
TANDEM_LANE __m256i NarrowFinite16(__m256 first, __m256 second) {
  const __m256i words = _mm256_packus_epi32(_mm256_srli_epi32(RoundedToUpper(first), 16),
                                            _mm256_srli_epi32(RoundedToUpper(second), 16));
  return _mm256_permute4x64_epi64(words, kSwapMiddleWords);
}
TANDEM_LANE void StoreMarlin4(const uint8_t* packed, float scale, int64_t chunks, uint16_t* out) {
  const __m256 s = _mm256_set1_ps(scale);
  const __m256i levels =
      NarrowFinite16(_mm256_mul_ps(_mm256_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1), s),
                     _mm256_mul_ps(_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), s));
  // Low bytes of the sixteen words, then high bytes.
  const __m256i halves = _mm256_permute4x64_epi64(
      _mm256_shuffle_epi8(
          levels, TwiceTable(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15))),
      kSwapMiddleWords);
  const __m256i low_of = TwiceTable(_mm256_castsi256_si128(halves));
  const __m256i high_of = TwiceTable(_mm256_extracti128_si256(halves, 1));
  for (int64_t c = 0; c < chunks; ++c) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed + 16 * c));
    const __m256i codes =
        _mm256_and_si256(_mm256_permute4x64_epi64(_mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes),
                                                  kSwapMiddleWords),
                         _mm256_set1_epi8(15));
    StoreWords(_mm256_shuffle_epi8(low_of, codes), _mm256_shuffle_epi8(high_of, codes),
               out + 32 * c);
  }
}
