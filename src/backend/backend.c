/* What all backends share: the arena, shape checks and the count of the work. */
#include "backend/backend.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/profile.h"
#include "backend/quantised.h"
#include "backend/sage.h"

#define ALIGNMENT  256
#define HOST_LARGE ((size_t)16 << 20)

void zoe_backend_close(zoe_backend *be) {
    if (be) be->ops->close(be);
}

static int push(zoe_backend *be, size_t bytes, void **out) {
    bytes = (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if (bytes > be->arena.size - be->arena.used) return zoe_out_of_memory(be->ctx, bytes, "activations");
    if (be->ops->grow && be->arena.used + bytes > be->arena.backed) ZOE_TRY(be->ops->grow(be, be->arena.used + bytes));
    *out = be->arena.base + be->arena.used;
    be->arena.used += bytes;
    if (be->arena.used > be->arena.peak) be->arena.peak = be->arena.used;
    return ZOE_OK;
}

int zoe_new_tensor(zoe_backend *be, zoe_tensor *t, zoe_dtype dtype, int rank, const int64_t *shape) {
    *t = zoe_tensor_of(NULL, dtype, rank, shape);
    return push(be, (size_t)zoe_tensor_bytes(t), &t->data);
}

int zoe_new_rows(zoe_backend *be, zoe_tensor *t, zoe_dtype dtype, int64_t rows, int64_t width) {
    void *memory = NULL;
    if (dtype != ZOE_I8 && dtype != ZOE_F8_E4M3) return ZOE_NEW(be, t, dtype, rows, width);
    ZOE_TRY(push(be, (size_t)zoe_quantised_bytes(dtype, rows, width, 0), &memory));
    *t = zoe_quantised_of(memory, dtype, rows, width, 0);
    return ZOE_OK;
}

size_t zoe_arena_mark(const zoe_backend *be) {
    return be->arena.used;
}

void zoe_arena_release(zoe_backend *be, size_t mark) {
    be->arena.used = mark;
}

void zoe_arena_trim(zoe_backend *be) {
    be->ops->trim(be);
}

int zoe_backend_alloc(zoe_backend *be, zoe_tensor *t, zoe_dtype dtype, int rank, const int64_t *shape) {
    *t = zoe_tensor_of(NULL, dtype, rank, shape);
    return be->ops->alloc(be, (size_t)zoe_tensor_bytes(t), &t->data);
}

void zoe_backend_free(zoe_backend *be, void *data) {
    if (data) be->ops->free(be, data);
}

/* In front of the memory, and as large as it is aligned. */
typedef union host_header {
    size_t bytes;
    max_align_t align;
} host_header;

/* Large pages, where the system gives them when asked: memory that is written once and given back is mostly its faults. */
static void ask_large_pages(void *memory, size_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = ((uintptr_t)memory + page - 1) / page * page, end = ((uintptr_t)memory + bytes) / page * page;
    if (bytes >= HOST_LARGE && end > start) madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

int zoe_host_alloc(zoe_backend *be, size_t bytes, void **out) {
    size_t total = sizeof(host_header) + (be->ops->computes ? bytes : 0);
    host_header *header = zoe_alloc(be->ctx, total);
    *out = NULL;
    if (!header) return zoe_out_of_memory(be->ctx, total, "memory on the host");
    ask_large_pages(header, total);
    header->bytes = bytes;
    be->host_bytes += (int64_t)bytes;
    if (be->host_bytes > be->host_peak) be->host_peak = be->host_bytes;
    *out = header + 1;
    return ZOE_OK;
}

void zoe_host_free(zoe_backend *be, void *memory) {
    if (!memory) return;
    host_header *header = (host_header *)memory - 1;
    be->host_bytes -= (int64_t)header->bytes;
    zoe_free(be->ctx, header);
}

zoe_work zoe_work_since(const zoe_work *now, const zoe_work *before) {
    return (zoe_work){.linear_flops = now->linear_flops - before->linear_flops,
                      .attention_flops = now->attention_flops - before->attention_flops,
                      .conv_flops = now->conv_flops - before->conv_flops,
                      .int8_flops = now->int8_flops - before->int8_flops,
                      .fp8_flops = now->fp8_flops - before->fp8_flops,
                      .sage_flops = now->sage_flops - before->sage_flops,
                      .bytes = now->bytes - before->bytes,
                      .seconds = now->seconds - before->seconds};
}

int zoe_upload(zoe_backend *be, const zoe_tensor *to, const void *host) {
    return be->ops->upload(be, to->data, host, (size_t)zoe_tensor_bytes(to));
}

int zoe_download(zoe_backend *be, void *host, const zoe_tensor *from) {
    return be->ops->download(be, host, from->data, (size_t)zoe_tensor_bytes(from));
}

int zoe_upload_begin(zoe_backend *be, const zoe_tensor *to, const void *host) {
    if (!be->ops->upload_begin) return zoe_upload(be, to, host);
    return be->ops->upload_begin(be, to->data, host, (size_t)zoe_tensor_bytes(to));
}

int zoe_upload_end(zoe_backend *be) {
    return be->ops->upload_end ? be->ops->upload_end(be) : ZOE_OK;
}

static int download_begin(zoe_backend *be, void *host, const zoe_tensor *from, bool beside) {
    if (!be->ops->download_begin) return zoe_download(be, host, from);
    return be->ops->download_begin(be, host, from->data, (size_t)zoe_tensor_bytes(from), beside);
}

int zoe_download_begin(zoe_backend *be, void *host, const zoe_tensor *from) {
    return download_begin(be, host, from, false);
}

int zoe_download_beside(zoe_backend *be, void *host, const zoe_tensor *from) {
    return download_begin(be, host, from, true);
}

int zoe_download_end(zoe_backend *be) {
    return be->ops->download_end ? be->ops->download_end(be) : ZOE_OK;
}

int zoe_synchronize(zoe_backend *be) {
    return be->ops->synchronize(be);
}

/* ---- checks ---- */

/* A broken shape here is a bug in model code or a configuration that the loader let through. */
static int bad_shape(zoe_backend *be, const char *op, const char *rule, const zoe_tensor *a, const zoe_tensor *b) {
    char first[96], second[96] = "none";
    zoe_shape_text(first, sizeof first, a->rank, a->shape);
    if (b) zoe_shape_text(second, sizeof second, b->rank, b->shape);
    return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "%s: %s does not hold for shapes %s and %s", op, rule, first, second);
}

#define CHECK(condition, op, a, b)                                                                                         \
    do {                                                                                                                   \
        if (!(condition)) return bad_shape(be, op, #condition, a, b);                                                      \
    } while (0)

static int64_t last(const zoe_tensor *t) {
    return t->shape[t->rank - 1];
}

static bool channels(const zoe_tensor *t, int64_t count) {
    return !t || (last(t) == count && t->dtype == ZOE_F32 && t->stride[t->rank - 1] == 1);
}

/* The leading axes can be walked with one stride. */
static bool uniform_rows(const zoe_tensor *t) {
    if (t->stride[t->rank - 1] != 1 && last(t) != 1) return false;
    for (int i = t->rank - 2; i > 0; i--)
        if (t->shape[i - 1] != 1 && t->stride[i - 1] != t->stride[i] * t->shape[i]) return false;
    return true;
}

static bool groups(const zoe_tensor *row_group, int64_t rows) {
    return !row_group ||
           (row_group->dtype == ZOE_I32 && zoe_tensor_count(row_group) == rows && zoe_tensor_dense(row_group));
}

/* Floats, or quantised rows where the backend has them. */
static bool rows_fit(const zoe_backend *be, const zoe_tensor *t) {
    return !zoe_is_quantised(t) || (be->ops->quantised_rows && t->scales && t->group == 0 && zoe_tensor_dense(t));
}

static void count_bytes(zoe_backend *be, const zoe_tensor *t) {
    if (t) be->work.bytes += (double)zoe_tensor_bytes(t);
}

/* ---- operations ---- */

/* Ends an operation with the backend's work, which a profile may be waiting for. */
#define RUN(kind, call)                                                                                                    \
    do {                                                                                                                   \
        ZOE_TRY(zoe_profile_begin(be));                                                                                    \
        ZOE_TRY(call);                                                                                                     \
        return zoe_profile_end(be, kind);                                                                                  \
    } while (0)

int zoe_op_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    static const zoe_linear plain = {0};
    if (!p) p = &plain;
    int64_t rows = zoe_tensor_rows(x), in = last(x), out = last(y);
    CHECK(w->rank == 2 && w->shape[0] == out && w->shape[1] == in && zoe_tensor_dense(w), "linear", x, w);
    CHECK(zoe_tensor_rows(y) == rows && uniform_rows(x) && uniform_rows(y), "linear", x, y);
    CHECK(channels(p->bias, out) && channels(p->gate, out) && groups(p->row_group, rows), "linear", x, y);
    CHECK(!p->residual || (zoe_tensor_rows(p->residual) == rows && last(p->residual) == out && uniform_rows(p->residual)),
          "linear", y, p->residual);
    CHECK(rows_fit(be, x) && (!zoe_is_quantised(x) || x->dtype == w->dtype), "linear", x, w);
    CHECK(rows_fit(be, y) && (!zoe_is_quantised(y) || !p->residual), "linear", y, x);
    double flops = 2.0 * (double)rows * (double)in * (double)out;
    be->work.linear_flops += flops;
    if (w->dtype == ZOE_I8) be->work.int8_flops += flops;
    if (w->dtype == ZOE_F8_E4M3) be->work.fp8_flops += flops;
    count_bytes(be, x), count_bytes(be, w), count_bytes(be, y), count_bytes(be, p->residual);
    RUN(w->dtype == ZOE_I8 || w->dtype == ZOE_F8_E4M3 ? ZOE_KIND_NARROW_PRODUCT : ZOE_KIND_PRODUCT,
        be->ops->linear(be, y, x, w, p));
}

int zoe_op_quantise(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x) {
    CHECK(x->rank == 2 && zoe_tensor_same_shape(x, y) && zoe_tensor_dense(x) && zoe_is_quantised(y), "quantise", x, y);
    CHECK(y->group == 0 || last(y) % y->group == 0, "quantise", x, y);
    if (!be->ops->quantise)
        return zoe_fail(be->ctx, ZOE_ERR_UNSUPPORTED, "%s computes no quantised products", be->ops->name);
    count_bytes(be, x), count_bytes(be, y);
    RUN(ZOE_KIND_REST, be->ops->quantise(be, y, x));
}

int zoe_op_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_norm *p) {
    int64_t rows = zoe_tensor_rows(x), width = last(x);
    CHECK(zoe_tensor_rows(y) == rows && last(y) == width && uniform_rows(x) && uniform_rows(y), "norm", x, y);
    CHECK(!zoe_is_quantised(x) && rows_fit(be, y), "norm", x, y);
    CHECK(channels(p->weight, width) && channels(p->bias, width), "norm", x, p->weight);
    CHECK(channels(p->scale, width) && channels(p->shift, width) && groups(p->row_group, rows), "norm", x, p->scale);
    count_bytes(be, x), count_bytes(be, y);
    RUN(ZOE_KIND_NORM, be->ops->norm(be, y, x, p));
}

