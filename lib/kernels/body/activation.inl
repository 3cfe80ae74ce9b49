// exp and what is made of it, one polynomial for all instruction sets. Included inside an
// instruction set's namespace after its lanes.

// exp(x) = 2^n exp(r), n = round(x / ln 2), r = x - n ln 2 in two steps, |r| <= ln 2 / 2. The
// polynomial is the Taylor series to r^7: the first term left out is below 0.3466^8 / 8! = 5.2e-9,
// a twelfth of a unit in the last place of an f32 near 1.
TANDEM_LANE F32x16 ExpLanes(const F32x16& x) {
  // Adding 1.5 * 2^23 leaves no fraction bits: the sum's low bits are round-to-nearest-even of x /
  // ln 2.
  const F32x16 magic = Set(12582912.0f);
  const F32x16 shifted = Fma(x, Set(1.44269504088896341f), magic);
  const F32x16 n = Sub(shifted, magic);
  // ln 2 = 0.693145751953125 (16 bits, so n times it is exact) + 1.428606820309417e-6.
  const F32x16 r = Fma(n, Set(-1.428606820309417e-6f), Fma(n, Set(-0.693145751953125f), x));
  F32x16 p = Set(1.0f / 5040.0f);
  p = Fma(p, r, Set(1.0f / 720.0f));
  p = Fma(p, r, Set(1.0f / 120.0f));
  p = Fma(p, r, Set(1.0f / 24.0f));
  p = Fma(p, r, Set(1.0f / 6.0f));
  p = Fma(p, r, Set(0.5f));
  p = Fma(p, r, Set(1.0f));
  p = Fma(p, r, Set(1.0f));
  // 2^n in two factors, since n reaches 128 where a single exponent field ends at 127.
  const I32x16 exponent = SubI(Bits(shifted), Bits(magic));
  const I32x16 half = HalveI(exponent);
  const I32x16 rest = SubI(exponent, half);
  const I32x16 bias = SetI(127);
  p = Mul(p, FromBits(ToExponentI(AddI(half, bias))));
  p = Mul(p, FromBits(ToExponentI(AddI(rest, bias))));
  p = IfGreater(x, Set(88.7f), FromBits(SetI(0x7f800000)), p);
  return IfGreater(Set(-87.3f), x, Set(0.0f), p);
}

TANDEM_LANE F32x16 SigmoidLanes(const F32x16& x) {
  const F32x16 one = Set(1.0f);
  return Div(one, Add(one, ExpLanes(Negate(x))));
}

TANDEM_LANE F32x16 SwiGluLanes(const F32x16& gate, const F32x16& up) {
  return Mul(Div(gate, Add(Set(1.0f), ExpLanes(Negate(gate)))), up);
}

static void ExpShiftedBody(const float* x, float shift, float* out, int64_t n) {
  const F32x16 s = Set(shift);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) Store(out + i, ExpLanes(Sub(Load(x + i), s)));
  if (i < n) {
    float last[16];
    Store(last, ExpLanes(Sub(LoadFirst(x + i, n - i), s)));
    __builtin_memcpy(out + i, last, (n - i) * sizeof(float));
  }
}

static void SwiGluBody(const float* gate, const float* up, float* out, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) Store(out + i, SwiGluLanes(Load(gate + i), Load(up + i)));
  if (i < n) {
    float last[16];
    Store(last, SwiGluLanes(LoadFirst(gate + i, n - i), LoadFirst(up + i, n - i)));
    __builtin_memcpy(out + i, last, (n - i) * sizeof(float));
  }
}

static float SigmoidBody(float x) {
  float lanes[16];
  Store(lanes, SigmoidLanes(Set(x)));
  return lanes[0];
}
