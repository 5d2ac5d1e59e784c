/* Integer products of four elements at once, in vectors of 512 bits (AVX-512 VNNI): weights without sign, 128 added to
 * them. */
#include "backend/cpu/kernels.h"

#define INTEGER_ROWS 14

#include "backend/cpu/integer_avx512.h"

static inline vi vi_products(vi sum, vi a, vi b) {
    return _mm512_dpbusd_epi32(sum, b, a);
}

#include "backend/cpu/kernels_integer.h"

void zoe_cpu_kernels_init_vnni512(zoe_cpu_kernels *k) {
    k->integer =
        (zoe_cpu_integer_tile){INTEGER_ROWS, INTEGER_COLS, 4, 128, zoe_cpu_copy_i8, zoe_cpu_raise_i8, integer_tile};
}
