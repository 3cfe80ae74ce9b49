// Sixteen lanes as one 512-bit register (AVX-512 F, BW, DQ, VL). Meanings: isa/lanes_scalar.inl.
// Included inside an instruction set's namespace and target region.

struct F32x16 {
  __m512 v;
};
struct I32x16 {
  __m512i v;
};

// Of 32 registers: 24 sums, 4 of weights, 1 of x.
constexpr int kLinearTileRows = 6;
constexpr int kLinearTileOuts = 4;

TANDEM_LANE F32x16 Set(float value) { return {_mm512_set1_ps(value)}; }
TANDEM_LANE F32x16 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
TANDEM_LANE void Store(float* p, const F32x16& a) { _mm512_storeu_ps(p, a.v); }
TANDEM_LANE F32x16 LoadBf16(const uint16_t* p) {
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16))};
}
TANDEM_LANE F32x16 Add(const F32x16& a, const F32x16& b) { return {_mm512_add_ps(a.v, b.v)}; }
TANDEM_LANE F32x16 Sub(const F32x16& a, const F32x16& b) { return {_mm512_sub_ps(a.v, b.v)}; }
TANDEM_LANE F32x16 Mul(const F32x16& a, const F32x16& b) { return {_mm512_mul_ps(a.v, b.v)}; }
TANDEM_LANE F32x16 Div(const F32x16& a, const F32x16& b) { return {_mm512_div_ps(a.v, b.v)}; }
TANDEM_LANE F32x16 Fma(const F32x16& a, const F32x16& b, const F32x16& c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
TANDEM_LANE F32x16 Negate(const F32x16& a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
TANDEM_LANE F32x16 IfGreater(const F32x16& a, const F32x16& b, const F32x16& yes,
                             const F32x16& no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), no.v, yes.v)};
}
TANDEM_LANE I32x16 Bits(const F32x16& a) { return {_mm512_castps_si512(a.v)}; }
TANDEM_LANE F32x16 FromBits(const I32x16& a) { return {_mm512_castsi512_ps(a.v)}; }
TANDEM_LANE I32x16 SetI(int32_t value) { return {_mm512_set1_epi32(value)}; }
TANDEM_LANE I32x16 AddI(const I32x16& a, const I32x16& b) { return {_mm512_add_epi32(a.v, b.v)}; }
TANDEM_LANE I32x16 SubI(const I32x16& a, const I32x16& b) { return {_mm512_sub_epi32(a.v, b.v)}; }
TANDEM_LANE I32x16 HalveI(const I32x16& a) { return {_mm512_srai_epi32(a.v, 1)}; }
TANDEM_LANE I32x16 ToExponentI(const I32x16& a) { return {_mm512_slli_epi32(a.v, 23)}; }
TANDEM_LANE float ReduceSum(const F32x16& a) {
  const __m256 t8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 t4 = _mm_add_ps(_mm256_castps256_ps128(t8), _mm256_extractf128_ps(t8, 1));
  const __m128 t2 = _mm_add_ps(t4, _mm_movehl_ps(t4, t4));
  return _mm_cvtss_f32(_mm_add_ss(t2, _mm_shuffle_ps(t2, t2, 1)));
}

TANDEM_LANE F32x16 LoadF16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
#include "lib/kernels/isa/codes_256.inl"

// (code - 128) * scale as bf16 in the upper halves, to nearest even.
TANDEM_LANE __m512i Marlin8(const uint8_t* codes, __m512 scale) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  const __m512i whole = _mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(128));
  const __m512i bits = _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(whole), scale));
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
}
TANDEM_LANE void StoreMarlin8(const uint8_t* codes, float scale, uint16_t* out) {
  const __m512 s = _mm512_set1_ps(scale);
  const __m512i words = _mm512_packus_epi32(_mm512_srli_epi32(Marlin8(codes, s), 16),
                                            _mm512_srli_epi32(Marlin8(codes + 16, s), 16));
  // Packing takes four words of either in turns.
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  _mm512_storeu_si512(out, _mm512_permutexvar_epi64(order, words));
}
#include "lib/kernels/isa/lines_avx512.inl"
