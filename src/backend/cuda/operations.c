/* The operations that are one kernel each: checks of types, then the launch. */
#include "backend/cuda/cuda.h"
#include "backend/quantised.h"

static const float *data_or_null(const zoe_tensor *t) {
    return t ? t->data : NULL;
}

static int enter(zoe_backend *be, const char *op, int count, const zoe_tensor *const *tensors) {
    for (int i = 0; i < count; i++) ZOE_TRY(zoe_cuda_need_float(be, op, tensors[i]));
    return zoe_cuda_check(be, cudaSetDevice(zoe_cuda_of(be)->device), op);
}

static int too_wide(zoe_backend *be, const char *op, int64_t width) {
    if (width <= INT32_MAX / 8) return ZOE_OK;
    return zoe_fail(be->ctx, ZOE_ERR_UNSUPPORTED, "%s: rows of %lld are too wide", op, (long long)width);
}

/* ---- rows ---- */

int zoe_cuda_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_norm *p) {
    static const int kinds[] =
        {[ZOE_NORM_LAYER] = ZOE_CUDA_NORM_LAYER, [ZOE_NORM_RMS] = ZOE_CUDA_NORM_RMS, [ZOE_NORM_L2] = ZOE_CUDA_NORM_L2};
    int64_t width = x->shape[x->rank - 1];
    ZOE_TRY(enter(be, "norm", zoe_is_quantised(y) ? 1 : 2, (const zoe_tensor *[]){x, y}));
    ZOE_TRY(too_wide(be, "norm", width));
    zoe_cuda_rows rows = {.x = x->data,
                          .y = y->data,
                          .x_type = x->dtype,
                          .y_type = y->dtype,
                          .y_scale = y->scales,
                          .exact = x->dtype == ZOE_F32,
                          .tokens = zoe_tensor_rows(x),
                          .ldx = zoe_cuda_row_stride(x),
                          .ldy = zoe_cuda_row_stride(y),
                          .parts = 1,
                          .width = (int)width,
                          .kind = kinds[p->kind],
                          .act = p->act,
                          .eps = p->eps,
                          .weight = data_or_null(p->weight),
                          .bias = data_or_null(p->bias),
                          .scale = data_or_null(p->scale),
                          .shift = data_or_null(p->shift),
                          .ld_scale = p->scale ? zoe_cuda_row_stride(p->scale) : 0,
                          .ld_shift = p->shift ? zoe_cuda_row_stride(p->shift) : 0,
                          .group = p->row_group ? p->row_group->data : NULL};
    return zoe_cuda_check(be, zoe_cuda_launch_rows(&rows, zoe_cuda_of(be)->stream), "norm");
}

int zoe_cuda_qk_prepare(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_qk *p) {
    static const int kinds[] =
        {[ZOE_NORM_LAYER] = ZOE_CUDA_NORM_LAYER, [ZOE_NORM_RMS] = ZOE_CUDA_NORM_RMS, [ZOE_NORM_L2] = ZOE_CUDA_NORM_L2};
    int64_t width = x->shape[1], parts = p->normalise && p->per_head ? p->heads : 1;
    ZOE_TRY(enter(be, "qk_prepare", 2, (const zoe_tensor *[]){y, x}));
    ZOE_TRY(too_wide(be, "qk_prepare", width));
    if (p->cos && (p->cos->dtype != ZOE_F32 || p->sin->dtype != ZOE_F32))
        return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "qk_prepare: tables of F32 are needed, found %s",
                        zoe_dtype_name(p->cos->dtype));
    zoe_cuda_rows rows = {.x = x->data,
                          .y = y->data,
                          .x_type = x->dtype,
                          .y_type = y->dtype,
                          .tokens = x->shape[0],
                          .ldx = zoe_cuda_row_stride(x),
                          .ldy = zoe_cuda_row_stride(y),
                          .parts = (int)parts,
                          .width = (int)(width / parts),
                          .kind = p->normalise ? kinds[p->kind] : ZOE_CUDA_NORM_NONE,
                          .eps = p->eps,
                          .cos = data_or_null(p->cos),
                          .sin = data_or_null(p->sin),
                          .pairs = p->cos ? (int)p->cos->shape[1] : 0};
    if (p->normalise) rows.weight = data_or_null(p->weight), rows.bias = data_or_null(p->bias);
    return zoe_cuda_check(be, zoe_cuda_launch_rows(&rows, zoe_cuda_of(be)->stream), "qk_prepare");
}

static int group_norm(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *x, const zoe_group_norm *p) {
    zoe_backend *be = &cuda->base;
    int64_t channels = x->shape[3];
    zoe_tensor sums, affine;
    ZOE_TRY(ZOE_NEW(be, &sums, ZOE_F64, ZOE_CUDA_GROUP_PARTS, 2, channels));
    ZOE_TRY(ZOE_NEW(be, &affine, ZOE_F32, 3, channels));
    zoe_cuda_group_norm g = {.x = x->data,
                             .y = y->data,
                             .type = x->dtype,
                             .rows = zoe_tensor_rows(x),
                             .frames = (int)x->shape[0],
                             .height = (int)x->shape[1],
                             .width = (int)x->shape[2],
                             .channels = (int)channels,
                             .groups = (int)p->groups,
                             .eps = p->eps,
                             .weight = data_or_null(p->weight),
                             .bias = data_or_null(p->bias),
                             .first_apart = p->first_apart,
                             .act = p->act};
    if (p->scale) {
        g.scale = p->scale->data, g.shift = p->shift->data;
        for (int i = 0; i < 3; i++) g.map[i] = (int)p->scale->shape[i];
    }
    return zoe_cuda_check(be, zoe_cuda_launch_group_norm(&g, sums.data, affine.data, cuda->stream), "group_norm");
}

