/* y = residual + gate * act(x W^T + bias). What cuBLASLt's epilogues cannot do is done by one kernel behind the product. */
#include <string.h>

#include "backend/cuda/cuda.h"
#include "backend/quantised.h"

#define FEW_ROWS 8 /* rows up to which one pass over the weights by a plain kernel is best */

zoe_cuda_finish zoe_cuda_finish_of(zoe_tensor *y, const zoe_linear *p, int64_t rows) {
    zoe_cuda_finish f = {.y = y->data,
                         .y_type = y->dtype,
                         .rows = rows,
                         .cols = y->shape[y->rank - 1],
                         .ldy = zoe_cuda_row_stride(y),
                         .act = p->act};
    if (p->bias) f.bias = p->bias->data;
    if (p->gate) f.gate = p->gate->data, f.ldg = zoe_cuda_row_stride(p->gate);
    if (p->row_group) f.group = p->row_group->data;
    if (p->residual) {
        f.residual = p->residual->data;
        f.residual_type = p->residual->dtype;
        f.ldr = zoe_cuda_row_stride(p->residual);
    }
    return f;
}

int zoe_cuda_epilogue_bias(zoe_cuda *cuda, const zoe_tensor *y, const zoe_linear *p, const void **bias) {
    zoe_backend *be = &cuda->base;
    zoe_tensor narrow;
    *bias = p->bias ? p->bias->data : NULL;
    if (!p->bias || y->dtype == ZOE_F32) return ZOE_OK;
    int64_t count = y->shape[y->rank - 1];
    ZOE_TRY(zoe_new_tensor(be, &narrow, ZOE_BF16, 1, &count));
    ZOE_CUDA(be, zoe_cuda_launch_to_bf16(narrow.data, p->bias->data, count, cuda->stream));
    *bias = narrow.data;
    return ZOE_OK;
}

/* y = residual + (gate W) x + gate bias, where that is the better way. */
static int gated(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p,
                 zoe_cuda_product g) {
    zoe_backend *be = &cuda->base;
    zoe_tensor weights, bias;
    ZOE_TRY(ZOE_NEW(be, &weights, ZOE_BF16, g.cols, g.depth));
    ZOE_TRY(ZOE_NEW(be, &bias, ZOE_BF16, g.cols));
    ZOE_CUDA(be, zoe_cuda_launch_gate_weights(weights.data, bias.data, w->data, p->bias ? p->bias->data : NULL,
                                              p->gate->data, g.cols, g.depth, cuda->stream));
    if (p->bias) g.epilogue = CUBLASLT_EPILOGUE_BIAS;
    if (p->residual) g.beta = 1, g.ldc = zoe_cuda_row_stride(p->residual);
    return zoe_cuda_multiply(cuda, &g, y->data, x->data, weights.data, p->residual ? p->residual->data : NULL,
                             p->bias ? bias.data : NULL);
}

/*
 * All in one type: the product takes bias, tanh GELU and an ungated residual along; the rest follows. cuBLASLt's GELU is
 * good to five digits, which is enough for bf16 alone.
 */
static int product(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p,
                   int64_t rows) {
    zoe_backend *be = &cuda->base;
    bool whole = !p->gate && !(p->residual && p->act != ZOE_ACT_NONE) &&
                 (p->act == ZOE_ACT_NONE || (p->act == ZOE_ACT_GELU_TANH && y->dtype == ZOE_BF16 && !p->residual)) &&
                 (!p->residual || p->residual->dtype == y->dtype);
    const void *bias = NULL;
    zoe_tensor sum = *y;
    zoe_cuda_product g = {.rows = rows,
                          .cols = w->shape[0],
                          .depth = w->shape[1],
                          .batch = 1,
                          .ldx = zoe_cuda_row_stride(x),
                          .ldw = w->shape[1],
                          .ldy = zoe_cuda_row_stride(y),
                          .in = x->dtype,
                          .out = y->dtype,
                          .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                          .alpha = 1};
    if (zoe_device_folds_gate(p, y, rows, g.depth) && (uintptr_t)w->data % 16 == 0) return gated(cuda, y, x, w, p, g);
    if (whole) {
        ZOE_TRY(zoe_cuda_epilogue_bias(cuda, y, p, &bias));
        bool gelu = p->act == ZOE_ACT_GELU_TANH;
        g.epilogue = bias ? (gelu ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS)
                          : (gelu ? CUBLASLT_EPILOGUE_GELU : CUBLASLT_EPILOGUE_DEFAULT);
        if (p->residual) g.beta = 1, g.ldc = zoe_cuda_row_stride(p->residual);
        return zoe_cuda_multiply(cuda, &g, y->data, x->data, w->data, p->residual ? p->residual->data : NULL, bias);
    }
    if (p->residual) { /* y may be the residual */
        ZOE_TRY(zoe_new_tensor(be, &sum, y->dtype, 2, (const int64_t[]){rows, g.cols}));
        g.ldy = g.cols;
    }
    ZOE_TRY(zoe_cuda_multiply(cuda, &g, sum.data, x->data, w->data, NULL, NULL));
    zoe_cuda_finish f = zoe_cuda_finish_of(y, p, rows);
    f.sum = sum.data, f.sum_type = y->dtype, f.lds = g.ldy;
    return zoe_cuda_check(be, zoe_cuda_launch_finish(&f, cuda->stream), "linear");
}

static int floats(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    zoe_backend *be = &cuda->base;
    const zoe_tensor *all[] = {y, x, w, p->residual};
    int64_t rows = zoe_tensor_rows(x);
    for (int i = 0; i < 4; i++) ZOE_TRY(zoe_cuda_need_float(be, "linear", all[i]));
    bool same = x->dtype == w->dtype && y->dtype == x->dtype && x->dtype != ZOE_F16 && w->shape[1] > 0;
    if (rows > FEW_ROWS && same) return product(cuda, y, x, w, p, rows);
    zoe_cuda_finish f = zoe_cuda_finish_of(y, p, rows);
    return zoe_cuda_check(be,
                          zoe_cuda_launch_few_rows(&f, x->data, x->dtype, zoe_cuda_row_stride(x), w->data, w->dtype,
                                                   w->shape[1], cuda->stream),
                          "linear");
}

int zoe_cuda_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    if (zoe_tensor_rows(x) <= 0 || w->shape[0] <= 0) return ZOE_OK;
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    size_t mark = zoe_arena_mark(be);
    int status =
        zoe_is_quantised(w) || zoe_is_quantised(y) ? zoe_cuda_linear_quantised(cuda, y, x, w, p) : floats(cuda, y, x, w, p);
    zoe_arena_release(be, mark);
    return status;
}
