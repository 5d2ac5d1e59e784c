/* The AVX-512 level (F, BW, DQ, VL): thirty-two registers of sixteen floats. */
#include "backend/cpu/vector_avx512.h"

#define TILE_WIDE_ROWS   14 /* 28 sums, 2 columns, 1 or 2 broadcasts */
#define TILE_NARROW_ROWS 14
#define TILE_MAX_ROWS    14
#define DOT_GROUP        6

#include "backend/cpu/kernels_vector.h"

void zoe_cpu_kernels_init_avx512(zoe_cpu_kernels *k) {
    fill_table(k);
    k->level = "avx512";
}