int zoe_cuda_group_norm_run(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_group_norm *p) {
    const zoe_tensor *all[] = {x, y, p->scale, p->shift};
    ZOE_TRY(enter(be, "group_norm", 4, all));
    for (int i = 1; i < 4; i++)
        if (all[i] && all[i]->dtype != x->dtype)
            return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "group_norm: one type is needed, found %s and %s",
                            zoe_dtype_name(x->dtype), zoe_dtype_name(all[i]->dtype));
    size_t mark = zoe_arena_mark(be);
    int status = group_norm(zoe_cuda_of(be), y, x, p);
    zoe_arena_release(be, mark);
    return status;
}

int zoe_cuda_embedding(zoe_backend *be, zoe_tensor *y, const zoe_tensor *table, const zoe_tensor *ids) {
    ZOE_TRY(enter(be, "embedding", 2, (const zoe_tensor *[]){y, table}));
    return zoe_cuda_check(be,
                          zoe_cuda_launch_embedding(y->data, y->dtype, zoe_cuda_row_stride(y), table->data, table->dtype,
                                                    table->shape[0], table->shape[1], ids->data, ids->stride[0],
                                                    ids->shape[0], zoe_cuda_of(be)->stream),
                          "embedding");
}

/* ---- elementwise ---- */

/* Axes that lie behind each other in every operand are joined; the last one stays alone when channels are counted on it. */
static zoe_cuda_walk walk_over(int mode, int operands, const zoe_tensor *const *t, bool keep_last) {
    zoe_cuda_walk w = {.mode = mode, .operands = operands, .count = zoe_tensor_count(t[0])};
    for (int axis = 0; axis < t[0]->rank; axis++) {
        int64_t size = t[0]->shape[axis];
        bool alone = keep_last && axis == t[0]->rank - 1;
        if (size == 1 && !alone) continue;
        bool join = w.rank > 0 && !alone;
        for (int i = 0; i < operands && join; i++) join = w.stride[i][w.rank - 1] == size * t[i]->stride[axis];
        if (join)
            w.shape[w.rank - 1] *= size;
        else
            w.shape[w.rank++] = size;
        for (int i = 0; i < operands; i++) w.stride[i][w.rank - 1] = t[i]->stride[axis];
    }
    if (w.rank == 0) {
        w.rank = 1;
        w.shape[0] = 1;
        for (int i = 0; i < operands; i++) w.stride[i][0] = 1;
    }
    for (int i = 0; i < operands; i++) w.data[i] = t[i]->data, w.type[i] = t[i]->dtype;
    return w;
}

static int run_walk(zoe_backend *be, const zoe_cuda_walk *w, const char *op) {
    return zoe_cuda_check(be, zoe_cuda_launch_walk(w, zoe_cuda_of(be)->stream), op);
}

int zoe_cuda_copy(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x) {
    const zoe_tensor *both[] = {y, x};
    if (x->dtype == y->dtype && zoe_tensor_dense(x) && zoe_tensor_dense(y)) {
        ZOE_TRY(enter(be, "copy", 0, NULL));
        return zoe_cuda_check(be,
                              cudaMemcpyAsync(y->data, x->data, (size_t)zoe_tensor_bytes(x), cudaMemcpyDeviceToDevice,
                                              zoe_cuda_of(be)->stream),
                              "copy");
    }
    ZOE_TRY(enter(be, "copy", 2, both));
    zoe_cuda_walk w = walk_over(ZOE_CUDA_COPY, 2, both, false);
    return run_walk(be, &w, "copy");
}

int zoe_cuda_zero(zoe_backend *be, zoe_tensor *y) {
    const zoe_tensor *both[] = {y, y};
    if (zoe_tensor_dense(y)) {
        ZOE_TRY(enter(be, "zero", 0, NULL));
        return zoe_cuda_check(be, cudaMemsetAsync(y->data, 0, (size_t)zoe_tensor_bytes(y), zoe_cuda_of(be)->stream),
                              "zero");
    }
    ZOE_TRY(enter(be, "zero", 1, both));
    zoe_cuda_walk w = walk_over(ZOE_CUDA_ZERO, 1, both, false);
    return run_walk(be, &w, "zero");
}

int zoe_cuda_activate(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *times, zoe_act act) {
    const zoe_tensor *all[] = {y, x, times};
    ZOE_TRY(enter(be, "activate", 3, all));
    zoe_cuda_walk w = walk_over(ZOE_CUDA_ACTIVATE, times ? 3 : 2, all, false);
    w.act = (int)act;
    return run_walk(be, &w, "activate");
}

