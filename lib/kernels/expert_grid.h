// The grid on which expert outputs are added. A token's routed output is a sum over its top-k
// experts, and float addition depends on the order, so each expert's weighted f32 output is rounded
// to an integer multiple of one step 2^s, s chosen per row by the caller, and the integers are
// added: any grouping of experts over workers gives the same bits (Demmel and Nguyen, "Parallel
// Reproducible Summation", 2015).
//
// How far the grid reaches. One term may be at most GridLimit(top_k) steps:
//   top_k <= 15: 2^27, since 15 * 2^27 = 2013265920 < 2^31;
//   more:        the largest 2^b with top_k * 2^b < 2^31 (top_k 16..31: 2^26, 32..63: 2^25 ...).
// All partial sums, on a worker and over workers, have at most top_k terms, so no int32 can
// overflow.
//
// How fine it is. The step is chosen so that GridLimit steps cover kGridReach times layer_constant
// times the largest |x| of the row. With 2^27 steps, reach 64 and layer constant 1 one step is at
// most 2 * 64 * max|x| / 2^27 = 2^-20 max|x| (the factor 2 comes from rounding the exponent up),
// and rounding a term to the nearest step costs half of that: 4.8e-7 max|x|, below half a unit in
// the last place of bf16 (2^-9) of anything above 2.4e-4 max|x|. A term beyond the grid is not
// clamped but flagged.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace tandem::kernels {

// The grid covers expert outputs up to this multiple of the row's largest |x|; what is larger is
// asked again in f32.
inline constexpr float kGridReach = 64.0f;

// Steps outside this range never occur: 2^-s stays a normal f32, so that scaling by it is exact.
inline constexpr int kGridExponentMin = -100;
inline constexpr int kGridExponentMax = 100;

// log2 of the most steps one term may have; see above. top_k is the model's experts per token,
// >= 1.
constexpr int GridBits(int top_k) {
  int bits = 27;
  while (bits > 0 && (static_cast<int64_t>(top_k) << bits) >= (int64_t{1} << 31)) --bits;
  return bits;
}
constexpr int32_t GridLimit(int top_k) { return int32_t{1} << GridBits(top_k); }

// The exponent s of a row: the smallest with GridLimit(top_k) * 2^s >= kGridReach * layer_constant
// * x_abs_max, within the range above. x_abs_max is the largest |x| of the row as sent (after
// rounding to the wire's format); layer_constant > 0 is a property of the layer (1 unless the
// model's weights are known to need another). A row of zeros gets the finest grid; a row with an
// infinity or NaN the coarsest, and all its values are flagged by the encoder.
inline int GridExponent(float x_abs_max, float layer_constant, int top_k) {
  const double reach = static_cast<double>(kGridReach) * layer_constant * x_abs_max;
  if (!(reach < HUGE_VAL)) return kGridExponentMax;
  if (reach <= 0.0) return kGridExponentMin;
  int exponent = 0;
  const double mantissa =
      std::frexp(reach, &exponent);  // reach = mantissa * 2^exponent, mantissa in [0.5, 1)
  if (mantissa == 0.5) --exponent;   // a power of two needs no rounding up
  const int s = exponent - GridBits(top_k);
  return s < kGridExponentMin ? kGridExponentMin : s > kGridExponentMax ? kGridExponentMax : s;
}

// 2^s as f32, exact for s in the range above.
constexpr float GridStep(int s) {
  return std::bit_cast<float>(static_cast<uint32_t>(s + 127) << 23);
}

struct GridTerm {
  int32_t steps = 0;
  bool inside = false;  // false: beyond `limit` steps or not finite; steps is 0 then
};

// round(value / 2^s) to nearest even. `value` is an expert's output times its router weight,
// rounded to f32 once.
inline GridTerm GridEncode(float value, int s, int32_t limit) {
  const float scaled =
      value * GridStep(-s);  // exact, or so small that it rounds to 0, or infinite and flagged
  if (!(std::fabs(scaled) <= static_cast<float>(limit))) return {};
  // std::nearbyint in the default rounding mode; |scaled| <= 2^27 fits an int32.
  return {static_cast<int32_t>(std::nearbyint(scaled)), true};
}

// The value of a sum of steps, rounded to f32 once (the product is exact in double).
inline float GridDecode(int32_t steps, int s) {
  return static_cast<float>(static_cast<double>(steps) * GridStep(s));
}

}  // namespace tandem::kernels
