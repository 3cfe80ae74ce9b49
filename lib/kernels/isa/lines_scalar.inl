// Lines of 64 bytes in portable C++: what the vector files must equal bit for bit. Included inside
// an instruction set's namespace after its lanes.

struct Line {
  uint8_t v[64];
};

// Rows of x that a packed-weight kernel works on at a time: rows and row tiles of int8, floats.
constexpr int kPanelRowsOfX = 1;
constexpr int kTileRowsOfX = 1;
constexpr int kFloatRowsOfX = 1;
// Panels read side by side by a single row.
constexpr int kPanelStreams = 1;
// True when DotLine wants codes above 128 as signed bytes (code - 128).
constexpr bool kWideCodesAreSigned = false;

TANDEM_LANE Line LoadLine(const std::byte* p) {
  Line r;
  __builtin_memcpy(r.v, p, sizeof(r.v));
  return r;
}
TANDEM_LANE void StoreLine(std::byte* p, const Line& a) { __builtin_memcpy(p, a.v, sizeof(a.v)); }
TANDEM_LANE Line ZeroLine() { return Line{}; }
// Shifts of bytes as part of 16-bit lanes: what crosses into a byte is masked away by the caller.
template <int kBits>
TANDEM_LANE Line ShrLine(const Line& a) {
  Line r;
  for (int i = 0; i < 64; ++i) r.v[i] = static_cast<uint8_t>(a.v[i] >> kBits);
  return r;
}
template <int kBits>
TANDEM_LANE Line ShlLine(const Line& a) {
  Line r;
  for (int i = 0; i < 64; ++i) r.v[i] = static_cast<uint8_t>(a.v[i] << kBits);
  return r;
}
TANDEM_LANE Line AndLine(const Line& a, uint8_t mask) {
  Line r;
  for (int i = 0; i < 64; ++i) r.v[i] = a.v[i] & mask;
  return r;
}
// (a & mask) | b.
TANDEM_LANE Line AndOrLine(const Line& a, uint8_t mask, const Line& b) {
  Line r;
  for (int i = 0; i < 64; ++i) r.v[i] = static_cast<uint8_t>((a.v[i] & mask) | b.v[i]);
  return r;
}
TANDEM_LANE Line SubLine(const Line& a, uint8_t value) {
  Line r;
  for (int i = 0; i < 64; ++i) r.v[i] = static_cast<uint8_t>(a.v[i] - value);
  return r;
}
// levels[a], a in 0..15.
TANDEM_LANE Line LevelsOf(const uint8_t* levels, const Line& a) {
  Line r;
  for (int i = 0; i < 64; ++i) r.v[i] = levels[a.v[i] & 15];
  return r;
}
// Lane l: the low byte of `a` in all four bytes.
TANDEM_LANE Line SpreadLowBytes(const I32x16& a) {
  Line r;
  for (int i = 0; i < 64; ++i) r.v[i] = static_cast<uint8_t>(a.v[i / 4]);
  return r;
}
TANDEM_LANE I32x16 LineAsI32(const Line& a) {
  I32x16 r;
  __builtin_memcpy(r.v, a.v, sizeof(r.v));
  return r;
}

// Sixteen bytes as integers.
TANDEM_LANE I32x16 LoadU8(const std::byte* p) {
  I32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = static_cast<int32_t>(p[l]);
  return r;
}
TANDEM_LANE I32x16 LoadI8(const std::byte* p) {
  I32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = static_cast<int8_t>(p[l]);
  return r;
}
TANDEM_LANE F32x16 ToFloat(const I32x16& a) {
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = static_cast<float>(a.v[l]);
  return r;
}
TANDEM_LANE I32x16 AndI(const I32x16& a, int32_t mask) {
  I32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = a.v[l] & mask;
  return r;
}
TANDEM_LANE I32x16 OrI(const I32x16& a, const I32x16& b) {
  I32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = a.v[l] | b.v[l];
  return r;
}
// Logical shifts.
template <int kBits>
TANDEM_LANE I32x16 ShrI(const I32x16& a) {
  I32x16 r;
  for (int l = 0; l < 16; ++l)
    r.v[l] = static_cast<int32_t>(static_cast<uint32_t>(a.v[l]) >> kBits);
  return r;
}
template <int kBits>
TANDEM_LANE I32x16 ShlI(const I32x16& a) {
  I32x16 r;
  for (int l = 0; l < 16; ++l)
    r.v[l] = static_cast<int32_t>(static_cast<uint32_t>(a.v[l]) << kBits);
  return r;
}
// c - a * b, rounded once.
TANDEM_LANE F32x16 NegFma(const F32x16& a, const F32x16& b, const F32x16& c) {
  F32x16 r;
  for (int l = 0; l < 16; ++l) r.v[l] = __builtin_fmaf(-a.v[l], b.v[l], c.v[l]);
  return r;
}

// Lane l: acc + the exact sum of products of line bytes 4l .. 4l+3 with x[0..3].
template <bool kWide>
TANDEM_LANE I32x16 DotLine(const I32x16& acc, const Line& line, const int8_t* x) {
  I32x16 r;
  for (int l = 0; l < 16; ++l) {
    int32_t sum = acc.v[l];
    for (int i = 0; i < 4; ++i) sum += int32_t{line.v[4 * l + i]} * int32_t{x[i]};
    r.v[l] = sum;
  }
  return r;
}
