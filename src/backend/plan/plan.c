/*
 * The backend that computes nothing: the same model code over it yields the work counted by the wrappers and the arena's
 * high-water mark. Addresses are made up, aligned and never touched.
 */
#include <omp.h>

#include "backend/device.h"
#include "backend/host.h"
#include "backend/quantised.h"
#include "backend/sage.h"

#define FIRST_ADDRESS ((uintptr_t)1 << 40)
#define ARENA_BYTES   ((size_t)1 << 46)
#define ALIGNMENT     256

typedef struct plan {
    zoe_backend base;
    zoe_backend_ops ops;
    uintptr_t next;     /* address of the next allocation */
    zoe_pool pool;      /* of a device */
    size_t lift, fetch; /* locked memory that uploads and downloads in two halves pass through */
    int threads;        /* of the processor's kernels, and bytes that they touch for each thread and together */
    int64_t threads_bytes, shared_bytes;
    bool scores; /* attention wrote its scores */
    zoe_rates rates;
    zoe_work seen; /* work of the operations that seconds were counted for */
} plan;

static plan *plan_of(zoe_backend *be) {
    return (plan *)(void *)be;
}

static void plan_close(zoe_backend *be) {
    zoe_pool_close(&plan_of(be)->pool);
    zoe_free(be->ctx, be);
}

static int new_address(zoe_backend *be, size_t bytes, void **out) {
    plan *self = plan_of(be);
    *out = (void *)self->next;
    self->next += (bytes + ALIGNMENT) & ~(uintptr_t)(ALIGNMENT - 1); /* even nothing gets an address of its own */
    return ZOE_OK;
}

static int plan_alloc(zoe_backend *be, size_t bytes, void **out) {
    return be->ops->host_memory ? new_address(be, bytes, out) : zoe_pool_alloc(&plan_of(be)->pool, bytes, out);
}

static void plan_free(zoe_backend *be, void *ptr) {
    if (!be->ops->host_memory) zoe_pool_free(&plan_of(be)->pool, ptr);
}

static void give_back(zoe_backend *be, void *base) {
    (void)be, (void)base;
}

static int plan_upload(zoe_backend *be, void *to, const void *host, size_t bytes) {
    (void)be, (void)to, (void)host, (void)bytes;
    return ZOE_OK;
}

static int plan_download(zoe_backend *be, void *host, const void *from, size_t bytes) {
    (void)be, (void)host, (void)from, (void)bytes;
    return ZOE_OK;
}

static int plan_upload_begin(zoe_backend *be, void *to, const void *host, size_t bytes) {
    (void)to, (void)host;
    zoe_device_bounce(be, &plan_of(be)->lift, bytes);
    return ZOE_OK;
}

static int plan_download_begin(zoe_backend *be, void *host, const void *from, size_t bytes, bool beside) {
    (void)host, (void)from, (void)beside;
    zoe_device_bounce(be, &plan_of(be)->fetch, bytes);
    return ZOE_OK;
}

static int plan_synchronize(zoe_backend *be) {
    (void)be;
    return ZOE_OK;
}

static int plan_pinned_alloc(zoe_backend *be, size_t bytes, void **out) {
    zoe_device_hold(be, (int64_t)(bytes / ZOE_DEVICE_MAPS));
    return new_address(be, bytes, out);
}

static void plan_pinned_free(zoe_backend *be, void *ptr, size_t bytes) {
    (void)ptr;
    zoe_device_hold(be, -(int64_t)(bytes / ZOE_DEVICE_MAPS));
}

static int plan_copy_begin(zoe_backend *be, int place, void *to, const void *host, size_t bytes) {
    (void)be, (void)place, (void)to, (void)host, (void)bytes;
    return ZOE_OK;
}

static int plan_copy_event(zoe_backend *be, int place) {
    (void)be, (void)place;
    return ZOE_OK;
}

/* A device's arena grows and shrinks by pieces. */
static int plan_grow(zoe_backend *be, size_t bytes) {
    size_t size = zoe_device_pages(bytes, ZOE_DEVICE_PIECE);
    zoe_device_hold(be, (int64_t)(size - be->arena.backed));
    be->arena.backed = size;
    return ZOE_OK;
}

