// Sixteen lanes as two 256-bit registers (AVX2, FMA, F16C). Meanings: isa/lanes_scalar.inl.
// Included inside an instruction set's namespace and target region.

struct F32x16 {
  __m256 lo, hi;
};
struct I32x16 {
  __m256i lo, hi;
};

// Of 16 registers: 8 sums, 4 of weights, 2 of x.
constexpr int kLinearTileRows = 2;
constexpr int kLinearTileOuts = 2;

TANDEM_LANE F32x16 Set(float value) {
  const __m256 v = _mm256_set1_ps(value);
  return {v, v};
}
TANDEM_LANE F32x16 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
TANDEM_LANE void Store(float* p, const F32x16& a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
TANDEM_LANE __m256 Bf16ToF32x8(const uint16_t* p) {
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
}
TANDEM_LANE F32x16 LoadBf16(const uint16_t* p) { return {Bf16ToF32x8(p), Bf16ToF32x8(p + 8)}; }
TANDEM_LANE F32x16 Add(const F32x16& a, const F32x16& b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
TANDEM_LANE F32x16 Sub(const F32x16& a, const F32x16& b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
TANDEM_LANE F32x16 Mul(const F32x16& a, const F32x16& b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
TANDEM_LANE F32x16 Div(const F32x16& a, const F32x16& b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
TANDEM_LANE F32x16 Fma(const F32x16& a, const F32x16& b, const F32x16& c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
TANDEM_LANE F32x16 Negate(const F32x16& a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign)};
}
TANDEM_LANE F32x16 IfGreater(const F32x16& a, const F32x16& b, const F32x16& yes,
                             const F32x16& no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ)),
          _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ))};
}
TANDEM_LANE I32x16 Bits(const F32x16& a) {
  return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)};
}
TANDEM_LANE F32x16 FromBits(const I32x16& a) {
  return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)};
}
TANDEM_LANE I32x16 SetI(int32_t value) {
  const __m256i v = _mm256_set1_epi32(value);
  return {v, v};
}
TANDEM_LANE I32x16 AddI(const I32x16& a, const I32x16& b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
TANDEM_LANE I32x16 SubI(const I32x16& a, const I32x16& b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
TANDEM_LANE I32x16 HalveI(const I32x16& a) {
  return {_mm256_srai_epi32(a.lo, 1), _mm256_srai_epi32(a.hi, 1)};
}
TANDEM_LANE I32x16 ToExponentI(const I32x16& a) {
  return {_mm256_slli_epi32(a.lo, 23), _mm256_slli_epi32(a.hi, 23)};
}
// The tree from eight lanes down, shared in shape with the other files.
TANDEM_LANE float ReduceSum8(__m256 t8) {
  const __m128 t4 = _mm_add_ps(_mm256_castps256_ps128(t8), _mm256_extractf128_ps(t8, 1));
  const __m128 t2 = _mm_add_ps(t4, _mm_movehl_ps(t4, t4));
  return _mm_cvtss_f32(_mm_add_ss(t2, _mm_shuffle_ps(t2, t2, 1)));
}
TANDEM_LANE float ReduceSum(const F32x16& a) { return ReduceSum8(_mm256_add_ps(a.lo, a.hi)); }

TANDEM_LANE F32x16 LoadF16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
#include "lib/kernels/isa/codes_256.inl"

TANDEM_LANE __m256 Marlin8(const uint8_t* codes, __m256 scale) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  const __m256i whole = _mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(128));
  return _mm256_mul_ps(_mm256_cvtepi32_ps(whole), scale);
}
TANDEM_LANE void StoreMarlin8(const uint8_t* codes, float scale, uint16_t* out) {
  const __m256 s = _mm256_set1_ps(scale);
  for (int k = 0; k < 32; k += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k),
                        NarrowFinite16(Marlin8(codes + k, s), Marlin8(codes + k + 8, s)));
  }
}
#include "lib/kernels/isa/lines_avx2.inl"
