/*
 * Quantised matrices (backend/quantised.h): how they are made, and products with them.
 *
 * int8 and fp8 are multiplied by rows of x in the same form. On Hopper cuBLASLt applies the scales of fp8 in the product.
 * Products of int8 are of int32, and one kernel behind them does the rest. Elsewhere, and for float32 results, fp8 is
 * widened to bf16, which has every code exactly. int4 and nvfp4 are widened to the type of x.
 */
#include "backend/quantised.h"

#include "backend/cuda/cuda.h"

#define ROWS_AT_A_TIME 4096 /* where sums are kept apart */

static bool is_rows(zoe_dtype form) {
    return form == ZOE_I8 || form == ZOE_F8_E4M3;
}

/* y = act(x + bias) as quantised rows; `exact`, and from float32: the same bits as on the CPU */
static int quantise_rows(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *x, const float *bias, zoe_act act, bool exact) {
    int64_t width = x->shape[x->rank - 1];
    zoe_cuda_rows r = {.x = x->data,
                       .y = y->data,
                       .x_type = x->dtype,
                       .y_type = y->dtype,
                       .y_scale = y->scales,
                       .tokens = zoe_tensor_rows(x),
                       .ldx = zoe_cuda_row_stride(x),
                       .ldy = width,
                       .parts = 1,
                       .width = (int)width,
                       .kind = ZOE_CUDA_NORM_NONE,
                       .act = act,
                       .exact = exact || x->dtype == ZOE_F32,
                       .bias = bias};
    return zoe_cuda_check(&cuda->base, zoe_cuda_launch_rows(&r, cuda->stream), "quantise");
}

static zoe_cuda_four_bits four_bits(const zoe_tensor *t) {
    int64_t count = zoe_tensor_count(t), blocks = (count / t->group + 255) & ~(int64_t)255;
    return (zoe_cuda_four_bits){.data = t->data,
                                .scales = t->scales,
                                .global = t->dtype == ZOE_F4_E2M1 ? (float *)(void *)((char *)t->scales + blocks) : NULL,
                                .type = t->dtype,
                                .group = t->group,
                                .count = count};
}

int zoe_cuda_quantise(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    ZOE_TRY(zoe_cuda_need_float(be, "quantise", x));
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    if (is_rows(y->dtype)) return quantise_rows(cuda, y, x, NULL, ZOE_ACT_NONE, true);
    zoe_cuda_four_bits q = four_bits(y);
    q.x = x->data, q.x_type = x->dtype;
    return zoe_cuda_check(be, zoe_cuda_launch_four_bits(&q, cuda->stream), "quantise");
}

/* ---- products ---- */

/* fp8 on Hopper, with the scales in the product. A gate of one row is a scale of columns as well. */
static int scaled(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    zoe_backend *be = &cuda->base;
    int64_t rows = zoe_tensor_rows(x), out = w->shape[0];
    bool whole = p->act == ZOE_ACT_NONE && !(p->gate && p->row_group) && (!p->residual || p->residual->dtype == y->dtype);
    const void *bias = NULL;
    zoe_tensor sum = *y, gated_scale, gated_bias;
    zoe_cuda_product g = {.rows = rows,
                          .cols = out,
                          .depth = w->shape[1],
                          .batch = 1,
                          .ldx = w->shape[1],
                          .ldw = w->shape[1],
                          .ldy = zoe_cuda_row_stride(y),
                          .in = ZOE_F8_E4M3,
                          .out = ZOE_BF16,
                          .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                          .alpha = 1,
                          .row_scale = x->scales,
                          .col_scale = w->scales};
    if (whole && p->gate) {
        ZOE_TRY(ZOE_NEW(be, &gated_scale, ZOE_F32, out));
        ZOE_TRY(ZOE_NEW(be, &gated_bias, ZOE_BF16, out));
        ZOE_CUDA(be, zoe_cuda_launch_fold_gate(gated_scale.data, gated_bias.data, w->scales, p->bias ? p->bias->data : NULL,
                                               p->gate->data, out, cuda->stream));
        g.col_scale = gated_scale.data;
        bias = p->bias ? gated_bias.data : NULL;
    } else if (whole) {
        ZOE_TRY(zoe_cuda_epilogue_bias(cuda, y, p, &bias));
    }
    if (whole) {
        if (bias) g.epilogue = CUBLASLT_EPILOGUE_BIAS;
        if (p->residual) g.beta = 1, g.ldc = zoe_cuda_row_stride(p->residual);
        return zoe_cuda_multiply(cuda, &g, y->data, x->data, w->data, p->residual ? p->residual->data : NULL, bias);
    }
    if (p->residual) { /* y may be the residual */
        ZOE_TRY(ZOE_NEW(be, &sum, ZOE_BF16, rows, out));
        g.ldy = out;
    }
    ZOE_TRY(zoe_cuda_multiply(cuda, &g, sum.data, x->data, w->data, NULL, NULL));
    zoe_cuda_finish f = zoe_cuda_finish_of(y, p, rows);
    f.sum = sum.data, f.sum_type = ZOE_BF16, f.lds = g.ldy;
    return zoe_cuda_check(be, zoe_cuda_launch_finish(&f, cuda->stream), "linear");
}

/* What an exact product is made of: codes as they are, or as bf16, and sums that hold them. */
typedef struct exact {
    zoe_dtype in, sum;
    const void *w;
} exact;

