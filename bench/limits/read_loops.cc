#include <cstring>

#include "bench/limits/read_bandwidth.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TANDEM_TARGET "avx2,avx512f"
#include "lib/kernels/isa/target_begin.h"
namespace tandem::bench::avx512 {

struct Lanes {
  using Type = __m512i;
  static Type Zero() { return _mm512_setzero_si512(); }
  static Type Or(Type a, const std::byte* b) { return _mm512_or_si512(a, _mm512_load_si512(b)); }
  static uint64_t Sum(Type a) { return static_cast<uint64_t>(_mm512_reduce_or_epi64(a)); }
};
#include "bench/limits/read_loops.inl"

}  // namespace tandem::bench::avx512
#include "lib/kernels/isa/target_end.h"

#define TANDEM_TARGET "avx2"
#include "lib/kernels/isa/target_begin.h"
namespace tandem::bench::avx2 {

struct Lanes {
  using Type = __m256i;
  static Type Zero() { return _mm256_setzero_si256(); }
  static Type Or(Type a, const std::byte* b) {
    return _mm256_or_si256(a, _mm256_load_si256(reinterpret_cast<const __m256i*>(b)));
  }
  static uint64_t Sum(Type a) {
    return static_cast<uint64_t>(_mm256_extract_epi64(a, 0) | _mm256_extract_epi64(a, 1) |
                                 _mm256_extract_epi64(a, 2) | _mm256_extract_epi64(a, 3));
  }
};
#include "bench/limits/read_loops.inl"

}  // namespace tandem::bench::avx2
#include "lib/kernels/isa/target_end.h"
#endif

namespace tandem::bench {
namespace plain {

struct Lanes {
  using Type = uint64_t;
  static Type Zero() { return 0; }
  static Type Or(Type a, const std::byte* b) {
    uint64_t value;
    std::memcpy(&value, b, sizeof(value));
    return a | value;
  }
  static uint64_t Sum(Type a) { return a; }
};
#include "bench/limits/read_loops.inl"

}  // namespace plain

std::span<const ReadPattern> ReadPatterns() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return avx512::kPatterns;
  if (__builtin_cpu_supports("avx2")) return avx2::kPatterns;
#endif
  return plain::kPatterns;
}

}  // namespace tandem::bench
