#include "nn/block.h"

#include <math.h>

/* Rows of the MLP's hidden layer computed at a time: enough to fill the machine, few enough to stay small. */
#define MLP_ROWS        4096
#define MLP_ROWS_DEVICE 32768

/* Rows that `fastest` would be, fewer where the backend is to save memory. */
static int64_t rows_at_a_time(const zoe_backend *be, int64_t fastest, int64_t tokens) {
    int64_t rows = be->rows && be->rows < fastest ? be->rows : fastest;
    return rows < tokens ? rows : tokens;
}

int zoe_nn_modulation(zoe_backend *be, const zoe_time_layers *layers, int64_t sinusoid, int64_t groups,
                      const double *timesteps, zoe_modulation *m) {
    int64_t width = layers->first.w.shape[0];
    zoe_tensor in, hidden, activated;
    float *rows;
    ZOE_TRY(ZOE_NEW(be, &m->embedding, ZOE_F32, groups, width));
    ZOE_TRY(ZOE_NEW(be, &m->six, ZOE_F32, groups, 6, width));
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, rows, groups * sinusoid));
    zoe_timestep_embedding(rows, timesteps, groups, sinusoid);
    int status = zoe_nn_from_host(be, &in, ZOE_F32, 2, (const int64_t[]){groups, sinusoid}, rows);
    zoe_free(be->ctx, rows);
    ZOE_TRY(status);
    ZOE_TRY(ZOE_NEW(be, &hidden, ZOE_F32, groups, width));
    ZOE_TRY(ZOE_NEW(be, &activated, ZOE_F32, groups, width));
    ZOE_TRY(zoe_nn_linear(be, &hidden, &in, &layers->first, ZOE_ACT_SILU));
    ZOE_TRY(zoe_nn_linear(be, &m->embedding, &hidden, &layers->second, ZOE_ACT_NONE));
    ZOE_TRY(zoe_op_activate(be, &activated, &m->embedding, NULL, ZOE_ACT_SILU));
    zoe_tensor six = ZOE_VIEW(&m->six, groups, 6 * width);
    return zoe_nn_linear(be, &six, &activated, &layers->projection, ZOE_ACT_NONE);
}

int zoe_nn_add_table(zoe_backend *be, const zoe_tensor *table, const zoe_tensor *base, zoe_tensor *rows) {
    zoe_tensor t = ZOE_VIEW(table, 1, rows->shape[1], rows->shape[2]), b = *base;
    t.shape[0] = rows->shape[0], t.stride[0] = 0;
    if (b.shape[1] == 1) b.shape[1] = rows->shape[1], b.stride[1] = 0;
    return zoe_op_lincomb(be, rows, 2, (const zoe_tensor *[]){&t, &b}, (float[]){1, 1});
}

zoe_tensor zoe_nn_chunk(const zoe_tensor *rows, int j) {
    zoe_tensor view = zoe_view_slice(rows, 1, j, 1);
    view.rank = 2;
    view.shape[1] = rows->shape[2];
    view.stride[1] = 1;
    return view;
}

/* y [tokens, width] = prepare(n w), while y is still near the processor */
static int project(zoe_backend *be, zoe_tensor *y, const zoe_tensor *n, const zoe_lin *lin, const zoe_lin *norm,
                   zoe_qk qk) {
    qk.weight = norm->w.rank ? &norm->w : NULL;
    qk.bias = norm->b.rank ? &norm->b : NULL;
    ZOE_TRY(zoe_nn_linear(be, y, n, lin, ZOE_ACT_NONE));
    return zoe_op_qk_prepare(be, y, y, &qk);
}

/* Some rows of a layer's input, with what belongs to them of its norm. */
typedef struct some_rows {
    zoe_tensor x, groups;
    zoe_norm norm;
} some_rows;

static void take_rows(some_rows *out, const zoe_tensor *x, const zoe_norm *norm, int64_t start, int64_t count) {
    *out = (some_rows){.x = zoe_view_slice(x, 0, start, count), .norm = *norm};
    if (!norm->row_group) return;
    out->groups = zoe_view_slice(norm->row_group, 0, start, count);
    out->norm.row_group = &out->groups;
}

