/*
 * The table of the CPU backend's inner kernels: rows and register tiles of float32, one thread, no shapes.
 *
 * zoe_cpu_kernels_init() fills it with plain C; each processor level then overwrites what it does better. The drivers
 * around it (loops, threads, blocking, strides) are the same C code for every level.
 */
#ifndef ZOE_BACKEND_CPU_KERNELS_H
#define ZOE_BACKEND_CPU_KERNELS_H

#include <string.h>

#include "backend/backend.h"

/* Rows handled at once by `dot`. */
#define ZOE_DOT_ROWS 4

/*
 * The left side of a product: `count` pieces of `depth` columns behind each other, piece i at data + offset[i] (data when
 * offset is NULL), rows `stride` apart.
 */
typedef struct zoe_cpu_left {
    const float *data;
    int64_t stride, depth, count;
    const int64_t *offset;
} zoe_cpu_left;

/*
 * A register tile of the matrix product: c[rows, cols] = (add ? c : 0) + a[rows, k] b[k, cols], b dense, c with a row
 * stride, k = count * depth, the rows of a from `row` on. A tile always reads and writes all its rows and columns: the
 * callers' buffers are padded for it.
 */
typedef struct zoe_cpu_tile {
    int rows, cols;
    void (*run)(const zoe_cpu_left *a, int64_t row, const float *b, float *c, int64_t ldc, bool add);
} zoe_cpu_tile;

/*
 * A tile of the product of int8 rows: c[rows, cols] = (add ? c : 0) + a b in integers. a [rows, words] and the panel b
 * [words, cols] are words of 32 bits that hold `elements` elements of the depth each, made from int8 by `left` and `right`;
 * the latter adds `offset` to every weight.
 */
typedef struct zoe_cpu_integer_tile {
    int rows, cols, elements, offset;
    void (*left)(int32_t *to, const int8_t *from, int64_t n);
    void (*right)(int32_t *to, const int8_t *from, int64_t n);
    void (*run)(const int32_t *a, int64_t words, const int32_t *b, int32_t *c, int64_t ldc, bool add);
} zoe_cpu_integer_tile;

/* What stands between a product and its result: y = residual + gate * act(acc + bias); pointers may be NULL. */
typedef struct zoe_cpu_epilogue {
    const float *bias, *gate; /* one row for all */
    const float *residual;
    int64_t residual_stride;
    zoe_act act;
} zoe_cpu_epilogue;

/* y = act(((x - mean) * factor * weight + bias) * (1 + scale) + shift); pointers may be NULL. */
typedef struct zoe_cpu_affine {
    float mean, factor;
    const float *weight, *bias, *scale, *shift;
    zoe_act act;
} zoe_cpu_affine;

#define ZOE_CPU_PIECE 1024 /* floats of a row that are quantised at a time, a multiple of every group */