static void plan_trim(zoe_backend *be) {
    size_t size = zoe_device_pages(be->arena.used, ZOE_DEVICE_PIECE);
    if (size >= be->arena.backed) return;
    zoe_device_hold(be, (int64_t)size - (int64_t)be->arena.backed);
    be->arena.backed = size;
}

/* ---- how long an operation takes ---- */

/*
 * Products at `rate` (0: at that of the backend's type) beside the bytes, each once: half of them move meanwhile, the other
 * half before the products can begin and after they have ended. `more` bytes are moved in passes of their own.
 */
static int spend(zoe_backend *be, double rate, double more) {
    plan *self = plan_of(be);
    const zoe_rates *r = &self->rates;
    if (!r->bytes) return ZOE_OK;
    zoe_work w = zoe_work_since(&be->work, &self->seen);
    double computing = (w.linear_flops + w.attention_flops + w.conv_flops) / (rate > 0 ? rate : r->product);
    if (r->steady > 0) computing /= r->steady;
    double half = w.bytes / r->bytes / 2;
    be->work.seconds += r->least + half + (computing > half ? computing : half) + more / r->bytes;
    self->seen = be->work;
    return ZOE_OK;
}

/* ---- what the processor's kernels touch ---- */

static void touch(zoe_backend *be, int64_t floats, int64_t shared) {
    plan *self = plan_of(be);
    int64_t bytes = zoe_min(4 * floats, self->threads * (int64_t)ZOE_CPU_SCRATCH);
    if (!be->ops->host_memory) return;
    if (bytes > self->threads_bytes) self->threads_bytes = bytes;
    if (4 * shared > self->shared_bytes) self->shared_bytes = zoe_min(4 * shared, (int64_t)ZOE_CPU_SHARED);
    be->workspace = self->threads_bytes + self->shared_bytes;
}

/* ---- what a device's operations take of the arena while they run ---- */

static int scratch(zoe_backend *be, int64_t bytes) {
    zoe_tensor t;
    size_t mark = zoe_arena_mark(be);
    if (!be->ops->scratch || bytes <= 0) return ZOE_OK;
    int status = ZOE_NEW(be, &t, ZOE_U8, bytes);
    zoe_arena_release(be, mark);
    return status;
}

/*
 * A residual that is gated, or added to an activation, waits for the product beside it, or weights are gated. Rows are
 * quantised for weights that are; sums of integers are kept for some rows at a time; weights of four bits are widened.
 */
static int plan_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    const int64_t at_a_time = 4096;
    int64_t rows = zoe_tensor_rows(x), in = w->shape[1], out = w->shape[0], bytes = 0;
    int64_t size = (int64_t)zoe_dtype_size(be->dtype), some = rows < at_a_time ? rows : at_a_time;
    bool bends = p->act != ZOE_ACT_NONE, apart = p->residual && (bends || p->gate || p->residual->dtype != y->dtype);
    bool folds = x->dtype == ZOE_BF16 && (w->dtype == ZOE_BF16 || w->dtype == ZOE_I4 || w->dtype == ZOE_F4_E2M1) &&
                 zoe_device_folds_gate(p, y, rows, in);
    if (zoe_is_quantised(y)) bytes += rows * out * size;
    if (w->dtype == ZOE_I8 || w->dtype == ZOE_F8_E4M3) {
        if (!zoe_is_quantised(x)) bytes += zoe_quantised_bytes(w->dtype, rows, in, 0);
        apart = w->dtype == ZOE_F8_E4M3 && p->residual && (bends || (p->gate && p->row_group));
    } else if (zoe_is_quantised(w)) {
        bytes += out * in * size;
    }
    if (folds) apart = false, bytes += (out * in + out) * size;
    if (apart) bytes += rows * out * size;
    touch(be, zoe_host_linear_floats(plan_of(be)->threads, rows, in, out), 0);
    const zoe_rates *r = &plan_of(be)->rates;
    double passes = 2 * (double)bytes + (w->dtype == ZOE_I8 ? 2 * ZOE_DEVICE_SUM * (double)(rows * out) : 0);
    if (!be->ops->scratch) passes = be->ops->host_memory ? zoe_host_packing_bytes(rows, in, out) : 0;
    ZOE_TRY(spend(be, w->dtype == ZOE_I8 ? r->int8 : w->dtype == ZOE_F8_E4M3 ? r->fp8 : 0, passes));
    return scratch(be, bytes + (w->dtype == ZOE_I8 ? some * out * ZOE_DEVICE_SUM : 0));
}