/* Rows `start` on of q, k and v [tokens, width], from norm(x). */
static int project_rows(zoe_backend *be, const some_rows *rows, const zoe_projections *p, const zoe_qk *qk, int64_t start,
                        const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v) {
    int64_t count = rows->x.shape[0];
    size_t mark = zoe_arena_mark(be);
    zoe_tensor n, cos, sin, some_q = zoe_view_slice(q, 0, start, count);
    zoe_tensor some_k = zoe_view_slice(k, 0, start, count), some_v = zoe_view_slice(v, 0, start, count);
    zoe_qk some = *qk;
    if (qk->cos) cos = zoe_view_slice(qk->cos, 0, start, count), some.cos = &cos;
    if (qk->sin) sin = zoe_view_slice(qk->sin, 0, start, count), some.sin = &sin;
    ZOE_TRY(zoe_new_rows(be, &n, zoe_nn_rows_for(be, &p->q), count, rows->x.shape[1]));
    ZOE_TRY(zoe_op_norm(be, &n, &rows->x, &rows->norm));
    ZOE_TRY(project(be, &some_q, &n, &p->q, &p->norm_q, some));
    ZOE_TRY(project(be, &some_k, &n, &p->k, &p->norm_k, some));
    ZOE_TRY(zoe_nn_linear(be, &some_v, &n, &p->v, ZOE_ACT_NONE));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

int zoe_nn_self_attention(zoe_backend *be, zoe_tensor *x, const zoe_norm *norm, const zoe_projections *p, const zoe_qk *qk,
                          const zoe_tensor *gate) {
    int64_t tokens = x->shape[0], width = x->shape[1], most = rows_at_a_time(be, tokens, tokens);
    some_rows rows;
    zoe_tensor q, k, v, y;
    ZOE_TRY(ZOE_NEW(be, &q, be->dtype, tokens, width));
    ZOE_TRY(ZOE_NEW(be, &k, be->dtype, tokens, width));
    ZOE_TRY(ZOE_NEW(be, &v, be->dtype, tokens, width));
    for (int64_t start = 0; start < tokens; start += most) {
        take_rows(&rows, x, norm, start, tokens - start < most ? tokens - start : most);
        ZOE_TRY(project_rows(be, &rows, p, qk, start, &q, &k, &v));
    }
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, most, width));
    zoe_tensor kh = zoe_view_heads(&k, qk->heads), vh = zoe_view_heads(&v, qk->heads);
    float scale = 1 / sqrtf((float)(width / qk->heads));
    for (int64_t start = 0; start < tokens; start += most) {
        int64_t count = tokens - start < most ? tokens - start : most;
        take_rows(&rows, x, norm, start, count);
        zoe_tensor some_q = zoe_view_slice(&q, 0, start, count), some_y = zoe_view_slice(&y, 0, 0, count);
        zoe_tensor yh = zoe_view_heads(&some_y, qk->heads), qh = zoe_view_heads(&some_q, qk->heads);
        ZOE_TRY(zoe_op_attention(be, &yh, &qh, &kh, &vh, &(zoe_attention){.scale = scale}));
        ZOE_TRY(zoe_nn_linear_add(be, &rows.x, &some_y, &p->o, &rows.x, gate, rows.norm.row_group));
    }
    return ZOE_OK;
}

int zoe_nn_keys_values(zoe_backend *be, const zoe_tensor *x, const zoe_lin *k, const zoe_lin *v, const zoe_tensor *norm,
                       float eps, int layer, const zoe_tensor *keys, const zoe_tensor *values) {
    zoe_tensor key = zoe_view_slice(keys, 0, layer, 1), value = zoe_view_slice(values, 0, layer, 1);
    key = ZOE_VIEW(&key, keys->shape[1], keys->shape[2]);
    value = ZOE_VIEW(&value, values->shape[1], values->shape[2]);
    ZOE_TRY(zoe_nn_linear(be, &key, x, k, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_norm(be, &key, &key, ZOE_NORM_RMS, eps, norm, NULL, ZOE_ACT_NONE));
    return zoe_nn_linear(be, &value, x, v, ZOE_ACT_NONE);
}

int zoe_nn_mlp(zoe_backend *be, zoe_tensor *x, const zoe_norm *norm, const zoe_lin *up, const zoe_lin *down,
               const zoe_tensor *gate) {
    int64_t tokens = x->shape[0];
    int64_t most = rows_at_a_time(be, be->ops->host_memory ? MLP_ROWS : MLP_ROWS_DEVICE, tokens);
    zoe_tensor n, hidden;
    some_rows rows;
    ZOE_TRY(zoe_new_rows(be, &n, zoe_nn_rows_for(be, up), most, x->shape[1]));
    ZOE_TRY(zoe_new_rows(be, &hidden, zoe_nn_rows_for(be, down), most, up->w.shape[0]));
    for (int64_t start = 0; start < tokens; start += most) {
        int64_t count = tokens - start < most ? tokens - start : most;
        zoe_tensor np = zoe_view_slice(&n, 0, 0, count), hp = zoe_view_slice(&hidden, 0, 0, count);
        take_rows(&rows, x, norm, start, count);
        ZOE_TRY(zoe_op_norm(be, &np, &rows.x, &rows.norm));
        ZOE_TRY(zoe_nn_linear(be, &hp, &np, up, ZOE_ACT_GELU_TANH));
        ZOE_TRY(zoe_nn_linear_add(be, &rows.x, &hp, down, &rows.x, gate, rows.norm.row_group));
    }
    return ZOE_OK;
}
