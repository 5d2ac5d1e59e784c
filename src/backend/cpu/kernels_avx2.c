/* The AVX2 level, with FMA and F16C: sixteen registers of eight floats. */
#include "backend/cpu/vector_avx2.h"

#define TILE_WIDE_ROWS   6 /* 12 sums, 2 columns, 1 or 2 broadcasts */
#define TILE_NARROW_ROWS 12
#define TILE_MAX_ROWS    12
#define DOT_GROUP        3

#include "backend/cpu/kernels_vector.h"

#include "backend/cpu/kernels_quantised.h"

#include "backend/cpu/kernels_four_bits.h"

/* ---- products of integers, two elements of 16 bits to a word ---- */

#define INTEGER_ROWS 6
#include "backend/cpu/integer_avx2.h"

static inline vi vi_products(vi sum, vi a, vi b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

#include "backend/cpu/kernels_integer.h"

void zoe_cpu_widen_i8(int32_t *to, const int8_t *from, int64_t n) {
    for (int64_t i = 0; i + 16 <= n; i += 16)
        vi_put(to + i / 2, _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(from + i))));
    for (int64_t i = n & ~(int64_t)15; i < n; i += 2) {
        int16_t pair[2] = {from[i], from[i + 1]};
        memcpy(to + i / 2, pair, sizeof pair);
    }
}

void zoe_cpu_kernels_init_avx2(zoe_cpu_kernels *k) {
    fill_table(k);
    fill_quantised(k);
    fill_four_bits(k);
    k->integer = (zoe_cpu_integer_tile){INTEGER_ROWS, INTEGER_COLS, 2, 0, zoe_cpu_widen_i8, zoe_cpu_widen_i8, integer_tile};
    k->level = "avx2";
}