int zoe_cuda_scale_shift(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *scale,
                         const zoe_tensor *shift) {
    const zoe_tensor *both[] = {y, x};
    ZOE_TRY(enter(be, "scale_shift", 2, both));
    zoe_cuda_walk w = walk_over(ZOE_CUDA_SCALE_SHIFT, 2, both, true);
    w.scale = data_or_null(scale);
    w.shift = data_or_null(shift);
    return run_walk(be, &w, "scale_shift");
}

int zoe_cuda_lincomb(zoe_backend *be, zoe_tensor *y, int count, const zoe_tensor *const *x, const float *coefficients) {
    const zoe_tensor *all[ZOE_CUDA_OPERANDS] = {y};
    for (int i = 0; i < count; i++) all[i + 1] = x[i];
    ZOE_TRY(enter(be, "lincomb", count + 1, all));
    zoe_cuda_walk w = walk_over(ZOE_CUDA_LINCOMB, count + 1, all, false);
    for (int i = 0; i < count; i++) w.coefficient[i + 1] = coefficients[i];
    return run_walk(be, &w, "lincomb");
}

int zoe_cuda_finite(zoe_backend *be, const zoe_tensor *x, bool *out) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    int flag = 1;
    ZOE_TRY(enter(be, "finite", 1, &x));
    ZOE_TRY(zoe_cuda_upload(be, cuda->flag, &flag, sizeof flag));
    ZOE_CUDA(be, zoe_cuda_launch_finite(cuda->flag, x->data, x->dtype, zoe_tensor_count(x), cuda->stream));
    ZOE_TRY(zoe_cuda_download(be, &flag, cuda->flag, sizeof flag));
    *out = flag != 0;
    return ZOE_OK;
}

/* ---- convolution ---- */

/* A kernel of one tap is a linear layer over the pixels. */
static bool pointwise(const zoe_conv *p) {
    for (int i = 0; i < 3; i++)
        if (p->kernel[i] != 1 || p->stride[i] != 1 || p->pad[i][0] || p->pad[i][1]) return false;
    return p->upsample == 1 && !p->history && (!p->residual || zoe_tensor_dense(p->residual));
}

static int check_conv(zoe_backend *be, const zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_conv *p) {
    const zoe_tensor *same[] = {x, p->history, p->residual};
    ZOE_TRY(enter(be, "conv", 1, &w));
    for (int i = 0; i < 3; i++)
        if ((y->dtype != ZOE_F32 && y->dtype != ZOE_BF16) || (same[i] && same[i]->dtype != y->dtype))
            return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "conv: all of F32 or all of BF16 are needed, found %s and %s",
                            zoe_dtype_name(y->dtype), same[i] ? zoe_dtype_name(same[i]->dtype) : "nothing");
    int64_t blocks = (y->shape[1] * y->shape[2] + 63) / 64;
    if (blocks > 65535 || y->shape[0] > 65535 || zoe_tensor_count(w) > INT32_MAX ||
        x->shape[1] * x->shape[2] * x->shape[3] > INT32_MAX)
        return zoe_fail(be->ctx, ZOE_ERR_UNSUPPORTED, "conv: %lld frames of %lldx%lld are too large",
                        (long long)y->shape[0], (long long)y->shape[2], (long long)y->shape[1]);
    return ZOE_OK;
}

int zoe_cuda_conv(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_conv *p) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    ZOE_TRY(check_conv(be, y, x, w, p));
    if (zoe_tensor_count(y) <= 0) return ZOE_OK;
    if (pointwise(p)) {
        zoe_tensor flat = ZOE_VIEW(w, w->shape[0], w->shape[4]);
        return zoe_cuda_linear(be, y, x, &flat, &(zoe_linear){.bias = p->bias, .residual = p->residual});
    }
    zoe_cuda_convolution c = {.x = x->data,
                              .w = w->data,
                              .history = p->history ? p->history->data : NULL,
                              .residual = p->residual ? p->residual->data : NULL,
                              .y = y->data,
                              .bias = data_or_null(p->bias),
                              .history_stride = p->history ? p->history->stride[0] : 0,
                              .type = y->dtype,
                              .w_type = w->dtype,
                              .before = p->history ? (int)p->history->shape[0] : 0,
                              .frames = (int)x->shape[0],
                              .height = (int)x->shape[1],
                              .width = (int)x->shape[2],
                              .in = (int)x->shape[3],
                              .out_frames = (int)y->shape[0],
                              .out_height = (int)y->shape[1],
                              .out_width = (int)y->shape[2],
                              .out = (int)y->shape[3],
                              .upsample = p->upsample};
    for (int i = 0; i < 3 && p->residual; i++) c.residual_stride[i] = p->residual->stride[i];
    for (int i = 0; i < 3; i++) c.kernel[i] = p->kernel[i], c.stride[i] = p->stride[i], c.pad[i] = p->pad[i][0];
    return zoe_cuda_check(be, zoe_cuda_launch_conv(&c, cuda->level, cuda->stream), "conv");
}