int zoe_op_qk_prepare(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_qk *p) {
    CHECK(x->rank == 2 && zoe_tensor_same_shape(x, y) && uniform_rows(x) && uniform_rows(y), "qk_prepare", x, y);
    int64_t width = x->shape[1], head = width / p->heads;
    CHECK(width % p->heads == 0, "qk_prepare", x, y);
    CHECK(channels(p->weight, p->per_head ? head : width) && channels(p->bias, p->per_head ? head : width), "qk_prepare", x,
          p->weight);
    if (p->cos) {
        CHECK(head % 2 == 0 && p->cos->rank == 2 && p->cos->shape[0] == x->shape[0] && zoe_tensor_dense(p->cos) &&
                  (last(p->cos) == head / 2 || last(p->cos) == width / 2),
              "qk_prepare", x, p->cos);
        CHECK(p->sin && zoe_tensor_same_shape(p->cos, p->sin) && zoe_tensor_dense(p->sin), "qk_prepare", x, p->cos);
    }
    count_bytes(be, x), count_bytes(be, y);
    RUN(ZOE_KIND_QK, be->ops->qk_prepare(be, y, x, p));
}

static bool attends(const zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v) {
    return q->rank == 3 && k->rank == 3 && v->rank == 3 && q->shape[0] == k->shape[0] && k->shape[0] == v->shape[0] &&
           q->shape[2] == k->shape[2] && k->shape[1] == v->shape[1] && k->shape[1] > 0 && y->shape[2] == v->shape[2] &&
           q->stride[2] == 1 && k->stride[2] == 1 && v->stride[2] == 1;
}

