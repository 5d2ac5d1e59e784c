/*
 * A device made of the CPU backend: memory that model code must not touch from the host, a budget, copies that happen as
 * early or as late as the promises allow, and failures on demand. What it is for can be tested without a device.
 */
#ifndef TEST_FAKE_DEVICE_H
#define TEST_FAKE_DEVICE_H

#include "support.h"

#include "backend/device.h"

typedef struct fake_copy {
    bool pending, busy; /* asked for and not yet done; the place is in use until released */
    void *to;
    const void *host;
    size_t bytes;
    uint64_t sum; /* of the host's bytes when it was asked for */
} fake_copy;

/* A transfer between its two halves, begun and not ended. */
typedef struct fake_transfer {
    bool pending;
    void *to;
    const void *from;
    size_t bytes;
} fake_transfer;

typedef struct fake_device {
    zoe_backend_ops ops; /* first, so that an operation finds the rest */
    const zoe_backend_ops *cpu;
    zoe_pool pool;
    bool late; /* copies happen when they are waited for, else when they are asked for */
    fake_copy copies[ZOE_COPY_PLACES];
    fake_transfer up, down;
    long device_until_fail, host_until_fail; /* as in test_memory */
    long calls_until_fail;                   /* calls of the driver until one fails, and all that follow */
    long host_blocks;
    long waits;
} fake_device;

static inline fake_device *fake_of(zoe_backend *be) {
    return (fake_device *)(uintptr_t)be->ops;
}

/* A driver that has failed stays so, until a test lets it live again. */
static inline int fake_call(zoe_backend *be) {
    fake_device *f = fake_of(be);
    if (f->calls_until_fail < 0) return ZOE_OK;
    if (f->calls_until_fail > 0) {
        f->calls_until_fail--;
        return ZOE_OK;
    }
    return zoe_fail(be->ctx, ZOE_ERR_DEVICE, "the device has failed");
}

static inline uint64_t fake_sum(const void *data, size_t bytes) {
    uint64_t sum = 0, word;
    for (size_t i = 0; i + sizeof word <= bytes; i += sizeof word) {
        memcpy(&word, (const char *)data + i, sizeof word);
        sum = sum * 31 + word;
    }
    return sum;
}

static inline int fake_take(zoe_backend *be, size_t bytes, void **out) {
    fake_device *f = fake_of(be);
    if (f->device_until_fail >= 0 && f->device_until_fail-- == 0) {
        *out = NULL;
        return zoe_fail(be->ctx, ZOE_ERR_NOMEM, "the device is out of memory");
    }
    *out = aligned_alloc(256, bytes);
    return ZOE_OK;
}

static inline void fake_give(zoe_backend *be, void *base) {
    fake_device *f = fake_of(be);
    for (int i = 0; i < ZOE_COPY_PLACES; i++) assert_false(f->copies[i].pending && f->copies[i].to == base);
    free(base);
}

static inline int fake_alloc(zoe_backend *be, size_t bytes, void **out) {
    ZOE_TRY(zoe_pool_alloc(&fake_of(be)->pool, bytes, out));
    memset(*out, 0xff, bytes); /* a NaN in every type */
    return ZOE_OK;
}

static inline void fake_free(zoe_backend *be, void *ptr) {
    zoe_pool_free(&fake_of(be)->pool, ptr);
}

static inline int fake_pinned_alloc(zoe_backend *be, size_t bytes, void **out) {
    fake_device *f = fake_of(be);
    *out = NULL;
    if (f->host_until_fail >= 0 && f->host_until_fail-- == 0)
        return zoe_fail(be->ctx, ZOE_ERR_NOMEM, "no memory can be locked");
    *out = malloc(bytes ? bytes : 1);
    zoe_device_hold(be, (int64_t)(bytes / ZOE_DEVICE_MAPS));
    f->host_blocks++;
    return ZOE_OK;
}

static inline void fake_pinned_free(zoe_backend *be, void *ptr, size_t bytes) {
    fake_device *f = fake_of(be);
    for (int i = 0; i < ZOE_COPY_PLACES; i++) assert_false(f->copies[i].pending && f->copies[i].host == ptr);
    memset(ptr, 0xff, bytes);
    free(ptr);
    zoe_device_hold(be, -(int64_t)(bytes / ZOE_DEVICE_MAPS));
    f->host_blocks--;
}

static inline void fake_copy_now(fake_copy *c) {
    if (!c->pending) return;
    assert_true(fake_sum(c->host, c->bytes) == c->sum); /* the host's memory was left alone */
    memcpy(c->to, c->host, c->bytes);
    c->pending = false;
}

static inline int fake_copy_begin(zoe_backend *be, int place, void *to, const void *host, size_t bytes) {
    fake_device *f = fake_of(be);
    fake_copy *c = &f->copies[place];
    ZOE_TRY(fake_call(be));
    assert_true(place >= 0 && place < ZOE_COPY_PLACES);
    assert_false(c->busy); /* nobody uses what is about to be overwritten */
    fake_copy_now(c);
    memset(to, 0xff, bytes);
    *c = (fake_copy){.pending = true, .to = to, .host = host, .bytes = bytes, .sum = fake_sum(host, bytes)};
    if (!f->late) fake_copy_now(c);
    return ZOE_OK;
}

static inline int fake_copy_wait(zoe_backend *be, int place) {
    fake_copy *c = &fake_of(be)->copies[place];
    ZOE_TRY(fake_call(be));
    fake_copy_now(c);
    c->busy = place < ZOE_COPY_PLACES - 4; /* places behind those of a ring fill memory that stays */
    fake_of(be)->waits++;
    return ZOE_OK;
}

