/*
 * The backend that computes nothing: the same model code over it yields the work counted by the wrappers and the arena's
 * high-water mark. Addresses are made up, aligned and never touched.
 */
#include "backend/backend.h"

#define FIRST_ADDRESS ((uintptr_t)1 << 40)
#define ARENA_BYTES   ((size_t)1 << 46)
#define ALIGNMENT     256

typedef struct plan {
    zoe_backend base;
    uintptr_t next; /* address of the next allocation */
} plan;

static void plan_close(zoe_backend *be) {
    zoe_free(be->ctx, be);
}

static int plan_alloc(zoe_backend *be, size_t bytes, void **out) {
    plan *self = (plan *)(void *)be;
    *out = (void *)self->next;
    self->next += (bytes + ALIGNMENT) & ~(uintptr_t)(ALIGNMENT - 1); /* even nothing gets an address of its own */
    return ZOE_OK;
}

static void plan_free(zoe_backend *be, void *ptr) {
    (void)be, (void)ptr;
}

static int plan_upload(zoe_backend *be, void *to, const void *host, size_t bytes) {
    (void)be, (void)to, (void)host, (void)bytes;
    return ZOE_OK;
}

static int plan_download(zoe_backend *be, void *host, const void *from, size_t bytes) {
    (void)be, (void)host, (void)from, (void)bytes;
    return ZOE_OK;
}

static int plan_synchronize(zoe_backend *be) {
    (void)be;
    return ZOE_OK;
}

static void plan_trim(zoe_backend *be) {
    (void)be;
}

static int plan_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    (void)be, (void)y, (void)x, (void)w, (void)p;
    return ZOE_OK;
}

static int plan_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_norm *p) {
    (void)be, (void)y, (void)x, (void)p;
    return ZOE_OK;
}

static int plan_qk_prepare(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_qk *p) {
    (void)be, (void)y, (void)x, (void)p;
    return ZOE_OK;
}

static int plan_attention(zoe_backend *be, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                          const zoe_attention *p) {
    (void)be, (void)y, (void)q, (void)k, (void)v, (void)p;
    return ZOE_OK;
}

static int plan_conv(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_conv *p) {
    (void)be, (void)y, (void)x, (void)w, (void)p;
    return ZOE_OK;
}

static int plan_group_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_group_norm *p) {
    (void)be, (void)y, (void)x, (void)p;
    return ZOE_OK;
}

static int plan_embedding(zoe_backend *be, zoe_tensor *y, const zoe_tensor *table, const zoe_tensor *ids) {
    (void)be, (void)y, (void)table, (void)ids;
    return ZOE_OK;
}

static int plan_copy(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x) {
    (void)be, (void)y, (void)x;
    return ZOE_OK;
}

static int plan_zero(zoe_backend *be, zoe_tensor *y) {
    (void)be, (void)y;
    return ZOE_OK;
}

static int plan_activate(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *times, zoe_act act) {
    (void)be, (void)y, (void)x, (void)times, (void)act;
    return ZOE_OK;
}

static int plan_scale_shift(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *scale,
                            const zoe_tensor *shift) {
    (void)be, (void)y, (void)x, (void)scale, (void)shift;
    return ZOE_OK;
}

static int plan_lincomb(zoe_backend *be, zoe_tensor *y, int count, const zoe_tensor *const *x, const float *coefficients) {
    (void)be, (void)y, (void)count, (void)x, (void)coefficients;
    return ZOE_OK;
}

static int plan_finite(zoe_backend *be, const zoe_tensor *x, bool *out) {
    (void)be, (void)x;
    *out = true;
    return ZOE_OK;
}

static const zoe_backend_ops ops = {
    .name = "plan",
    .host_memory = true,
    .key_repeats = true,
    .close = plan_close,
    .alloc = plan_alloc,
    .free = plan_free,
    .upload = plan_upload,
    .download = plan_download,
    .synchronize = plan_synchronize,
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

int zoe_plan_backend_create(zoe_context *ctx, zoe_dtype dtype, zoe_backend **out) {
    *out = NULL;
    plan *self;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, self, 1));
    self->base = (zoe_backend){.ops = &ops,
                               .ctx = ctx,
                               .dtype = dtype,
                               .arena = {.base = (char *)FIRST_ADDRESS, .size = ARENA_BYTES}};
    self->next = FIRST_ADDRESS + ARENA_BYTES;
    *out = &self->base;
    return ZOE_OK;
}
