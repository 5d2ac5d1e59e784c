/* Vectors of eight words, for kernels_integer.h. */
#ifndef ZOE_BACKEND_CPU_INTEGER_AVX2_H
#define ZOE_BACKEND_CPU_INTEGER_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define VI_LANES 8

typedef __m256i vi;

static inline vi vi_zero(void) {
    return _mm256_setzero_si256();
}

static inline vi vi_get(const int32_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

static inline void vi_put(int32_t *p, vi x) {
    _mm256_storeu_si256((__m256i *)(void *)p, x);
}

static inline vi vi_all(const int32_t *p) {
    return _mm256_set1_epi32(*p);
}

static inline vi vi_add(vi a, vi b) {
    return _mm256_add_epi32(a, b);
}

#endif