static int plan_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_norm *p) {
    (void)y, (void)x, (void)p;
    return spend(be, 0, 0);
}

static int plan_qk_prepare(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_qk *p) {
    (void)y, (void)x, (void)p;
    return spend(be, 0, 0);
}

static void load_score_kernels(zoe_backend *be) {
    if (plan_of(be)->scores || !be->ops->scratch) return;
    plan_of(be)->scores = true;
    be->host_bytes += ZOE_DEVICE_SCORES;
    if (be->host_bytes > be->host_peak) be->host_peak = be->host_bytes;
}

/*
 * Scores are written out for float32, biases and heads of uncommon width, for as many queries as a bounded piece holds. At
 * most, attention to more keys has a result of its own until it is added.
 */
static int plan_attention(zoe_backend *be, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                          const zoe_attention *p) {
    const int64_t bounded = (int64_t)128 << 20;
    if (p->more_k) return zoe_attention_apart(be, y, q, k, v, p);
    int64_t dim = q->shape[2], keys = (k->shape[1] + 7) / 8 * 8;
    bool fused = y->dtype == ZOE_BF16 && !p->relative_bias && dim == v->shape[2] && (dim == 64 || dim == 128);
    int64_t row = q->shape[0] * keys * (4 + (int64_t)zoe_dtype_size(v->dtype)), most = bounded / row / 64 * 64;
    if (most < 64) most = 64;
    if (most > q->shape[1]) most = q->shape[1];
    touch(be, zoe_host_attention_floats(plan_of(be)->threads, q->shape[0], q->shape[1], dim + v->shape[2]), 0);
    bool sage = fused && be->sage && zoe_sage_takes(k->shape[1], dim, dim, p->last_key_repeats);
    const zoe_rates *rates = &plan_of(be)->rates;
    if (!fused) load_score_kernels(be);
    double scores = fused ? 0 : (double)q->shape[1] * (double)row;
    ZOE_TRY(spend(be, (sage ? rates->sage : rates->attention)[dim <= 64], be->ops->scratch ? 2 * scores : 0));
    if (sage) return scratch(be, zoe_sage_lay_out(q->shape[0], q->shape[1], k->shape[1], dim, be->sage_value).bytes);
    return scratch(be, fused ? 0 : most * row);
}

static int plan_conv(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_conv *p) {
    const int *k = p->kernel;
    int64_t in = x->shape[3], out = y->shape[3], depth = (int64_t)k[0] * k[1] * k[2] * in;
    int64_t patch = k[0] * in * (y->shape[1] * p->stride[1] + k[1]) * (y->shape[2] * p->stride[2] + k[2]);
    int64_t cols = zoe_min(out, ZOE_CONV_COLS), sums = y->shape[1] * y->shape[2] * cols;
    bool pointwise = k[0] * k[1] * k[2] == 1;
    if (pointwise)
        touch(be, zoe_host_linear_floats(plan_of(be)->threads, zoe_tensor_rows(y), in, out), 0);
    else
        touch(be, zoe_host_conv_floats(plan_of(be)->threads, patch, sums), depth * cols);
    (void)w;
    return spend(be, plan_of(be)->rates.conv, 0);
}

static int plan_group_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_group_norm *p) {
    (void)y, (void)p;
    return spend(be, 0, be->ops->scratch ? (double)zoe_tensor_bytes(x) : 0); /* read once more for the moments */
}

static int plan_embedding(zoe_backend *be, zoe_tensor *y, const zoe_tensor *table, const zoe_tensor *ids) {
    (void)y, (void)table, (void)ids;
    return spend(be, 0, 0);
}

static int plan_copy(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x) {
    (void)y, (void)x;
    return spend(be, 0, 0);
}

static int plan_zero(zoe_backend *be, zoe_tensor *y) {
    (void)y;
    return spend(be, 0, 0);
}

