/*
 * Elementwise operations on tensors of any strides and float types.
 *
 * Axes that lie behind each other in every operand are joined, the rest is walked in pieces of one row. A piece that is
 * dense float32 goes to the kernel as it lies; any other is gathered into scratch, and the result scattered.
 */
#include "backend/cpu/cpu.h"

#include <string.h>

#define MAX_OPERANDS (ZOE_LINCOMB_MAX + 1) /* y first */
#define PIECE        4096                  /* elements: operands of a strided piece stay in the second-level cache */

typedef struct walk {
    const zoe_cpu *cpu;
    int operands, rank; /* rank >= 1 */
    int64_t shape[ZOE_MAX_RANK], stride[MAX_OPERANDS][ZOE_MAX_RANK];
    char *data[MAX_OPERANDS];
    zoe_dtype dtype[MAX_OPERANDS];
} walk;

/* One piece: y[n] from x[..][n]; `first` is the piece's first index on the last axis. */
typedef void (*piece_fn)(const zoe_cpu_kernels *k, const void *arg, float *y, const float *const *x, int64_t n,
                         int64_t first);

/* Joins axis `axis + 1` of `t` to the last axis of the walk where every operand allows it, else appends it. */
static void add_axis(walk *w, const zoe_tensor *const *t, int axis, bool join) {
    int64_t size = t[0]->shape[axis];
    bool joined = join && w->rank > 0;
    for (int i = 0; i < w->operands && joined; i++) joined = w->stride[i][w->rank - 1] == size * t[i]->stride[axis];
    if (joined)
        w->shape[w->rank - 1] *= size;
    else
        w->shape[w->rank++] = size;
    for (int i = 0; i < w->operands; i++) w->stride[i][w->rank - 1] = t[i]->stride[axis];
}

static void walk_init(walk *w, const zoe_cpu *cpu, int operands, const zoe_tensor *const *t, bool keep_last) {
    *w = (walk){.cpu = cpu, .operands = operands};
    int rank = t[0]->rank;
    for (int axis = 0; axis < rank; axis++) {
        bool last = axis == rank - 1;
        if (t[0]->shape[axis] != 1 || (keep_last && last)) add_axis(w, t, axis, !(keep_last && last));
    }
    if (w->rank == 0) {
        w->rank = 1;
        w->shape[0] = 1;
        for (int i = 0; i < operands; i++) w->stride[i][0] = 1;
    }
    for (int i = 0; i < operands; i++) {
        w->data[i] = t[i]->data;
        w->dtype[i] = t[i]->dtype;
    }
}

static void gather(const zoe_cpu_kernels *k, float *to, const char *from, zoe_dtype dtype, int64_t stride, int64_t n) {
    size_t size = zoe_dtype_size(dtype);
    if (stride == 1) {
        k->load[dtype](to, from, n);
    } else if (dtype == ZOE_F32) {
        const float *x = (const float *)(const void *)from;
        for (int64_t i = 0; i < n; i++) to[i] = x[i * stride];
    } else {
        for (int64_t i = 0; i < n; i++) k->load[dtype](to + i, from + (ptrdiff_t)(i * stride) * (ptrdiff_t)size, 1);
    }
}

static void scatter(const zoe_cpu_kernels *k, char *to, const float *from, zoe_dtype dtype, int64_t stride, int64_t n) {
    size_t size = zoe_dtype_size(dtype);
    if (stride == 1) {
        k->store[dtype](to, from, n);
    } else if (dtype == ZOE_F32) {
        float *y = (float *)(void *)to;
        for (int64_t i = 0; i < n; i++) y[i * stride] = from[i];
    } else {
        for (int64_t i = 0; i < n; i++) k->store[dtype](to + (ptrdiff_t)(i * stride) * (ptrdiff_t)size, from + i, 1);
    }
}

