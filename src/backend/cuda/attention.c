/*
 * softmax(scale q k^T + bias) v, by one of these ways. Of bf16: to keys that fit into shared memory on Hopper, and to two
 * sets of such keys, by a kernel of ours. For long sequences: through int8 and e4m3 where that was asked for, else a kernel
 * of ours on Hopper or cuDNN. For a few keys and repeated ones elsewhere: another kernel of ours.
 * For everything else (float32, wide heads, biases): two products with a softmax between, for as many queries at a time as
 * a bounded piece of memory holds.
 */
#include <math.h>

#include "backend/cuda/cuda.h"
#include "backend/sage.h"

#define SCORE_BYTES ((int64_t)128 << 20)
#define FEW_KEYS    (ZOE_SAGE_FEWEST - 1) /* for which cuDNN and quantising are not worth it */

static bool pieces(const zoe_tensor *t) {
    return (uintptr_t)t->data % 16 == 0 && t->stride[0] % 8 == 0 && t->stride[1] % 8 == 0;
}

/* Heads of bf16 whose rows are whole 16-byte pieces. */
static bool narrow(const zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v) {
    const zoe_tensor *all[] = {y, q, k, v};
    for (int i = 0; i < 4; i++)
        if (all[i]->dtype != ZOE_BF16 || !pieces(all[i])) return false;
    return q->shape[2] == v->shape[2];
}

static zoe_cuda_flash describe(zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v, float scale,
                               float last) {
    return (zoe_cuda_flash){.q = q->data,
                            .k = k->data,
                            .v = v->data,
                            .y = y->data,
                            .q_head = q->stride[0],
                            .q_row = q->stride[1],
                            .k_head = k->stride[0],
                            .k_row = k->stride[1],
                            .v_head = v->stride[0],
                            .v_row = v->stride[1],
                            .y_head = y->stride[0],
                            .y_row = y->stride[1],
                            .heads = (int)q->shape[0],
                            .queries = (int)q->shape[1],
                            .keys = (int)k->shape[1],
                            .dim = (int)q->shape[2],
                            .scale = scale,
                            .last = last};
}

/* Whether kernels of ours take this, described in *f then. */
static bool ours(zoe_cuda_flash *f, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                 const zoe_attention *p) {
    if (p->relative_bias || !narrow(y, q, k, v) || (q->shape[2] != 64 && q->shape[2] != 128)) return false;
    if (q->shape[1] >= INT32_MAX || k->shape[1] >= INT32_MAX || q->shape[0] > 65535) return false;
    *f = describe(y, q, k, v, p->scale, p->last_key_repeats > 1 ? logf((float)p->last_key_repeats) : 0);
    return true;
}

/* Whether the keys of all `count` sets stay in shared memory. */
static bool few(const zoe_cuda *cuda, const zoe_cuda_flash *f, int count) {
    return cuda->level == 90 && zoe_cuda_flash_few_fits(f, count, cuda->shared_bytes);
}

static int attend_few(zoe_cuda *cuda, const zoe_cuda_flash *f, int count) {
    cudaError_t error = zoe_cuda_launch_flash_few(f, count, cuda->processors, cuda->stream);
    return zoe_cuda_check(&cuda->base, error, "attention");
}

static int portable(zoe_cuda *cuda, const zoe_cuda_flash *f) {
    return zoe_cuda_check(&cuda->base, zoe_cuda_launch_flash(f, cuda->stream), "attention");
}

static int sage(zoe_cuda *cuda, const zoe_cuda_flash *f) {
    zoe_tensor memory;
    size_t mark = zoe_arena_mark(&cuda->base);
    zoe_sage_layout l = zoe_sage_lay_out(f->heads, f->queries, f->keys, f->dim, cuda->base.sage_value);
    ZOE_TRY(ZOE_NEW(&cuda->base, &memory, ZOE_I8, l.bytes));
    int status = zoe_cuda_check(&cuda->base, zoe_cuda_launch_sage(f, memory.data, cuda->level, cuda->stream), "attention");
    zoe_arena_release(&cuda->base, mark);
    return status;
}

/* By the kernel of ours that is best for it; not *done: if cuDNN has nothing better. */
static int attend(zoe_cuda *cuda, const zoe_cuda_flash *f, bool *done) {
    bool short_row = f->keys <= FEW_KEYS;
    *done = true;
    if (few(cuda, f, 1)) return attend_few(cuda, f, 1);
    if (f->last == 0 && !short_row && cuda->base.sage) return sage(cuda, f);
    if (cuda->level == 90) return zoe_cuda_check(&cuda->base, zoe_cuda_launch_flash_hopper(f, cuda->stream), "attention");
    *done = f->last != 0 || short_row;
    return *done ? portable(cuda, f) : ZOE_OK;
}