static inline int fake_copy_release(zoe_backend *be, int place) {
    fake_of(be)->copies[place].busy = false;
    return fake_call(be);
}

static inline int fake_copy_end(zoe_backend *be, int place) {
    ZOE_TRY(fake_call(be));
    fake_copy_now(&fake_of(be)->copies[place]);
    return ZOE_OK;
}

/* When it returns nothing is under way, also where the device has failed. */
static inline int fake_synchronize(zoe_backend *be) {
    fake_device *f = fake_of(be);
    int status = fake_call(be);
    for (int i = 0; i < ZOE_COPY_PLACES; i++) {
        if (status == ZOE_OK) fake_copy_now(&f->copies[i]);
        f->copies[i].pending = f->copies[i].busy = false;
    }
    return status;
}

static inline int fake_upload(zoe_backend *be, void *to, const void *host, size_t bytes) {
    ZOE_TRY(fake_call(be));
    memcpy(to, host, bytes);
    return ZOE_OK;
}

static inline int fake_download(zoe_backend *be, void *host, const void *from, size_t bytes) {
    return fake_upload(be, host, from, bytes);
}

static inline int fake_transfer_begin(zoe_backend *be, fake_transfer *t, void *to, const void *from, size_t bytes,
                                      bool late) {
    assert_false(t->pending);
    ZOE_TRY(fake_call(be));
    if (!late) memcpy(to, from, bytes);
    *t = (fake_transfer){.pending = true, .to = to, .from = late ? from : NULL, .bytes = bytes};
    return ZOE_OK;
}

static inline int fake_transfer_end(zoe_backend *be, fake_transfer *t) {
    if (!t->pending) return ZOE_OK;
    t->pending = false;
    ZOE_TRY(fake_call(be));
    if (t->from) memcpy(t->to, t->from, t->bytes);
    return ZOE_OK;
}

/* `host` may change at once, so it is taken as it is. */
static inline int fake_upload_begin(zoe_backend *be, void *to, const void *host, size_t bytes) {
    return fake_transfer_begin(be, &fake_of(be)->up, to, host, bytes, false);
}

static inline int fake_upload_end(zoe_backend *be) {
    return fake_transfer_end(be, &fake_of(be)->up);
}

/* As late as may be only where operations leave what is fetched alone. */
static inline int fake_download_begin(zoe_backend *be, void *host, const void *from, size_t bytes, bool beside) {
    return fake_transfer_begin(be, &fake_of(be)->down, host, from, bytes, beside && fake_of(be)->late);
}

static inline int fake_download_end(zoe_backend *be) {
    return fake_transfer_end(be, &fake_of(be)->down);
}

/* Pieces, as a device has them. */
static inline int fake_grow(zoe_backend *be, size_t bytes) {
    size_t size = zoe_device_pages(bytes, ZOE_DEVICE_PIECE);
    fake_device *f = fake_of(be);
    ZOE_TRY(zoe_device_check(be, size - be->arena.backed, "activations"));
    if (f->device_until_fail >= 0 && f->device_until_fail-- == 0)
        return zoe_fail(be->ctx, ZOE_ERR_NOMEM, "the device is out of memory");
    zoe_device_hold(be, (int64_t)(size - be->arena.backed));
    be->arena.backed = size;
    return ZOE_OK;
}

static inline void fake_trim(zoe_backend *be) {
    size_t size = zoe_device_pages(be->arena.used, ZOE_DEVICE_PIECE);
    if (size >= be->arena.backed) return;
    zoe_device_hold(be, (int64_t)size - (int64_t)be->arena.backed);
    be->arena.backed = size;
}

static inline void fake_close(zoe_backend *be) {
    fake_device *f = fake_of(be);
    assert_int_equal(f->host_blocks, 0);
    assert_int_equal(f->pool.count, 0);
    assert_false(f->up.pending || f->down.pending);
    zoe_pool_close(&f->pool);
    be->ops = f->cpu;
    f->cpu->close(be);
    free(f);
}

/* Closed by zoe_backend_close(), which sees to it that all its memory was given back. */
static inline int fake_device_create(zoe_context *ctx, zoe_backend **out) {
    ZOE_TRY(zoe_cpu_backend_create(ctx, 0, out));
    fake_device *f = calloc(1, sizeof *f);
    f->cpu = (*out)->ops;
    f->ops = *f->cpu;
    f->ops.name = "fake device";
    f->ops.host_memory = false;
    f->ops.close = fake_close;
    f->ops.alloc = fake_alloc;
    f->ops.free = fake_free;
    f->ops.synchronize = fake_synchronize;
    f->ops.upload = fake_upload;
    f->ops.download = fake_download;
    f->ops.upload_begin = fake_upload_begin;
    f->ops.upload_end = fake_upload_end;
    f->ops.download_begin = fake_download_begin;
    f->ops.download_end = fake_download_end;
    f->ops.pinned_alloc = fake_pinned_alloc;
    f->ops.pinned_free = fake_pinned_free;
    f->ops.copy_begin = fake_copy_begin;
    f->ops.copy_wait = fake_copy_wait;
    f->ops.copy_release = fake_copy_release;
    f->ops.copy_end = fake_copy_end;
    f->ops.grow = fake_grow;
    f->ops.trim = fake_trim;
    f->pool = (zoe_pool){.be = *out, .take = fake_take, .give = fake_give};
    f->device_until_fail = f->host_until_fail = f->calls_until_fail = -1;
    (*out)->ops = &f->ops;
    zoe_device_open(*out, ZOE_DEVICE_CONTEXT);
    return ZOE_OK;
}

#endif