typedef struct zoe_cpu_kernels {
    const char *level;

    /*
     * Columns of a product are cut into panels of wide.cols, a remainder of up to narrow.cols into a narrow one.
     * narrow.rows is a multiple of wide.rows.
     */
    zoe_cpu_tile wide, narrow;

    /* to[k, cols] = from[rows, k]^T, rows <= cols, the other columns zero. */
    void (*pack)(float *to, int64_t cols, const float *from, int64_t stride, int64_t rows, int64_t k);

    /* y[rows, ZOE_DOT_ROWS] (row stride ldy) += x[rows, k] w[ZOE_DOT_ROWS, k]^T: products of a few rows, w read once. */
    void (*dot)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, const float *w, int64_t ldw, int64_t k);

    /* Conversions of a row; NULL for types that are not floating-point. ZOE_F32 copies. */
    void (*load[ZOE_DTYPE_COUNT])(float *y, const void *x, int64_t n);
    void (*store[ZOE_DTYPE_COUNT])(void *y, const float *x, int64_t n);

    /* Codes as floats: eight bits, and four of which the even element is in the low half of a byte. */
    void (*load_i8)(float *y, const int8_t *x, int64_t n);
    void (*load_i4)(float *y, const uint8_t *x, int64_t n);
    void (*load_f4)(float *y, const uint8_t *x, int64_t n);

    /* y *= factors[i / group], group a multiple of 16. */
    void (*scale_groups)(float *y, const float *factors, int64_t n, int64_t group);

    /* The largest magnitude, above it infinity, above it NaN. */
    float (*largest)(const float *x, int64_t n);
    uint16_t (*largest_half)(const uint16_t *x, int64_t n); /* of bf16 or f16 */

    /* x / scale, of no magnitude above the largest code but for rounding, to the nearest code, ties to even, within their
     * range; of a zero scale: zeros. */
    void (*to_i8)(int8_t *y, const float *x, int64_t n, float scale);  /* -127 .. 127 */
    void (*to_f8)(uint8_t *y, const float *x, int64_t n, float scale); /* e4m3 */
    /* The same of whole rows of bf16; NULL: not at this level. */
    void (*to_f8_bf16)(uint8_t *y, const uint16_t *x, int64_t n, float scale);

    /*
     * The same for groups of up to ZOE_CPU_PIECE floats, whose scales they find: the largest magnitude / 7 in f16; and for
     * groups of 16 the largest magnitude / 6 as an e4m3 code that counts `global`. Two codes to a byte. The latter returns
     * the largest magnitude of all.
     */
    void (*to_i4)(uint8_t *y, uint16_t *scales, const float *x, int64_t n, int64_t group); /* -7 .. 7 */
    float (*to_f4)(uint8_t *y, uint8_t *scales, const float *x, int64_t n, float global);  /* e2m1 */
    /* The same of whole rows of bf16; NULL: not at this level. */
    void (*to_i4_bf16)(uint8_t *y, uint16_t *scales, const uint16_t *x, int64_t n, int64_t group);
    float (*to_f4_bf16)(uint8_t *y, uint8_t *scales, const uint16_t *x, int64_t n, float global);

    /* Eight bits as above, codes as floats: what they stand for. */
    void (*round_i8)(float *y, const float *x, int64_t n, float scale);
    void (*round_f8)(float *y, const float *x, int64_t n, float scale);

    zoe_cpu_integer_tile integer;
    /* y = (x - less) * factor * factors; y may lie over x. */
    void (*to_floats)(float *y, const int32_t *x, int64_t n, int32_t less, float factor, const float *factors);

    void (*epilogue)(float *y, int64_t ldy, const float *acc, int64_t ld, int64_t rows, int64_t n,
                     const zoe_cpu_epilogue *e);

    /* Mean, and sum of (x - offset)^2. */
    float (*mean)(const float *x, int64_t n);
    float (*sum_squares)(const float *x, int64_t n, float offset);
    void (*affine)(float *y, const float *x, int64_t n, const zoe_cpu_affine *a);

    /* (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin) for each interleaved pair; y may be x. */
    void (*rotate)(float *y, const float *x, const float *cos, const float *sin, int64_t pairs);

    /*
     * One row of scores, s += bias (may be NULL): raises *max to the row's maximum, leaves exp(s - *max) in s, brings *sum
     * up to date and returns the factor exp(old maximum - new) for what was accumulated before.
     */
    float (*softmax)(float *s, const float *bias, int64_t n, float *max, float *sum);

    void (*scale)(float *y, const float *x, int64_t n, float factor); /* y may be x */
    void (*activate)(float *y, const float *x, const float *times, int64_t n, zoe_act act);
    void (*scale_shift)(float *y, const float *x, const float *scale, const float *shift, int64_t n);
    void (*lincomb)(float *y, int count, const float *const *x, const float *coefficients, int64_t n);
    bool (*finite)(const float *x, int64_t n);
} zoe_cpu_kernels;

/* The code of a number that has one: the sign, and the bits of exponent and mantissa above the smallest normal number. */
static inline uint8_t zoe_small_float_code(float x, int bits, int smallest, int sign) {
    uint32_t all;
    memcpy(&all, &x, sizeof all);
    float scale = (float)(1 << (bits - smallest)), magnitude = x < 0 ? -x : x;
    int32_t normal = (int32_t)((all & 0x7fffffff) >> (23 - bits)) - ((126 + smallest) << bits);
    int32_t below = (int32_t)(magnitude * scale);
    return (uint8_t)((normal >= 1 << bits ? normal : below) | (int32_t)(all >> 31) * sign);
}

static inline uint8_t zoe_e4m3_code(float x) {
    return zoe_small_float_code(x, 3, -6, 0x80);
}

static inline uint8_t zoe_e2m1_code(float x) {
    return zoe_small_float_code(x, 1, 0, 8);
}

/* Words of two elements (AVX2). */
void zoe_cpu_widen_i8(int32_t *to, const int8_t *from, int64_t n);

/* Words of four elements: as they are, and with 128 added. */
void zoe_cpu_copy_i8(int32_t *to, const int8_t *from, int64_t n);
void zoe_cpu_raise_i8(int32_t *to, const int8_t *from, int64_t n);

void zoe_cpu_kernels_init(zoe_cpu_kernels *k, uint32_t levels);
void zoe_cpu_kernels_init_avx2(zoe_cpu_kernels *k);
void zoe_cpu_kernels_init_avx512(zoe_cpu_kernels *k);
void zoe_cpu_kernels_init_vnni(zoe_cpu_kernels *k);
void zoe_cpu_kernels_init_vnni512(zoe_cpu_kernels *k);

#endif