static void count_attention(zoe_backend *be, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                            int64_t repeats) {
    double flops =
        2.0 * (double)q->shape[0] * (double)q->shape[1] * (double)k->shape[1] * (double)(q->shape[2] + v->shape[2]);
    be->work.attention_flops += flops;
    if (be->sage && zoe_sage_takes(k->shape[1], q->shape[2], v->shape[2], repeats)) be->work.sage_flops += flops;
    count_bytes(be, k), count_bytes(be, v);
}

int zoe_op_attention(zoe_backend *be, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                     const zoe_attention *p) {
    CHECK(y->rank == 3 && attends(y, q, k, v), "attention", q, k);
    CHECK(y->shape[0] == q->shape[0] && y->shape[1] == q->shape[1] && y->stride[2] == 1, "attention", y, q);
    CHECK(!p->more_k || (p->more_v && attends(y, q, p->more_k, p->more_v)), "attention", q, p->more_k);
    const zoe_tensor *bias = p->relative_bias;
    CHECK(!bias || (bias->rank == 2 && bias->shape[0] == q->shape[0] && bias->shape[1] == q->shape[1] + k->shape[1] - 1 &&
                    zoe_tensor_dense(bias) && bias->dtype == ZOE_F32),
          "attention", q, bias);
    count_bytes(be, q), count_bytes(be, y);
    count_attention(be, q, k, v, p->last_key_repeats);
    if (p->more_k) count_attention(be, q, p->more_k, p->more_v, 1);
    RUN(q->shape[1] == k->shape[1] ? ZOE_KIND_ATTENTION : ZOE_KIND_CROSS_ATTENTION, be->ops->attention(be, y, q, k, v, p));
}