/* To two sets of keys. */
static int attend_both(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                       const zoe_attention *p) {
    zoe_attention second = {.scale = p->scale};
    zoe_cuda_flash f[2];
    if (ours(&f[0], y, q, k, v, p) && ours(&f[1], y, q, p->more_k, p->more_v, &second) && few(cuda, f, 2))
        return attend_few(cuda, f, 2);
    return zoe_attention_apart(&cuda->base, y, q, k, v, p);
}

/* Queries q0 .. q0 + count with scores and p of [heads, count, padded keys]. */
static int some_queries(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                        const zoe_attention *a, float last, int64_t q0, int64_t count, zoe_tensor *scores, zoe_tensor *p) {
    int64_t heads = q->shape[0], keys = k->shape[1], ld = scores->shape[2];
    zoe_tensor some_q = zoe_view_slice(q, 1, q0, count), some_y = zoe_view_slice(y, 1, q0, count);
    zoe_cuda_product qk = {.rows = count,
                           .cols = keys,
                           .depth = q->shape[2],
                           .batch = heads,
                           .ldx = q->stride[1],
                           .ldw = k->stride[1],
                           .ldy = ld,
                           .step_x = q->stride[0],
                           .step_w = k->stride[0],
                           .step_y = count * ld,
                           .in = q->dtype,
                           .out = ZOE_F32,
                           .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                           .alpha = a->scale};
    zoe_cuda_product pv = {.rows = count,
                           .cols = v->shape[2],
                           .depth = keys,
                           .batch = heads,
                           .ldx = ld,
                           .ldw = v->stride[1],
                           .ldy = y->stride[1],
                           .step_x = count * ld,
                           .step_w = v->stride[0],
                           .step_y = y->stride[0],
                           .in = v->dtype,
                           .out = y->dtype,
                           .straight = 1,
                           .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                           .alpha = 1};
    zoe_cuda_softmax s = {.scores = scores->data,
                          .p = p->data,
                          .p_type = p->dtype,
                          .heads = heads,
                          .queries = count,
                          .keys = keys,
                          .ld = ld,
                          .last = last};
    if (a->relative_bias) {
        s.bias = a->relative_bias->data;
        s.bias_width = a->relative_bias->shape[1];
        s.bias_start = q->shape[1] - 1 - q0;
    }
    ZOE_TRY(zoe_cuda_multiply(cuda, &qk, scores->data, some_q.data, k->data, NULL, NULL));
    ZOE_TRY(zoe_cuda_check(&cuda->base, zoe_cuda_launch_softmax(&s, cuda->stream), "attention"));
    return zoe_cuda_multiply(cuda, &pv, some_y.data, p->data, v->data, NULL, NULL);
}

static int unfused(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                   const zoe_attention *a, float last) {
    zoe_backend *be = &cuda->base;
    int64_t heads = q->shape[0], queries = q->shape[1], keys = (k->shape[1] + 7) / 8 * 8; /* whole pieces */
    int64_t row = heads * keys * (4 + (int64_t)zoe_dtype_size(v->dtype)), most = SCORE_BYTES / row / 64 * 64;
    zoe_tensor scores, p;
    if (most < 64) most = 64;
    if (most > queries) most = queries;
    ZOE_TRY(zoe_new_tensor(be, &scores, ZOE_F32, 3, (const int64_t[]){heads, most, keys}));
    ZOE_TRY(zoe_new_tensor(be, &p, v->dtype, 3, (const int64_t[]){heads, most, keys}));
    for (int64_t q0 = 0; q0 < queries; q0 += most) {
        int64_t count = queries - q0 < most ? queries - q0 : most;
        ZOE_TRY(some_queries(cuda, y, q, k, v, a, last, q0, count, &scores, &p));
    }
    return ZOE_OK;
}

int zoe_cuda_attention(zoe_backend *be, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                       const zoe_attention *p) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    const zoe_tensor *all[] = {q, k, v};
    for (int i = 0; i < 3; i++)
        if (all[i]->dtype != y->dtype || (y->dtype != ZOE_F32 && y->dtype != ZOE_BF16))
            return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "attention: all of F32 or all of BF16 are needed, found %s and %s",
                            zoe_dtype_name(y->dtype), zoe_dtype_name(all[i]->dtype));
    if (q->shape[0] <= 0 || q->shape[1] <= 0) return ZOE_OK;
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    zoe_cuda_flash f;
    bool kernels = !p->more_k && ours(&f, y, q, k, v, p), done = false;
    if (p->more_k) return attend_both(cuda, y, q, k, v, p);
    if (kernels) ZOE_TRY(attend(cuda, &f, &done));
    float last = p->last_key_repeats > 1 ? logf((float)p->last_key_repeats) : 0;
    if (!done && !p->relative_bias && last == 0 && narrow(y, q, k, v))
        ZOE_TRY(zoe_cuda_sdpa_run(cuda, y, q, k, v, p->scale, &done));
    if (done) return ZOE_OK;
    if (kernels) return portable(cuda, &f);
    size_t mark = zoe_arena_mark(be);
    int status = unfused(cuda, y, q, k, v, p, last);
    zoe_arena_release(be, mark);
    return status;
}
