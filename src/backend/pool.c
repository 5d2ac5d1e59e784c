#include "backend/device.h"

#define ALIGNMENT 256

int64_t zoe_device_context(int processors, int64_t held) {
    int64_t most = ZOE_DEVICE_CONTEXT;
    if (processors > ZOE_DEVICE_PROCESSORS) most = most * processors / ZOE_DEVICE_PROCESSORS;
    return held + ZOE_DEVICE_KERNELS < most ? held + ZOE_DEVICE_KERNELS : most;
}

void zoe_device_open(zoe_backend *be, int64_t context) {
    be->device_context = context;
    be->device_bytes = be->device_peak = context + ZOE_DEVICE_WORKSPACE;
}

void zoe_device_hold(zoe_backend *be, int64_t bytes) {
    be->device_bytes += bytes;
    if (be->device_bytes > be->device_peak) be->device_peak = be->device_bytes;
}

void zoe_device_bounce(zoe_backend *be, size_t *held, size_t bytes) {
    if (bytes <= *held) return;
    be->host_bytes += (int64_t)(bytes - *held);
    if (be->host_bytes > be->host_peak) be->host_peak = be->host_bytes;
    *held = bytes;
}

int zoe_device_check(zoe_backend *be, size_t bytes, const char *what) {
    char wanted[32], held[32], budget[32];
    int64_t left = be->device_budget - be->device_bytes;
    if (be->device_budget <= 0 || (left >= 0 && bytes <= (size_t)left)) return ZOE_OK;
    zoe_bytes_text(wanted, sizeof wanted, (int64_t)bytes);
    zoe_bytes_text(held, sizeof held, be->device_bytes);
    zoe_bytes_text(budget, sizeof budget, be->device_budget);
    return zoe_fail(be->ctx, ZOE_ERR_NOMEM, "out of device memory: %s more for %s do not fit, %s of %s are in use", wanted,
                    what, held, budget);
}

static int new_piece(zoe_pool *pool, size_t size, zoe_pool_piece **out) {
    zoe_backend *be = pool->be;
    void *base;
    if (pool->count == pool->capacity) {
        size_t capacity = pool->capacity ? 2 * pool->capacity : 64;
        zoe_pool_piece *pieces = zoe_realloc(be->ctx, pool->pieces, capacity * sizeof *pieces);
        if (!pieces) return zoe_out_of_memory(be->ctx, capacity * sizeof *pieces, "device memory's books");
        pool->pieces = pieces;
        pool->capacity = capacity;
    }
    ZOE_TRY(zoe_device_check(be, size, "weights"));
    ZOE_TRY(pool->take(be, size, &base));
    zoe_device_hold(be, (int64_t)size);
    *out = &pool->pieces[pool->count++];
    **out = (zoe_pool_piece){.base = base, .size = size};
    return ZOE_OK;
}

int zoe_pool_alloc(zoe_pool *pool, size_t bytes, void **out) {
    zoe_pool_piece *piece = NULL;
    *out = NULL;
    if (bytes > SIZE_MAX / 2) return zoe_out_of_memory(pool->be->ctx, bytes, "a tensor");
    bytes = (bytes ? bytes + ALIGNMENT - 1 : ALIGNMENT) & ~(size_t)(ALIGNMENT - 1); /* even nothing has its own address */
    for (size_t i = pool->count; i-- > 0 && bytes < ZOE_DEVICE_ALONE && !piece;)
        if (pool->pieces[i].size == ZOE_DEVICE_PIECE && ZOE_DEVICE_PIECE - pool->pieces[i].used >= bytes)
            piece = &pool->pieces[i];
    size_t size = bytes < ZOE_DEVICE_ALONE ? ZOE_DEVICE_PIECE : zoe_device_pages(bytes, ZOE_DEVICE_PAGE);
    if (!piece) ZOE_TRY(new_piece(pool, size, &piece));
    *out = piece->base + piece->used;
    piece->used += bytes;
    piece->tensors++;
    return ZOE_OK;
}

/* A piece goes when its last tensor goes. */
void zoe_pool_free(zoe_pool *pool, void *ptr) {
    for (size_t i = 0; i < pool->count; i++) {
        zoe_pool_piece *piece = &pool->pieces[i];
        if ((char *)ptr < piece->base || (char *)ptr >= piece->base + piece->size) continue;
        if (--piece->tensors > 0) return;
        pool->give(pool->be, piece->base);
        zoe_device_hold(pool->be, -(int64_t)piece->size);
        *piece = pool->pieces[--pool->count];
        return;
    }
}

void zoe_pool_close(zoe_pool *pool) {
    if (!pool->be) return;
    for (size_t i = 0; i < pool->count; i++) pool->give(pool->be, pool->pieces[i].base);
    zoe_free(pool->be->ctx, pool->pieces);
    *pool = (zoe_pool){0};
}