int zoe_attention_apart(zoe_backend *be, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                        const zoe_attention *p) {
    zoe_attention first = *p, second = {.scale = p->scale};
    zoe_tensor memory;
    size_t mark = zoe_arena_mark(be);
    first.more_k = first.more_v = NULL;
    ZOE_TRY(be->ops->attention(be, y, q, k, v, &first));
    ZOE_TRY(ZOE_NEW(be, &memory, y->dtype, y->shape[1], y->shape[0] * y->shape[2]));
    zoe_tensor more = zoe_view_heads(&memory, y->shape[0]);
    int status = be->ops->attention(be, &more, q, p->more_k, p->more_v, &second);
    if (status == ZOE_OK) status = be->ops->lincomb(be, y, 2, (const zoe_tensor *[]){y, &more}, (float[]){1, 1});
    zoe_arena_release(be, mark);
    return status;
}

/* Frames of x's kind, each dense, that may lie anywhere. */
static bool frames_like(const zoe_tensor *frames, const zoe_tensor *x) {
    if (frames->rank != 4) return false;
    zoe_tensor one = zoe_view_slice(frames, 0, 0, 1), like = zoe_view_slice(x, 0, 0, 1);
    return zoe_tensor_dense(&one) && zoe_tensor_same_shape(&one, &like);
}

int zoe_op_conv(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_conv *p) {
    CHECK(x->rank == 4 && y->rank == 4 && w->rank == 5, "conv", x, w);
    CHECK(zoe_tensor_dense(x) && zoe_tensor_dense(y) && zoe_tensor_dense(w), "conv", x, y);
    CHECK(w->shape[0] == y->shape[3] && w->shape[4] == x->shape[3], "conv", w, y);
    for (int i = 0; i < 3; i++) CHECK(w->shape[1 + i] == p->kernel[i], "conv", w, y);
    const zoe_tensor *history = p->history;
    CHECK(!history || frames_like(history, x), "conv", x, history);
    for (int i = 0; i < 3; i++) {
        int64_t size = i == 0 ? x->shape[0] + (history ? history->shape[0] : 0) : x->shape[i] * p->upsample;
        int64_t expected = (size + p->pad[i][0] + p->pad[i][1] - p->kernel[i]) / p->stride[i] + 1;
        CHECK(y->shape[i] == expected, "conv", x, y);
    }
    CHECK(channels(p->bias, y->shape[3]), "conv", y, p->bias);
    CHECK(!p->residual || (zoe_tensor_same_shape(p->residual, y) && p->residual->stride[3] == 1), "conv", y, p->residual);
    be->work.conv_flops +=
        2.0 * (double)zoe_tensor_count(y) * (double)(w->shape[1] * w->shape[2] * w->shape[3] * w->shape[4]);
    count_bytes(be, x), count_bytes(be, history), count_bytes(be, w), count_bytes(be, y), count_bytes(be, p->residual);
    RUN(ZOE_KIND_CONV, be->ops->conv(be, y, x, w, p));
}

