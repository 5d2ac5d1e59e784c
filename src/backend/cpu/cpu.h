/* The CPU backend's inside: its object, scratch memory and the functions of its table. */
#ifndef ZOE_BACKEND_CPU_CPU_H
#define ZOE_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/host.h"

typedef struct zoe_cpu {
    zoe_backend base;
    zoe_cpu_kernels kernels;
    int threads;
    void *memory;  /* behind `shared` and `scratch` */
    float *shared; /* ZOE_CPU_SHARED bytes */
    char *scratch; /* ZOE_CPU_SCRATCH bytes for each thread */
} zoe_cpu;

static inline zoe_cpu *zoe_cpu_of(zoe_backend *be) {
    return (zoe_cpu *)(void *)be;
}

/* The calling thread's scratch inside a team of this backend. */
float *zoe_cpu_scratch(const zoe_cpu *cpu);

/* How many threads are worth waking for so many elements or multiplications. */
int zoe_cpu_team(const zoe_cpu *cpu, double work);

/* Activations are float32 here. */
int zoe_cpu_need_f32(zoe_backend *be, const char *op, const zoe_tensor *t);
int zoe_cpu_need_float(zoe_backend *be, const char *op, const zoe_tensor *t);

static inline int64_t zoe_max(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static inline int64_t zoe_round_up(int64_t x, int64_t step) {
    return (x + step - 1) / step * step;
}

/* The distance between consecutive rows of a tensor whose leading axes can be joined. */
static inline int64_t zoe_row_stride(const zoe_tensor *t) {
    for (int i = t->rank - 2; i >= 0; i--)
        if (t->shape[i] != 1) return t->stride[i];
    return t->shape[t->rank - 1];
}

/* ---- blocks of a product (gemm.c) ---- */

/* Columns after padding to whole panels. */
int64_t zoe_cpu_padded_cols(const zoe_cpu_kernels *k, int64_t n);

/* b[n, depth] (row stride ldb) into panels; `buffer` holds wide.cols * depth floats for types other than float32. */
void zoe_cpu_pack(const zoe_cpu_kernels *k, float *panels, float *buffer, const void *b, zoe_dtype dtype, int64_t ldb,
                  int64_t n, int64_t depth);

/* The same of rows `first` .. first + n of a matrix of weights of any type, from column `from` on. */
void zoe_cpu_pack_weights(const zoe_cpu_kernels *k, float *panels, float *buffer, const zoe_tensor *w, int64_t first,
                          int64_t n, int64_t from, int64_t depth);

/*
 * c[m, padded n] = (add ? c : 0) + a b, b in panels over the whole depth of a. a and c are read and written in whole tiles:
 * up to zoe_cpu_padded_rows(m) rows.
 */
void zoe_cpu_multiply(const zoe_cpu_kernels *k, int64_t m, int64_t n, const zoe_cpu_left *a, const float *panels, float *c,
                      int64_t ldc, bool add);
int64_t zoe_cpu_padded_rows(const zoe_cpu_kernels *k, int64_t m);

/* ---- quantised matrices (quantise.c) ---- */

/*
 * Elements `from` .. from + n of a row of weights of any type as floats: times their scales where groups have their own,
 * else (one scale to a row) without it. `from` is a multiple of the group.
 */
void zoe_cpu_unpack(const zoe_cpu_kernels *k, float *y, const zoe_tensor *w, int64_t row, int64_t from, int64_t n);

/* ---- operations ---- */

int zoe_cpu_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p);
int zoe_cpu_quantise(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x);
int zoe_cpu_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_norm *p);
int zoe_cpu_qk_prepare(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_qk *p);
int zoe_cpu_attention(zoe_backend *be, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                      const zoe_attention *p);
int zoe_cpu_conv(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_conv *p);
int zoe_cpu_group_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_group_norm *p);
int zoe_cpu_embedding(zoe_backend *be, zoe_tensor *y, const zoe_tensor *table, const zoe_tensor *ids);
int zoe_cpu_copy(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x);
int zoe_cpu_zero(zoe_backend *be, zoe_tensor *y);
int zoe_cpu_activate(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *times, zoe_act act);
int zoe_cpu_scale_shift(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *scale,
                        const zoe_tensor *shift);
int zoe_cpu_lincomb(zoe_backend *be, zoe_tensor *y, int count, const zoe_tensor *const *x, const float *coefficients);
int zoe_cpu_finite(zoe_backend *be, const zoe_tensor *x, bool *out);

#endif