static int plan_activate(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *times, zoe_act act) {
    (void)y, (void)x, (void)times, (void)act;
    return spend(be, 0, 0);
}

static int plan_scale_shift(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *scale,
                            const zoe_tensor *shift) {
    (void)y, (void)x, (void)scale, (void)shift;
    return spend(be, 0, 0);
}

static int plan_lincomb(zoe_backend *be, zoe_tensor *y, int count, const zoe_tensor *const *x, const float *coefficients) {
    (void)y, (void)count, (void)x, (void)coefficients;
    return spend(be, 0, 0);
}

static int plan_finite(zoe_backend *be, const zoe_tensor *x, bool *out) {
    (void)x;
    *out = true;
    return spend(be, 0, 0);
}

/* Of a device; on the processor memory needs no growth. */
static const zoe_backend_ops ops = {
    .name = "plan",
    .key_repeats = true,
    .close = plan_close,
    .alloc = plan_alloc,
    .free = plan_free,
    .upload = plan_upload,
    .download = plan_download,
    .upload_begin = plan_upload_begin,
    .download_begin = plan_download_begin,
    .download_end = plan_synchronize,
    .synchronize = plan_synchronize,
    .pinned_alloc = plan_pinned_alloc,
    .pinned_free = plan_pinned_free,
    .copy_begin = plan_copy_begin,
    .copy_wait = plan_copy_event,
    .copy_release = plan_copy_event,
    .copy_end = plan_copy_event,
    .grow = plan_grow,
    .trim = plan_trim,
    .linear = plan_linear,
    .norm = plan_norm,
    .qk_prepare = plan_qk_prepare,
    .attention = plan_attention,
    .conv = plan_conv,
    .group_norm = plan_group_norm,
    .embedding = plan_embedding,
    .copy = plan_copy,
    .zero = plan_zero,
    .activate = plan_activate,
    .scale_shift = plan_scale_shift,
    .lincomb = plan_lincomb,
    .finite = plan_finite,
};

int zoe_plan_backend_create(zoe_context *ctx, zoe_dtype dtype, bool device, zoe_backend **out) {
    *out = NULL;
    plan *self;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, self, 1));
    self->ops = ops;
    self->ops.host_memory = !device;
    self->ops.scratch = self->ops.quantised_rows = self->ops.sage = device;
    if (!device) {
        self->ops.grow = NULL;
        self->ops.upload_begin = NULL;
        self->ops.download_begin = NULL;
        self->ops.download_end = NULL;
    }
    self->base = (zoe_backend){.ops = &self->ops,
                               .ctx = ctx,
                               .dtype = dtype,
                               .sage_value = 1,
                               .arena = {.base = (char *)FIRST_ADDRESS, .size = ARENA_BYTES}};
    self->next = FIRST_ADDRESS + ARENA_BYTES;
    self->threads = ctx->settings.threads > 0 ? ctx->settings.threads : omp_get_max_threads();
    if (device) {
        self->pool = (zoe_pool){.be = &self->base, .take = new_address, .give = give_back};
        zoe_device_open(&self->base, ZOE_DEVICE_CONTEXT);
    }
    *out = &self->base;
    return ZOE_OK;
}

void zoe_plan_backend_rates(zoe_backend *be, const zoe_rates *rates) {
    plan_of(be)->rates = *rates;
    plan_of(be)->seen = be->work;
}

int zoe_plan_backend_like(const zoe_backend *be, zoe_backend **out) {
    ZOE_TRY(zoe_plan_backend_create(be->ctx, be->dtype, !be->ops->host_memory, out));
    (*out)->weights = (zoe_weight_use){.offload = be->weights.offload,
                                       .ahead = be->weights.ahead,
                                       .budget = be->weights.budget,
                                       .host_budget = be->weights.host_budget};
    if (!be->ops->host_memory) zoe_device_open(*out, be->device_context);
    plan_of(*out)->ops.quantised_rows = be->ops->quantised_rows;
    plan_of(*out)->ops.scratch = be->ops->scratch;
    (*out)->sage = be->sage;
    (*out)->sage_value = be->sage_value;
    return ZOE_OK;
}