static void run_piece(const walk *w, int64_t row, int64_t first, int64_t n, piece_fn fn, const void *arg) {
    const zoe_cpu_kernels *k = &w->cpu->kernels;
    float *scratch = zoe_cpu_scratch(w->cpu);
    int last = w->rank - 1;
    char *at[MAX_OPERANDS];
    const float *x[MAX_OPERANDS];
    for (int i = 0; i < w->operands; i++) {
        int64_t offset = first * w->stride[i][last], rest = row;
        for (int axis = last - 1; axis >= 0; axis--) {
            offset += rest % w->shape[axis] * w->stride[i][axis];
            rest /= w->shape[axis];
        }
        at[i] = w->data[i] + (ptrdiff_t)offset * (ptrdiff_t)zoe_dtype_size(w->dtype[i]);
        if (w->dtype[i] == ZOE_F32 && w->stride[i][last] == 1) {
            x[i] = (const float *)(void *)at[i];
        } else {
            x[i] = scratch + i * PIECE;
            if (i > 0) gather(k, scratch + i * PIECE, at[i], w->dtype[i], w->stride[i][last], n);
        }
    }
    bool direct = x[0] != scratch;
    fn(k, arg, direct ? (float *)(void *)at[0] : scratch, x + 1, n, first);
    if (!direct) scatter(k, at[0], scratch, w->dtype[0], w->stride[0][last], n);
}

static void run(const walk *w, piece_fn fn, const void *arg) {
    int64_t rows = 1, width = w->shape[w->rank - 1];
    for (int i = 0; i < w->rank - 1; i++) rows *= w->shape[i];
    int64_t pieces = (width + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(zoe_cpu_team(w->cpu, (double)rows *(double)width))
    for (int64_t i = 0; i < rows * pieces; i++) {
        int64_t first = i % pieces * PIECE;
        run_piece(w, i / pieces, first, zoe_min(PIECE, width - first), fn, arg);
    }
}

/* y must be a type that can be stored. */
static int need_storable(zoe_backend *be, const char *op, const zoe_tensor *y) {
    if (zoe_cpu_of(be)->kernels.store[y->dtype]) return ZOE_OK;
    return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "%s: the CPU backend cannot write %s", op, zoe_dtype_name(y->dtype));
}

/* ---- the operations ---- */

static void copy_piece(const zoe_cpu_kernels *k, const void *arg, float *y, const float *const *x, int64_t n,
                       int64_t first) {
    (void)k, (void)arg, (void)first;
    if (y != x[0]) memcpy(y, x[0], (size_t)n * sizeof *y);
}

int zoe_cpu_copy(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x) {
    if (x->dtype == y->dtype && zoe_tensor_dense(x) && zoe_tensor_dense(y) && !zoe_cpu_of(be)->kernels.load[x->dtype]) {
        memmove(y->data, x->data, (size_t)zoe_tensor_bytes(x));
        return ZOE_OK;
    }
    ZOE_TRY(zoe_cpu_need_float(be, "copy", x));
    ZOE_TRY(need_storable(be, "copy", y));
    walk w;
    walk_init(&w, zoe_cpu_of(be), 2, (const zoe_tensor *[]){y, x}, false);
    run(&w, copy_piece, NULL);
    return ZOE_OK;
}

static void zero_piece(const zoe_cpu_kernels *k, const void *arg, float *y, const float *const *x, int64_t n,
                       int64_t first) {
    (void)k, (void)arg, (void)x, (void)first;
    memset(y, 0, (size_t)n * sizeof *y);
}

int zoe_cpu_zero(zoe_backend *be, zoe_tensor *y) {
    if (!zoe_cpu_of(be)->kernels.load[y->dtype] && zoe_tensor_dense(y)) {
        memset(y->data, 0, (size_t)zoe_tensor_bytes(y));
        return ZOE_OK;
    }
    ZOE_TRY(need_storable(be, "zero", y));
    walk w;
    walk_init(&w, zoe_cpu_of(be), 1, (const zoe_tensor *[]){y}, false);
    run(&w, zero_piece, NULL);
    return ZOE_OK;
}

