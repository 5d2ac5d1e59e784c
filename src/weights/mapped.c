/*
 * Units on the processor: what can be used as the file has it is used where the file is mapped, the rest is copied into
 * the unit's blob. Blocks that do not stay leave as mapped pages, and the next one's pages are asked for early.
 */
#include <string.h>

#include "weights/parts.h"
#include "weights/quantise.h"

static int fill_item(zoe_weights *weights, const zoe_item *it, void *to) {
    zoe_context *ctx = weights->be->ctx;
    int64_t rows = zoe_item_rows(it), count = zoe_item_count(it);
    zoe_dtype dtype = zoe_item_source(it);
    zoe_tensor form = zoe_item_over(it, to);
    size_t size = zoe_dtype_size(dtype);
    void *fresh = NULL; /* numbers that do not lie in the file as they are wanted */
    const char *source = it->entry ? zoe_item_mapping(it) : NULL;
    if (it->scales || it->kind == ZOE_SLOT_SCALES) {
        memcpy(to, source, (size_t)zoe_item_bytes(it));
        return ZOE_OK;
    }
    if (!it->entry || it->gap) {
        size_t half = (size_t)(count / 2) * size;
        fresh = zoe_alloc(ctx, (size_t)count * size + 1);
        if (!fresh) return zoe_out_of_memory(ctx, (size_t)count * size, it->name);
        if (!it->entry) {
            zoe_item_draw(it, fresh, 0, rows);
        } else {
            memcpy(fresh, source, half);
            memcpy((char *)fresh + half, source + half + (size_t)it->gap * size, half);
        }
        source = fresh;
    }
    if (form.dtype == ZOE_F4_E2M1) *zoe_quantised_global(&form) = zoe_quantise_global(source, dtype, count);
    int64_t bad = -1;
    if (zoe_is_quantised(&form)) {
        const int64_t part = 16, width = count / rows;
#pragma omp parallel for schedule(dynamic)
        for (int64_t row = 0; row < rows; row += part) {
            int64_t some = rows - row < part ? rows - row : part;
            (void)zoe_item_fill(it, to, source + (size_t)(row * width) * size, row, some);
        }
    } else {
        bad = zoe_item_fill(it, to, source, 0, rows);
    }
    zoe_free(ctx, fresh);
    return bad < 0 ? ZOE_OK : zoe_item_not_finite(weights, it, bad);
}

static int fill_blob(zoe_weights *weights, const zoe_unit *u, char *blob) {
    for (size_t i = u->first; i < u->first + u->count; i++) {
        const zoe_item *it = &weights->items[i];
        if (it->mapped) continue;
        ZOE_TRY(fill_item(weights, it, blob + it->offset));
        if (it->entry) zoe_checkpoint_drop(weights->ckpt, it->entry); /* not needed twice */
    }
    return ZOE_OK;
}

static void drop(zoe_weights *weights, zoe_unit *u) {
    if (u->memory) weights->be->ops->free(weights->be, u->memory);
    u->memory = NULL;
    for (size_t i = u->first; i < u->first + u->count; i++)
        if (weights->items[i].entry) zoe_checkpoint_drop(weights->ckpt, weights->items[i].entry);
    zoe_unit_bind(weights, u, NULL);
    if (u->loaded) zoe_units_hold(weights, -u->bytes);
    u->loaded = false;
}

static int load(zoe_weights *weights, zoe_unit *u) {
    zoe_backend *be = weights->be;
    ZOE_TRY(be->ops->alloc(be, u->blob, &u->memory));
    int status = be->ops->computes ? fill_blob(weights, u, u->memory) : ZOE_OK;
    if (status < 0) {
        drop(weights, u);
        return status;
    }
    zoe_unit_bind(weights, u, u->memory);
    u->loaded = true;
    zoe_units_hold(weights, u->bytes);
    be->weights.loaded += u->bytes;
    return ZOE_OK;
}

/* Asks for the pages of the streaming block that comes after this one. */
static void prefetch(const zoe_weights *weights, int index) {
    for (int steps = 1; steps < weights->unit_count; steps++) {
        int next = zoe_units_after(weights, index, steps);
        const zoe_unit *u = next < 0 ? NULL : &weights->units[next];
        if (!u || u->loaded) return;
        if (u->tier == ZOE_TIER_RESIDENT) continue;
        for (size_t i = u->first; i < u->first + u->count; i++)
            if (weights->items[i].entry) zoe_checkpoint_prefetch(weights->ckpt, weights->items[i].entry);
        return;
    }
}

int zoe_mapped_acquire(zoe_weights *weights, int index) {
    zoe_unit *u = &weights->units[index];
    if (!u->loaded) ZOE_TRY(load(weights, u));
    if (weights->ring_count && weights->ckpt && weights->be->ops->computes) prefetch(weights, index);
    return ZOE_OK;
}

void zoe_mapped_release(zoe_weights *weights, int index) {
    zoe_unit *u = &weights->units[index];
    if (u->users == 0 && u->tier != ZOE_TIER_RESIDENT) drop(weights, u);
}

void zoe_mapped_unload(zoe_weights *weights) {
    for (int i = 0; i < weights->unit_count; i++) drop(weights, &weights->units[i]);
}