/* A map has whole cells over the pixels of x, and frames that x's frames can share. */
static bool map_fits(const zoe_tensor *map, const zoe_tensor *x, bool first_apart) {
    if (!map) return true;
    if (map->rank != 4 || !zoe_tensor_dense(map) || last(map) != last(x)) return false;
    if (x->shape[1] % map->shape[1] || x->shape[2] % map->shape[2]) return false;
    if (!first_apart) return x->shape[0] % map->shape[0] == 0;
    return map->shape[0] > 1 && (x->shape[0] - 1) % (map->shape[0] - 1) == 0;
}

int zoe_op_group_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_group_norm *p) {
    CHECK(x->rank == 4 && zoe_tensor_same_shape(x, y) && zoe_tensor_dense(x) && zoe_tensor_dense(y), "group_norm", x, y);
    CHECK(p->groups > 0 && last(x) % p->groups == 0, "group_norm", x, y);
    CHECK(channels(p->weight, last(x)) && channels(p->bias, last(x)), "group_norm", x, p->weight);
    CHECK(!p->scale == !p->shift && map_fits(p->scale, x, p->first_apart), "group_norm", x, p->scale);
    CHECK(!p->shift || zoe_tensor_same_shape(p->scale, p->shift), "group_norm", x, p->shift);
    CHECK(map_fits(p->shift, x, p->first_apart), "group_norm", x, p->shift);
    if (!be->ops->group_norm)
        return zoe_fail(be->ctx, ZOE_ERR_UNSUPPORTED, "the %s backend cannot compute this model's group norms; use the cpu",
                        be->ops->name);
    count_bytes(be, x), count_bytes(be, p->scale), count_bytes(be, p->shift), count_bytes(be, y);
    RUN(ZOE_KIND_REST, be->ops->group_norm(be, y, x, p));
}

int zoe_op_embedding(zoe_backend *be, zoe_tensor *y, const zoe_tensor *table, const zoe_tensor *ids) {
    CHECK(table->rank == 2 && y->rank == 2 && ids->rank == 1 && ids->dtype == ZOE_I32, "embedding", table, ids);
    CHECK(y->shape[0] == ids->shape[0] && y->shape[1] == table->shape[1] && zoe_tensor_dense(table), "embedding", y, table);
    count_bytes(be, y), count_bytes(be, y);
    RUN(ZOE_KIND_REST, be->ops->embedding(be, y, table, ids));
}

int zoe_op_copy(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x) {
    CHECK(zoe_tensor_same_shape(x, y), "copy", x, y);
    count_bytes(be, x), count_bytes(be, y);
    RUN(ZOE_KIND_REST, be->ops->copy(be, y, x));
}

int zoe_op_zero(zoe_backend *be, zoe_tensor *y) {
    count_bytes(be, y);
    RUN(ZOE_KIND_REST, be->ops->zero(be, y));
}

int zoe_op_activate(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *times, zoe_act act) {
    CHECK(zoe_tensor_same_shape(x, y) && (!times || zoe_tensor_same_shape(x, times)), "activate", x, y);
    count_bytes(be, x), count_bytes(be, times), count_bytes(be, y);
    RUN(ZOE_KIND_REST, be->ops->activate(be, y, x, times, act));
}

int zoe_op_scale_shift(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *scale,
                       const zoe_tensor *shift) {
    CHECK(zoe_tensor_same_shape(x, y) && channels(scale, last(x)) && channels(shift, last(x)), "scale_shift", x, y);
    count_bytes(be, x), count_bytes(be, y);
    RUN(ZOE_KIND_REST, be->ops->scale_shift(be, y, x, scale, shift));
}

int zoe_op_lincomb(zoe_backend *be, zoe_tensor *y, int count, const zoe_tensor *const *x, const float *coefficients) {
    CHECK(count >= 1 && count <= ZOE_LINCOMB_MAX, "lincomb", y, NULL);
    for (int i = 0; i < count; i++) {
        CHECK(zoe_tensor_same_shape(x[i], y), "lincomb", x[i], y);
        count_bytes(be, x[i]);
    }
    count_bytes(be, y);
    RUN(ZOE_KIND_REST, be->ops->lincomb(be, y, count, x, coefficients));
}

int zoe_op_finite(zoe_backend *be, const zoe_tensor *x, bool *out) {
    CHECK(zoe_tensor_dense(x), "finite", x, NULL);
    count_bytes(be, x);
    RUN(ZOE_KIND_REST, be->ops->finite(be, x, out));
}
