/* Vectors of sixteen words, for kernels_integer.h. */
#ifndef ZOE_BACKEND_CPU_INTEGER_AVX512_H
#define ZOE_BACKEND_CPU_INTEGER_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define VI_LANES 16

typedef __m512i vi;

static inline vi vi_zero(void) {
    return _mm512_setzero_si512();
}

static inline vi vi_get(const int32_t *p) {
    return _mm512_loadu_si512((const __m512i *)(const void *)p);
}

static inline void vi_put(int32_t *p, vi x) {
    _mm512_storeu_si512((__m512i *)(void *)p, x);
}

static inline vi vi_all(const int32_t *p) {
    return _mm512_set1_epi32(*p);
}

static inline vi vi_add(vi a, vi b) {
    return _mm512_add_epi32(a, b);
}

#endif
