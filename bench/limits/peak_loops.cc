#include "bench/limits/peak_loops.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/base/check.h"

// Each loop is one block of assembler: left to the compiler, the many accumulators a full pipeline
// needs would be spilled to memory. They start from zero, since denormal numbers could slow a
// multiplication down. Sixteen chains cover four to five cycles of latency at two a cycle with room
// to spare.
#define TANDEM_TIMES_16(each)                                                              \
  each(0) each(1) each(2) each(3) each(4) each(5) each(6) each(7) each(8) each(9) each(10) \
      each(11) each(12) each(13) each(14) each(15)
#define TANDEM_TIMES_12(each) \
  each(0) each(1) each(2) each(3) each(4) each(5) each(6) each(7) each(8) each(9) each(10) each(11)

#define TANDEM_LOOP(setup, body) setup "1:\n\t" body "decq %0\n\tjnz 1b\n\t"

#define TANDEM_ZERO_ZMM(n) "vpxorq %%zmm" #n ",%%zmm" #n ",%%zmm" #n "\n\t"
#define TANDEM_ZERO_YMM(n) "vpxor %%ymm" #n ",%%ymm" #n ",%%ymm" #n "\n\t"
#define TANDEM_SETUP_ZMM TANDEM_TIMES_16(TANDEM_ZERO_ZMM) TANDEM_ZERO_ZMM(30) TANDEM_ZERO_ZMM(31)
#define TANDEM_SETUP_YMM \
  TANDEM_TIMES_12(TANDEM_ZERO_YMM) TANDEM_ZERO_YMM(13) TANDEM_ZERO_YMM(14) TANDEM_ZERO_YMM(15)

#define TANDEM_FMA_ZMM(n) "vfmadd231ps %%zmm30,%%zmm31,%%zmm" #n "\n\t"
#define TANDEM_VNNI_ZMM(n) "vpdpbusd %%zmm30,%%zmm31,%%zmm" #n "\n\t"
#define TANDEM_BF16_ZMM(n) "vdpbf16ps %%zmm30,%%zmm31,%%zmm" #n "\n\t"
#define TANDEM_FMA_YMM(n) "vfmadd231ps %%ymm14,%%ymm15,%%ymm" #n "\n\t"
#define TANDEM_VNNI_YMM(n) "%{vex%} vpdpbusd %%ymm14,%%ymm15,%%ymm" #n "\n\t"
// Bytes to words to dwords to a sum: what AVX2 without VNNI needs for the same four products.
#define TANDEM_MADD_YMM(n)                 \
  "vpmaddubsw %%ymm14,%%ymm15,%%ymm13\n\t" \
  "vpmaddwd %%ymm14,%%ymm13,%%ymm13\n\t"   \
  "vpaddd %%ymm13,%%ymm" #n ",%%ymm" #n "\n\t"

#define TANDEM_LOW_CLOBBERS                                                                \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc"

#define TANDEM_TARGET "avx2,fma"
#include "lib/kernels/isa/target_begin.h"
namespace tandem::bench::avx2 {

void Fma(int64_t turns) {
  asm volatile(TANDEM_LOOP(TANDEM_SETUP_YMM, TANDEM_TIMES_12(TANDEM_FMA_YMM))
               : "+r"(turns)
               :
               : TANDEM_LOW_CLOBBERS);
}

void Madd(int64_t turns) {
  asm volatile(TANDEM_LOOP(TANDEM_SETUP_YMM, TANDEM_TIMES_12(TANDEM_MADD_YMM))
               : "+r"(turns)
               :
               : TANDEM_LOW_CLOBBERS);
}

}  // namespace tandem::bench::avx2
#include "lib/kernels/isa/target_end.h"

#define TANDEM_TARGET "avx2,avxvnni"
#include "lib/kernels/isa/target_begin.h"
namespace tandem::bench::avx_vnni {

void Dot(int64_t turns) {
  asm volatile(TANDEM_LOOP(TANDEM_SETUP_YMM, TANDEM_TIMES_12(TANDEM_VNNI_YMM))
               : "+r"(turns)
               :
               : TANDEM_LOW_CLOBBERS);
}

}  // namespace tandem::bench::avx_vnni
#include "lib/kernels/isa/target_end.h"

#define TANDEM_TARGET "avx2,avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16"
#include "lib/kernels/isa/target_begin.h"
namespace tandem::bench::avx512 {

void Fma(int64_t turns) {
  asm volatile(TANDEM_LOOP(TANDEM_SETUP_ZMM, TANDEM_TIMES_16(TANDEM_FMA_ZMM))
               : "+r"(turns)
               :
               : TANDEM_LOW_CLOBBERS, "xmm30", "xmm31");
}

void Dot(int64_t turns) {
  asm volatile(TANDEM_LOOP(TANDEM_SETUP_ZMM, TANDEM_TIMES_16(TANDEM_VNNI_ZMM))
               : "+r"(turns)
               :
               : TANDEM_LOW_CLOBBERS, "xmm30", "xmm31");
}

void DotBf16(int64_t turns) {
  asm volatile(TANDEM_LOOP(TANDEM_SETUP_ZMM, TANDEM_TIMES_16(TANDEM_BF16_ZMM))
               : "+r"(turns)
               :
               : TANDEM_LOW_CLOBBERS, "xmm30", "xmm31");
}

}  // namespace tandem::bench::avx512
#include "lib/kernels/isa/target_end.h"