/* y = .. for some rows, from `start` on */
static int exact_rows(zoe_cuda *cuda, const exact *e, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w,
                      const zoe_linear *p, int64_t start, int64_t rows) {
    zoe_backend *be = &cuda->base;
    int64_t in = w->shape[1], out = w->shape[0];
    const void *codes = (const char *)x->data + start * in;
    zoe_tensor wide, sum;
    ZOE_TRY(ZOE_NEW(be, &sum, e->sum, rows, out));
    if (e->in == ZOE_BF16) {
        ZOE_TRY(ZOE_NEW(be, &wide, ZOE_BF16, rows, in));
        ZOE_CUDA(be, zoe_cuda_launch_widen(wide.data, codes, x->dtype, rows * in, cuda->stream));
        codes = wide.data;
    }
    zoe_cuda_product g = {.rows = rows,
                          .cols = out,
                          .depth = in,
                          .batch = 1,
                          .ldx = in,
                          .ldw = in,
                          .ldy = out,
                          .in = e->in,
                          .out = e->sum,
                          .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                          .alpha = 1};
    ZOE_TRY(zoe_cuda_multiply(cuda, &g, sum.data, codes, e->w, NULL, NULL));
    zoe_cuda_finish f = zoe_cuda_finish_of(y, p, rows);
    f.sum = sum.data, f.sum_type = e->sum, f.lds = out;
    f.row_scale = (const float *)x->scales + start, f.col_scale = w->scales;
    f.y = (char *)y->data + (size_t)(start * f.ldy) * zoe_dtype_size(y->dtype);
    if (p->residual) f.residual = (const char *)f.residual + (size_t)(start * f.ldr) * zoe_dtype_size(p->residual->dtype);
    if (p->row_group) f.group += start;
    return zoe_cuda_check(be, zoe_cuda_launch_finish(&f, cuda->stream), "linear");
}

/* int8 in integers; fp8 where nothing is faster, in bf16. */
static int unscaled(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    zoe_backend *be = &cuda->base;
    int64_t rows = zoe_tensor_rows(x);
    exact e = {.in = ZOE_I8, .sum = ZOE_I32, .w = w->data};
    zoe_tensor wide;
    if (w->dtype != ZOE_I8) {
        ZOE_TRY(ZOE_NEW(be, &wide, ZOE_BF16, w->shape[0], w->shape[1]));
        ZOE_CUDA(be, zoe_cuda_launch_widen(wide.data, w->data, w->dtype, zoe_tensor_count(w), cuda->stream));
        e = (exact){.in = ZOE_BF16, .sum = ZOE_F32, .w = wide.data};
    }
    size_t mark = zoe_arena_mark(be);
    for (int64_t start = 0; start < rows; start += ROWS_AT_A_TIME) {
        int64_t count = rows - start < ROWS_AT_A_TIME ? rows - start : ROWS_AT_A_TIME;
        ZOE_TRY(exact_rows(cuda, &e, y, x, w, p, start, count));
        zoe_arena_release(be, mark);
    }
    return ZOE_OK;
}

/* int8 and fp8 */
static int rows_by_rows(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    zoe_backend *be = &cuda->base;
    zoe_tensor narrow = *x;
    if (w->shape[0] % 16 || w->shape[1] % 16)
        return zoe_fail(be->ctx, ZOE_ERR_UNSUPPORTED, "linear: sides of %s matrices are multiples of 16, found %lld x %lld",
                        zoe_dtype_name(w->dtype), (long long)w->shape[0], (long long)w->shape[1]);
    ZOE_TRY(zoe_cuda_need_float(be, "linear", y));
    ZOE_TRY(zoe_cuda_need_float(be, "linear", p->residual));
    if (!zoe_is_quantised(x)) {
        ZOE_TRY(zoe_cuda_need_float(be, "linear", x));
        ZOE_TRY(zoe_new_rows(be, &narrow, w->dtype, zoe_tensor_rows(x), w->shape[1]));
        ZOE_TRY(quantise_rows(cuda, &narrow, x, NULL, ZOE_ACT_NONE, false));
    }
    int status = ZOE_ERR_UNSUPPORTED;
    if (w->dtype == ZOE_F8_E4M3 && cuda->level == 90 && y->dtype == ZOE_BF16) status = scaled(cuda, y, &narrow, w, p);
    return status == ZOE_ERR_UNSUPPORTED ? unscaled(cuda, y, &narrow, w, p) : status;
}

/* y as quantised rows: a row's scale is known when all of the row is. What can wait until then, waits. */
static int into_rows(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    zoe_backend *be = &cuda->base;
    zoe_tensor sum;
    zoe_linear first = *p;
    const float *bias = p->bias && !p->gate ? p->bias->data : NULL;
    if (!p->gate) first.act = ZOE_ACT_NONE, first.bias = NULL;
    ZOE_TRY(ZOE_NEW(be, &sum, be->dtype, zoe_tensor_rows(y), w->shape[0]));
    ZOE_TRY(zoe_cuda_linear(be, &sum, x, w, &first));
    return quantise_rows(cuda, y, &sum, bias, p->gate ? ZOE_ACT_NONE : p->act, false);
}

int zoe_cuda_linear_quantised(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w,
                              const zoe_linear *p) {
    zoe_backend *be = &cuda->base;
    zoe_tensor wide;
    if (zoe_is_quantised(y)) return into_rows(cuda, y, x, w, p);
    if (is_rows(w->dtype)) return rows_by_rows(cuda, y, x, w, p);
    ZOE_TRY(zoe_cuda_need_float(be, "linear", x));
    ZOE_TRY(ZOE_NEW(be, &wide, x->dtype == ZOE_BF16 ? ZOE_BF16 : ZOE_F32, w->shape[0], w->shape[1]));
    zoe_cuda_four_bits q = four_bits(w);
    ZOE_CUDA(be, zoe_cuda_launch_widen_four_bits(wide.data, wide.dtype, &q, cuda->stream));
    return zoe_cuda_linear(be, y, x, &wide, p);
}
