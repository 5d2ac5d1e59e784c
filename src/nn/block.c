#include "nn/block.h"

#include <math.h>

/* Rows of the MLP's hidden layer computed at a time: enough to fill the machine, few enough to stay small. */
#define MLP_ROWS        4096
#define MLP_ROWS_DEVICE 16384

/* y [tokens, width] = prepare(n w), while y is still near the processor */
static int project(zoe_backend *be, zoe_tensor *y, const zoe_tensor *n, const zoe_lin *lin, const zoe_lin *norm,
                   zoe_qk qk) {
    qk.weight = norm->w.rank ? &norm->w : NULL;
    qk.bias = norm->b.rank ? &norm->b : NULL;
    ZOE_TRY(zoe_nn_linear(be, y, n, lin, ZOE_ACT_NONE));
    return zoe_op_qk_prepare(be, y, y, &qk);
}

int zoe_nn_self_attention(zoe_backend *be, zoe_tensor *x, const zoe_norm *norm, const zoe_projections *p, const zoe_qk *qk,
                          const zoe_tensor *gate) {
    int64_t tokens = x->shape[0], width = x->shape[1];
    zoe_tensor n, q, k, v, y;
    ZOE_TRY(ZOE_NEW(be, &q, be->dtype, tokens, width));
    ZOE_TRY(ZOE_NEW(be, &k, be->dtype, tokens, width));
    ZOE_TRY(ZOE_NEW(be, &v, be->dtype, tokens, width));
    size_t inner = zoe_arena_mark(be);
    ZOE_TRY(zoe_new_rows(be, &n, zoe_nn_rows_for(be, &p->q), tokens, width));
    ZOE_TRY(zoe_op_norm(be, &n, x, norm));
    ZOE_TRY(project(be, &q, &n, &p->q, &p->norm_q, *qk));
    ZOE_TRY(project(be, &k, &n, &p->k, &p->norm_k, *qk));
    ZOE_TRY(zoe_nn_linear(be, &v, &n, &p->v, ZOE_ACT_NONE));
    zoe_arena_release(be, inner);
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, tokens, width));
    zoe_tensor yh = zoe_view_heads(&y, qk->heads), qh = zoe_view_heads(&q, qk->heads);
    zoe_tensor kh = zoe_view_heads(&k, qk->heads), vh = zoe_view_heads(&v, qk->heads);
    float scale = 1 / sqrtf((float)(width / qk->heads));
    ZOE_TRY(zoe_op_attention(be, &yh, &qh, &kh, &vh, &(zoe_attention){.scale = scale}));
    return zoe_nn_linear_add(be, x, &y, &p->o, x, gate, norm->row_group);
}

int zoe_nn_mlp(zoe_backend *be, zoe_tensor *x, const zoe_norm *norm, const zoe_lin *up, const zoe_lin *down,
               const zoe_tensor *gate) {
    int64_t tokens = x->shape[0], most = be->ops->host_memory ? MLP_ROWS : MLP_ROWS_DEVICE;
    zoe_tensor n, hidden, groups;
    zoe_norm part_norm = *norm;
    if (most > tokens) most = tokens;
    ZOE_TRY(zoe_new_rows(be, &n, zoe_nn_rows_for(be, up), most, x->shape[1]));
    ZOE_TRY(zoe_new_rows(be, &hidden, zoe_nn_rows_for(be, down), most, up->w.shape[0]));
    for (int64_t start = 0; start < tokens; start += most) {
        int64_t count = tokens - start < most ? tokens - start : most;
        zoe_tensor part = zoe_view_slice(x, 0, start, count);
        zoe_tensor np = zoe_view_slice(&n, 0, 0, count), hp = zoe_view_slice(&hidden, 0, 0, count);
        if (norm->row_group) {
            groups = zoe_view_slice(norm->row_group, 0, start, count);
            part_norm.row_group = &groups;
        }
        ZOE_TRY(zoe_op_norm(be, &np, &part, &part_norm));
        ZOE_TRY(zoe_nn_linear(be, &hp, &np, up, ZOE_ACT_GELU_TANH));
        ZOE_TRY(zoe_nn_linear_add(be, &part, &hp, down, &part, gate, part_norm.row_group));
    }
    return ZOE_OK;
}