// Four accumulators and two operands of each side, as a product of 2 x 2 tiles has them.
#define TANDEM_ZERO_TILES                                     \
  "tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\t" \
  "tilezero %%tmm3\n\ttilezero %%tmm4\n\ttilezero %%tmm5\n\t" \
  "tilezero %%tmm6\n\ttilezero %%tmm7\n\t"
#define TANDEM_FOUR_TILES(instruction)                                                        \
  instruction " %%tmm6,%%tmm4,%%tmm0\n\t" instruction " %%tmm7,%%tmm4,%%tmm1\n\t" instruction \
              " %%tmm6,%%tmm5,%%tmm2\n\t" instruction " %%tmm7,%%tmm5,%%tmm3\n\t"

#define TANDEM_TARGET "amx-tile,amx-int8,amx-bf16"
#include "lib/kernels/isa/target_begin.h"
namespace tandem::bench::amx {

// Layout of LDTILECFG's operand: Intel SDM, volume 2, LDTILECFG, palette 1.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

constexpr int kTiles = 8, kTileRows = 16, kTileRowBytes = 64;

TileConfig FullTiles() {
  TileConfig config;
  for (int i = 0; i < kTiles; ++i) {
    config.row_bytes[i] = kTileRowBytes;
    config.rows[i] = kTileRows;
  }
  return config;
}

void DotInt8(int64_t turns) {
  const TileConfig config = FullTiles();
  asm volatile("ldtilecfg %1\n\t" TANDEM_LOOP(TANDEM_ZERO_TILES,
                                              TANDEM_FOUR_TILES("tdpbssd")) "tilerelease\n\t"
               : "+r"(turns)
               : "m"(config)
               : "cc");
}

void DotBf16(int64_t turns) {
  const TileConfig config = FullTiles();
  asm volatile("ldtilecfg %1\n\t" TANDEM_LOOP(TANDEM_ZERO_TILES,
                                              TANDEM_FOUR_TILES("tdpbf16ps")) "tilerelease\n\t"
               : "+r"(turns)
               : "m"(config)
               : "cc");
}

}  // namespace tandem::bench::amx
#include "lib/kernels/isa/target_end.h"

namespace tandem::bench {
namespace {

constexpr int64_t kZmmTurns = 16, kYmmTurns = 12, kTileTurns = 4;  // instructions in a turn
constexpr int64_t kZmmF32 = 16, kYmmF32 = 8;                       // lanes
constexpr int64_t kTileMacsBytes = 16 * 16 * 64;                   // multiply-adds, int8

// Linux hands the tiles' state out on request (Documentation/x86/xstate.rst); threads inherit it.
bool RequestTiles() {
  constexpr long kRequestComponent = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;              // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestComponent, kTileData) == 0;
}

// Bits of CPUID leaf 7: asked directly, because compilers differ in the names they know.
struct Features {
  bool avx2 = false, avx512 = false, avx512_vnni = false, avx512_bf16 = false, avx_vnni = false;
  bool amx_int8 = false, amx_bf16 = false;
};

Features ReadFeatures() {
  Features found;
  unsigned a = 0, b = 0, c = 0, d = 0;
  __builtin_cpu_init();
  found.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  found.avx512 = found.avx2 && __builtin_cpu_supports("avx512f") &&
                 __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) {
    found.avx512_vnni = found.avx512 && (c >> 11 & 1) != 0;
    found.amx_bf16 = (d >> 22 & 1) != 0;
    found.amx_int8 = (d >> 25 & 1) != 0;
  }
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) {
    found.avx_vnni = found.avx2 && (a >> 4 & 1) != 0;
    found.avx512_bf16 = found.avx512 && (a >> 5 & 1) != 0;
  }
  return found;
}

}  // namespace

std::vector<PeakLoop> SupportedPeakLoops() {
  const Features has = ReadFeatures();
  std::vector<PeakLoop> loops;
  const auto add = [&loops](bool supported, const PeakLoop& loop) {
    if (supported) loops.push_back(loop);
  };
  using A = Arithmetic;
  add(has.avx512, {A::kFma, "vfmadd231ps zmm", kZmmTurns * kZmmF32 * 2, avx512::Fma});
  add(has.avx2, {A::kFma, "vfmadd231ps ymm", kYmmTurns * kYmmF32 * 2, avx2::Fma});
  add(has.avx512_vnni, {A::kInt8, "vpdpbusd zmm", kZmmTurns * kZmmF32 * 4 * 2, avx512::Dot});
  add(has.avx_vnni, {A::kInt8, "vpdpbusd ymm", kYmmTurns * kYmmF32 * 4 * 2, avx_vnni::Dot});
  add(has.avx2, {A::kInt8, "vpmaddubsw ymm", kYmmTurns * kYmmF32 * 4 * 2, avx2::Madd});
  add(has.avx512_bf16, {A::kBf16, "vdpbf16ps zmm", kZmmTurns * kZmmF32 * 2 * 2, avx512::DotBf16});
  add(has.amx_int8,
      {A::kAmxInt8, "tdpbssd", kTileTurns * kTileMacsBytes * 2, amx::DotInt8, RequestTiles});
  add(has.amx_bf16,
      {A::kAmxBf16, "tdpbf16ps", kTileTurns * kTileMacsBytes, amx::DotBf16, RequestTiles});
  return loops;
}

}  // namespace tandem::bench

#else

namespace tandem::bench {
std::vector<PeakLoop> SupportedPeakLoops() { return {}; }
}  // namespace tandem::bench

#endif
