/*
 * Units on the processor: what can be used as the file has it is used where the file is mapped, the rest is copied into
 * the unit's blob. Blocks that do not stay leave as mapped pages, and the next one's pages are asked for early.
 */
#include <string.h>

#include "weights/parts.h"
#include "weights/quantise.h"

#define PIECE ((int64_t)4 << 20) /* bytes that are drawn or brought together at a time */

/* Numbers of an item, and where they are made or brought together if they do not lie in the file as they are wanted. */
typedef struct rows {
    const zoe_item *it;
    int64_t width, most; /* numbers of a row; rows at a time */
    char *fresh;         /* [most, width], or NULL */
} rows;

static const void *get_rows(const rows *r, int64_t row, int64_t count) {
    const zoe_item *it = r->it;
    int64_t start = row * r->width, end = start + count * r->width, half = zoe_item_count(it) / 2;
    const char *source = it->entry ? zoe_item_mapping(it) : NULL;
    size_t size = zoe_dtype_size(zoe_item_source(it));
    if (!r->fresh) return source + (size_t)start * size;
    if (!it->entry) {
        zoe_item_draw(it, r->fresh, row, count);
        return r->fresh;
    }
    size_t before = start >= half ? 0 : (size_t)((end <= half ? end : half) - start);
    memcpy(r->fresh, source + (size_t)start * size, before * size);
    memcpy(r->fresh + before * size, source + ((size_t)start + before + (size_t)it->gap) * size,
           ((size_t)(end - start) - before) * size);
    return r->fresh;
}

/* Returns the element that is not finite, or -1; of a matrix that is quantised raises *largest. */
static int64_t fill_rows(const zoe_item *it, void *to, const char *source, int64_t row, int64_t count, uint32_t *largest) {
    const int64_t part = 16;
    size_t row_bytes = zoe_item_span(it, zoe_item_width(it));
    uint32_t most = *largest;
    if (!zoe_is_quantised(&it->form)) return zoe_item_fill(it, to, source, row, count, largest);
#pragma omp parallel for schedule(dynamic) reduction(max : most)
    for (int64_t at = 0; at < count; at += part) {
        int64_t some = count - at < part ? count - at : part;
        uint32_t here = 0;
        (void)zoe_item_fill(it, to, source + (size_t)at * row_bytes, row + at, some, &here);
        most = here > most ? here : most;
    }
    *largest = most;
    return -1;
}

static int fill_item(zoe_weights *weights, const zoe_item *it, void *to) {
    zoe_context *ctx = weights->be->ctx;
    rows r = {.it = it, .width = zoe_item_width(it), .most = zoe_item_rows(it)};
    zoe_tensor form = zoe_item_over(it, to);
    size_t row_bytes = (size_t)r.width * zoe_dtype_size(zoe_item_source(it));
    int64_t all = r.most, bad = -1;
    uint32_t largest = 0;
    if (it->scales || it->kind == ZOE_SLOT_SCALES) {
        memcpy(to, zoe_item_mapping(it), (size_t)zoe_item_bytes(it));
        return ZOE_OK;
    }
    if (!it->entry || it->gap) {
        if (r.most * (int64_t)row_bytes > PIECE) r.most = PIECE / (int64_t)row_bytes;
        if (r.most < 1) r.most = 1;
        r.fresh = zoe_alloc(ctx, (size_t)r.most * row_bytes + 1);
        if (!r.fresh) return zoe_out_of_memory(ctx, (size_t)r.most * row_bytes, it->name);
    }
    zoe_quantised_begin(&form);
    do
        for (int64_t row = 0; row < all && bad < 0; row += r.most) {
            int64_t some = all - row < r.most ? all - row : r.most;
            bad = fill_rows(it, to, get_rows(&r, row, some), row, some, &largest);
        }
    while (bad < 0 && zoe_quantised_again(&form, largest));
    zoe_free(ctx, r.fresh);
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
    if (status == ZOE_OK && weights->ckpt) status = zoe_checkpoint_intact(weights->ckpt);
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
