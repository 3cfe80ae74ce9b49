// Products of a line of codes with four activations, by VNNI: exact for all 256 codes.

constexpr bool kWideCodesAreSigned = false;

template <bool kWide>
TANDEM_LANE I32x16 DotLine(const I32x16& acc, const Line& line, const int8_t* x) {
  return {_mm512_dpbusd_epi32(acc.v, line.v, _mm512_set1_epi32(LoadFour(x)))};
}
