/* The AVX2 level, with FMA and F16C: sixteen registers of eight floats. */
#include "backend/cpu/vector_avx2.h"

#define TILE_WIDE_ROWS   6 /* 12 sums, 2 columns, 1 or 2 broadcasts */
#define TILE_NARROW_ROWS 12
#define TILE_MAX_ROWS    12
#define DOT_GROUP        3

#include "backend/cpu/kernels_vector.h"

void zoe_cpu_kernels_init_avx2(zoe_cpu_kernels *k) {
    fill_table(k);
    k->level = "avx2";
}