typedef struct activation {
    zoe_act act;
    bool times;
} activation;

static void activate_piece(const zoe_cpu_kernels *k, const void *arg, float *y, const float *const *x, int64_t n,
                           int64_t first) {
    const activation *a = arg;
    (void)first;
    k->activate(y, x[0], a->times ? x[1] : NULL, n, a->act);
}

int zoe_cpu_activate(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *times, zoe_act act) {
    ZOE_TRY(zoe_cpu_need_float(be, "activate", x));
    ZOE_TRY(zoe_cpu_need_float(be, "activate", times));
    ZOE_TRY(need_storable(be, "activate", y));
    walk w;
    walk_init(&w, zoe_cpu_of(be), times ? 3 : 2, (const zoe_tensor *[]){y, x, times}, false);
    run(&w, activate_piece, &(activation){act, times != NULL});
    return ZOE_OK;
}

typedef struct channels {
    const float *scale, *shift;
} channels;

static void scale_shift_piece(const zoe_cpu_kernels *k, const void *arg, float *y, const float *const *x, int64_t n,
                              int64_t first) {
    const channels *c = arg;
    k->scale_shift(y, x[0], c->scale ? c->scale + first : NULL, c->shift ? c->shift + first : NULL, n);
}

int zoe_cpu_scale_shift(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *scale,
                        const zoe_tensor *shift) {
    ZOE_TRY(zoe_cpu_need_float(be, "scale_shift", x));
    ZOE_TRY(need_storable(be, "scale_shift", y));
    walk w;
    walk_init(&w, zoe_cpu_of(be), 2, (const zoe_tensor *[]){y, x}, true);
    run(&w, scale_shift_piece, &(channels){scale ? scale->data : NULL, shift ? shift->data : NULL});
    return ZOE_OK;
}

typedef struct combination {
    int count;
    const float *coefficients;
} combination;

static void lincomb_piece(const zoe_cpu_kernels *k, const void *arg, float *y, const float *const *x, int64_t n,
                          int64_t first) {
    const combination *c = arg;
    (void)first;
    k->lincomb(y, c->count, x, c->coefficients, n);
}

int zoe_cpu_lincomb(zoe_backend *be, zoe_tensor *y, int count, const zoe_tensor *const *x, const float *coefficients) {
    const zoe_tensor *operands[MAX_OPERANDS] = {y};
    ZOE_TRY(need_storable(be, "lincomb", y));
    for (int i = 0; i < count; i++) {
        ZOE_TRY(zoe_cpu_need_float(be, "lincomb", x[i]));
        operands[i + 1] = x[i];
    }
    walk w;
    walk_init(&w, zoe_cpu_of(be), count + 1, operands, false);
    run(&w, lincomb_piece, &(combination){count, coefficients});
    return ZOE_OK;
}

int zoe_cpu_finite(zoe_backend *be, const zoe_tensor *x, bool *out) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    ZOE_TRY(zoe_cpu_need_float(be, "finite", x));
    const zoe_cpu_kernels *k = &cpu->kernels;
    int64_t count = zoe_tensor_count(x);
    size_t size = zoe_dtype_size(x->dtype);
    bool all = true;
#pragma omp parallel for num_threads(zoe_cpu_team(cpu, (double)count)) reduction(&& : all)
    for (int64_t first = 0; first < count; first += PIECE) {
        int64_t n = zoe_min(PIECE, count - first);
        const char *from = (const char *)x->data + (size_t)first * size;
        const float *row = (const float *)(const void *)from;
        if (x->dtype != ZOE_F32) {
            float *scratch = zoe_cpu_scratch(cpu);
            k->load[x->dtype](scratch, from, n);
            row = scratch;
        }
        all = all && k->finite(row, n);
    }
    *out = all;
    return ZOE_OK;
}
