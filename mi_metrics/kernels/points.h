// Whether numbers are those that a table has at their places: by gathers of AVX-512 on processors
// that have them fast.
#pragma once

#include "native.h"
#include "tables.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace {

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
// Compilers write no gathers for a loop: those of Intel's older processors take longer than single
// loads. They have no bfloat16, but for one. Compilers that do not know its name ask the processor.
inline bool has_bfloat16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

inline bool gathers_fast() {
  static const bool found = mi::has_avx512() && has_bfloat16();
  return found;
}

__attribute__((target("avx512f"), noinline)) bool differ_wide(const float* x, const float* values,
                                                              const int32_t* places) {
  __mmask16 some = 0;
  for (int64_t i = 0; i < BLOCK; i += 16) {
    const __m512 held = _mm512_i32gather_ps(_mm512_loadu_si512(places + i), values, 4);
    some |= _mm512_cmp_ps_mask(held, _mm512_loadu_ps(x + i), _CMP_NEQ_UQ);
  }
  return some != 0;
}

__attribute__((target("avx512f"), noinline)) bool differ_wide(const double* x, const double* values,
                                                              const int32_t* places) {
  __mmask8 some = 0;
  for (int64_t i = 0; i < BLOCK; i += 8) {
    const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(places + i));
    const __m512d held = _mm512_i32gather_pd(at, values, 8);
    some |= _mm512_cmp_pd_mask(held, _mm512_loadu_pd(x + i), _CMP_NEQ_UQ);
  }
  return some != 0;
}
#endif

// Returns whether some numbers of a block differ from their values; NaN does from all.
template <class X>
MI_INLINE bool differ(const X* MI_RESTRICT x, int64_t size, const X* MI_RESTRICT values,
                      const int32_t* MI_RESTRICT places) {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  if (size == BLOCK && gathers_fast()) return differ_wide(x, values, places);
#endif
  int32_t some = 0;
  for (int64_t i = 0; i < size; i++) some |= !(x[i] == values[places[i]]);
  return some != 0;
}

}  // namespace
