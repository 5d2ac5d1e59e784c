/*
 * Scratch memory of the processor's kernels, said once for the backend that takes it and for the plan, which foretells
 * about how much of it they touch: pages that nothing touches do not exist.
 */
#ifndef ZOE_BACKEND_HOST_H
#define ZOE_BACKEND_HOST_H

#include <stddef.h>
#include <stdint.h>

/* Of each thread, and of all threads together for packed convolution weights. */
#define ZOE_CPU_SCRATCH ((size_t)4 << 20)
#define ZOE_CPU_SHARED  ((size_t)8 << 20)

#define ZOE_BLOCK_ROWS  1536 /* of x and y: the packing of a slice of W is shared by so many rows */
#define ZOE_BLOCK_COLS  512  /* of W */
#define ZOE_BLOCK_DEPTH 384  /* a packed slice of W stays in the second-level cache, a tile's rows of x in the first */

#define ZOE_CONV_COLS  192                  /* output channels at a time, at most */
#define ZOE_CONV_PATCH ((int64_t)160 << 10) /* floats aimed at, so that patch and weights' slice share a second cache */
#define ZOE_CONV_SUMS  ((int64_t)64 << 10)

#define ZOE_ATTENTION_QUERIES 1008 /* of a task, about */
#define ZOE_ATTENTION_KEYS    256  /* of a tile */

static inline int64_t zoe_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Bytes moved to pack weights for each block of rows: 2 are read and 4 written for most; few rows need none. */
static inline double zoe_host_packing_bytes(int64_t rows, int64_t in, int64_t out) {
    int64_t blocks = (rows + ZOE_BLOCK_ROWS - 1) / ZOE_BLOCK_ROWS;
    return rows > 32 ? 6.0 * (double)(blocks * in * out) : 0;
}

/* Floats of all threads. Results are cut until there are three blocks for each thread. */
static inline int64_t zoe_host_linear_floats(int threads, int64_t rows, int64_t in, int64_t out) {
    int64_t cols = zoe_min(out, ZOE_BLOCK_COLS), sums = threads * zoe_min(rows, ZOE_BLOCK_ROWS) * cols;
    return zoe_min(sums, rows * out / 3) + threads * zoe_min(in, ZOE_BLOCK_DEPTH) * cols;
}

static inline int64_t zoe_host_attention_floats(int threads, int64_t heads, int64_t queries, int64_t channels) {
    int64_t rows = threads * zoe_min(queries, ZOE_ATTENTION_QUERIES);
    return (zoe_min(rows, heads * queries / 2) + threads * ZOE_ATTENTION_KEYS) * channels;
}

/* patch: of the whole input with its margins; sums: of the whole result. */
static inline int64_t zoe_host_conv_floats(int threads, int64_t patch, int64_t sums) {
    return threads * (zoe_min(patch, ZOE_CONV_PATCH) + zoe_min(sums, ZOE_CONV_SUMS));
}

#endif
