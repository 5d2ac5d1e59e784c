/* The AVX-512 level (F, BW, DQ, VL): thirty-two registers of sixteen floats. */
#include "backend/cpu/vector_avx512.h"

#define TILE_WIDE_ROWS   14 /* 28 sums, 2 columns, 1 or 2 broadcasts */
#define TILE_NARROW_ROWS 14
#define TILE_MAX_ROWS    14
#define DOT_GROUP        6

#include "backend/cpu/kernels_vector.h"

#include "backend/cpu/kernels_quantised.h"

/* ---- products of integers, two elements of 16 bits to a word ---- */

#define INTEGER_ROWS 14

#include "backend/cpu/integer_avx512.h"

static inline vi vi_products(vi sum, vi a, vi b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
}

#include "backend/cpu/kernels_integer.h"

void zoe_cpu_kernels_init_avx512(zoe_cpu_kernels *k) {
    fill_table(k);
    fill_quantised(k);
    k->integer = (zoe_cpu_integer_tile){INTEGER_ROWS, INTEGER_COLS, 2, 0, zoe_cpu_widen_i8, zoe_cpu_widen_i8, integer_tile};
    k->level = "avx512";
}
