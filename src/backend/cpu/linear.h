/* A product under way, as the drivers of linear share it (linear.c, integer.c). */
#ifndef ZOE_BACKEND_CPU_LINEAR_H
#define ZOE_BACKEND_CPU_LINEAR_H

#include "backend/cpu/cpu.h"

#define ZOE_BLOCK_CODES 768 /* of int8 rows, whose products are faster: their sums are to stay in the second cache */

typedef struct zoe_cpu_product {
    const zoe_cpu_kernels *kernels;
    const float *x;
    const zoe_tensor *w;
    const float *row_scales, *col_scales; /* of rounded rows of x, and of the rows of w; or NULL */
    void (*round)(float *y, const float *x, int64_t n, float scale);
    const int8_t *codes;     /* [rows, depth] rounded rows of x, for the integer product */
    const int32_t *row_sums; /* of the codes */
    float *y;
    const float *residual;
    const int32_t *groups; /* row of the gate for each row */
    int64_t rows, cols, depth, ldx, ldy, ldr, ldg;
    const zoe_linear *p;
} zoe_cpu_product;

/* Writes y for a block from its sums. Rows that share a gate are written together. */
void zoe_cpu_finish(const zoe_cpu_product *t, const float *acc, int64_t ldc, int64_t row0, int64_t rows, int64_t col0,
                    int64_t cols);

/* A block of the result whose sums are integers; scratch of ZOE_CPU_SCRATCH bytes. */
void zoe_cpu_integer_block(const zoe_cpu_product *t, float *scratch, int64_t row0, int64_t rows, int64_t col0,
                           int64_t cols);

#endif
