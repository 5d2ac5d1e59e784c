/* What a network needs, bound by name and shape to where a checkpoint has it. */
#include <stdio.h>
#include <string.h>

#include "backend/device.h"
#include "weights/convert.h"
#include "weights/parts.h"
#include "weights/quantise.h"
#include "weights/slots.h"

#define ALIGNMENT 256 /* of tensors in a blob: as much as any kernel wants */

int zoe_weights_create(zoe_backend *be, const zoe_checkpoint *ckpt, const char *part, const zoe_alias *aliases,
                       zoe_weight_form form, zoe_weights **out) {
    zoe_weights *weights;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, weights, 1));
    *weights = (zoe_weights){.be = be, .ckpt = ckpt, .part = part, .aliases = aliases, .form = form};
    *out = weights;
    return ZOE_OK;
}

static int add_unit(zoe_weights *weights, bool block) {
    zoe_context *ctx = weights->be->ctx;
    size_t bytes = ((size_t)weights->unit_count + 1) * sizeof(zoe_unit);
    zoe_unit *units = zoe_realloc(ctx, weights->units, bytes);
    if (!units) return zoe_out_of_memory(ctx, bytes, weights->part);
    weights->units = units;
    units[weights->unit_count] = (zoe_unit){.first = weights->count, .block = block, .job = -1, .stage = -1, .place = -1};
    return weights->unit_count++;
}

int zoe_weights_unit(zoe_weights *weights) {
    return add_unit(weights, false);
}

int zoe_weights_block(zoe_weights *weights) {
    return add_unit(weights, true);
}

static int new_item(zoe_weights *weights, zoe_item **out) {
    zoe_context *ctx = weights->be->ctx;
    if (weights->count == weights->capacity) {
        size_t capacity = weights->capacity ? 2 * weights->capacity : 64;
        zoe_item *items = zoe_realloc(ctx, weights->items, capacity * sizeof *items);
        if (!items) return zoe_out_of_memory(ctx, capacity * sizeof *items, weights->part);
        weights->items = items;
        weights->capacity = capacity;
    }
    *out = &weights->items[weights->count];
    return ZOE_OK;
}

static int add_item(zoe_weights *weights, const char *prefix, const zoe_slot *slot, const zoe_dims dims, void *target) {
    zoe_context *ctx = weights->be->ctx;
    zoe_item *it = NULL;
    ZOE_TRY(new_item(weights, &it));
    *it = (zoe_item){.target = (zoe_tensor *)((char *)target + slot->member), .kind = slot->kind};
    it->rank = zoe_shape_rule(slot->shape, dims, it->shape);
    if (it->rank < 0) return zoe_fail(ctx, ZOE_ERR_INTERNAL, "shape rule \"%s\" of %s", slot->shape, slot->name);
    it->name = zoe_format(ctx, "%s%s", prefix, slot->name);
    if (!it->name) return zoe_out_of_memory(ctx, strlen(slot->name), weights->part);
    weights->count++;
    weights->units[weights->unit_count - 1].count++;
    return ZOE_OK;
}

/* The scales that a file has for the matrix `name`, as items behind it. */
static int add_scales(zoe_weights *weights, const char *name) {
    static const char *const endings[] = {"_scale", "_global_scale"};
    for (int i = 0; i < 2; i++) {
        zoe_item *it = NULL;
        char *full = zoe_format(weights->be->ctx, "%s%s", name, endings[i]);
        if (!full) return zoe_out_of_memory(weights->be->ctx, strlen(name), weights->part);
        int status = zoe_weights_find(weights->ckpt, weights->aliases, full) ? new_item(weights, &it) : 1;
        if (status != ZOE_OK) {
            zoe_free(weights->be->ctx, full);
            return status < 0 ? status : ZOE_OK;
        }
        *it = (zoe_item){.kind = ZOE_SLOT_SCALES, .name = full};
        weights->count++;
        weights->units[weights->unit_count - 1].count++;
    }
    return ZOE_OK;
}

int zoe_weights_bind(zoe_weights *weights, const zoe_slot *slots, const zoe_dims dims, void *target, const char *prefix,
                     ...) {
    char text[256];
    va_list args;
    va_start(args, prefix);
    int length = vsnprintf(text, sizeof text, prefix, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof text || weights->unit_count == 0)
        return zoe_fail(weights->be->ctx, ZOE_ERR_INTERNAL, "binding %s", prefix);
    for (const zoe_slot *slot = slots; slot->name; slot++) {
        if (slot->when && !dims[slot->when - 'A']) continue;
        ZOE_TRY(add_item(weights, text, slot, dims, target));
        if (weights->ckpt && slot->kind == ZOE_SLOT_LINEAR)
            ZOE_TRY(add_scales(weights, weights->items[weights->count - 1].name));
    }
    return ZOE_OK;
}

int zoe_weights_bind_blocks(zoe_weights *weights, const zoe_slot *slots, const zoe_dims dims, void *targets, size_t size,
                            int64_t count, const char *prefix) {
    for (int64_t i = 0; i < count; i++) {
        ZOE_TRY(zoe_weights_block(weights));
        ZOE_TRY(
            zoe_weights_bind(weights, slots, dims, (char *)targets + (size_t)i * size, "%s%lld.", prefix, (long long)i));
    }
    return ZOE_OK;
}

/* ---- checking ---- */

/* Leading axes of one do not count: some files keep a batch axis on single tensors. */
static bool same_shape(const zoe_item *it, const zoe_entry *entry, zoe_part part) {
    int extra = 0, taken = part.second < 0 ? 1 : 2;
    while (entry->rank - extra > it->rank && entry->shape[extra] == 1) extra++;
    if (entry->rank - extra != it->rank) return false;
    for (int i = 0; i < it->rank; i++)
        if (entry->shape[extra + i] * (i == 0 ? taken : 1) != it->shape[i] * (i == 0 ? part.of : 1)) return false;
    return true;
}

const zoe_entry *zoe_item_find(const zoe_checkpoint *ckpt, const zoe_alias *aliases, const char *name, zoe_part *part) {
    char other[256];
    const zoe_entry *entry = zoe_checkpoint_find(ckpt, name);
    *part = (zoe_part){0, -1, 1};
    while (!entry && (aliases = zoe_alias_next(aliases, name, other, sizeof other, part)))
        entry = zoe_checkpoint_find(ckpt, other);
    return entry;
}

const zoe_entry *zoe_weights_find(const zoe_checkpoint *ckpt, const zoe_alias *aliases, const char *name) {
    zoe_part part;
    return zoe_item_find(ckpt, aliases, name, &part);
}

/* Finds an item's entry under its own name or an alias; writes what is wrong, or nothing, into `problem`. */
static void resolve(zoe_weights *weights, zoe_item *it, char *problem, size_t size) {
    char expected[96], found[96];
    zoe_part part;
    problem[0] = 0;
    if (it->kind == ZOE_SLOT_SCALES) return; /* their matrix looks after them */
    it->entry = zoe_item_find(weights->ckpt, weights->aliases, it->name, &part);
    if (!it->entry) {
        snprintf(problem, size, "%s is missing", it->name);
        return;
    }
    const zoe_item *next = it + 1 < weights->items + weights->count ? it + 1 : NULL;
    if (next && next->kind == ZOE_SLOT_SCALES) {
        zoe_item_given(weights, it, part, problem, size);
        return;
    }
    zoe_shape_text(expected, sizeof expected, it->rank, it->shape);
    zoe_shape_text(found, sizeof found, it->entry->rank, it->entry->shape);
    if (!same_shape(it, it->entry, part))
        snprintf(problem, size, "%s has shape %s, expected %s%s", it->entry->name, found, expected,
                 part.of > 1 ? " in each of its parts" : "");
    else if (!zoe_dtype_is_float(it->entry->dtype))
        snprintf(problem, size, "%s has dtype %s, expected F32, BF16, F16 or F64", it->entry->name,
                 zoe_dtype_name(it->entry->dtype));
    int64_t count = part.second < 0 ? zoe_item_count(it) : zoe_item_count(it) / 2;
    it->skip = part.first * count;
    it->gap = part.second < 0 ? 0 : (part.second - part.first - 1) * count;
}

static int resolve_all(zoe_weights *weights) {
    char text[ZOE_ERROR_TEXT - 512], problem[512];
    size_t used = 0;
    int problems = 0, told = 0;
    for (size_t i = 0; i < weights->count; i++) {
        resolve(weights, &weights->items[i], problem, sizeof problem);
        if (!problem[0]) continue;
        problems++;
        size_t length = strlen(problem);
        if (used + length + 4 >= sizeof text) continue;
        used += (size_t)snprintf(text + used, sizeof text - used, "\n  %s", problem);
        told++;
    }
    if (!problems) return ZOE_OK;
    if (told < problems) snprintf(text + used, sizeof text - used, "\n  and %d more", problems - told);
    return zoe_fail(weights->be->ctx, ZOE_ERR_FORMAT, "%s (%s): %d of %zu tensors do not fit its configuration:%s",
                    weights->part, zoe_checkpoint_path(weights->ckpt, 0), problems, weights->count, text);
}

/* ---- sizes ---- */

static bool aligned(const zoe_item *it) {
    return (uintptr_t)zoe_item_mapping(it) % zoe_dtype_size(it->entry->dtype) == 0;
}

static bool usable_in_place(const zoe_weights *weights, const zoe_item *it) {
    if (it->kind == ZOE_SLOT_TABLE) return true;
    if (!it->entry || it->gap || it->kind == ZOE_SLOT_CONV || !weights->be->ops->host_memory) return false;
    if (it->kind == ZOE_SLOT_SCALES) return it[-1].mapped;
    if (it->scales && (it->form.dtype == ZOE_F4_E2M1 || !aligned(it + 1))) return false;
    return zoe_item_verbatim(it) && aligned(it);
}

/* What the backend's memory is taken in. */
size_t zoe_unit_pages(const zoe_weights *weights, size_t bytes) {
    return weights->be->ops->host_memory || bytes < ZOE_DEVICE_ALONE ? bytes : zoe_device_pages(bytes, ZOE_DEVICE_PAGE);
}

/* Lays every unit's tensors out in its blob. */
static void measure_units(zoe_weights *weights) {
    for (int i = 0; i < weights->unit_count; i++) {
        zoe_unit *u = &weights->units[i];
        u->bytes = u->in_file = 0;
        u->maps = false;
        u->blob = 0;
        for (size_t k = u->first; k < u->first + u->count; k++) {
            zoe_item *it = &weights->items[k];
            it->form = zoe_item_form(weights, it);
            it->mapped = usable_in_place(weights, it);
            u->maps = u->maps || it->mapped;
            if (it->mapped && it->kind != ZOE_SLOT_TABLE) u->bytes += zoe_item_bytes(it);
            if (it->mapped) continue;
            if (it->entry) u->in_file += (int64_t)zoe_item_span(it, zoe_item_count(it));
            it->offset = u->blob;
            u->blob += ((size_t)zoe_item_bytes(it) + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
        }
        u->bytes += (int64_t)zoe_unit_pages(weights, u->blob);
    }
}

int zoe_weights_check(zoe_weights *weights) {
    int status = weights->ckpt ? resolve_all(weights) : ZOE_OK;
    if (status == ZOE_OK) status = zoe_items_agree(weights);
    if (status == ZOE_OK) measure_units(weights);
    return status;
}

/* ---- use ---- */

/* Bytes of the unit are looked at where the file is mapped. */
static bool touches_mapping(const zoe_weights *weights, const zoe_unit *u) {
    return weights->ckpt && (u->maps || weights->be->ops->host_memory);
}

int zoe_weights_release(zoe_weights *weights, int index, int status) {
    zoe_unit *u = &weights->units[index];
    if (touches_mapping(weights, u)) {
        if (status == ZOE_OK)
            status = zoe_checkpoint_intact(weights->ckpt);
        else
            zoe_checkpoint_renew(weights->ckpt); /* nothing to tell: what was computed is not used */
    }
    u->users--;
    if (weights->be->ops->host_memory)
        zoe_mapped_release(weights, index);
    else
        zoe_store_release(weights, index);
    return status;
}

int zoe_weights_acquire(zoe_weights *weights, int index) {
    zoe_unit *u = &weights->units[index];
    bool mapped = weights->be->ops->host_memory;
    if (touches_mapping(weights, u)) ZOE_TRY(zoe_checkpoint_intact(weights->ckpt));
    if (!weights->placed) zoe_units_place(weights);
    zoe_units_note_least(weights, index);
    u->users++;
    int status = mapped ? zoe_mapped_acquire(weights, index) : zoe_store_acquire(weights, index);
    if (status < 0) u->users--;
    return status;
}

static bool settled(const zoe_weights *weights, const zoe_unit *u) {
    if (weights->be->ops->host_memory) return u->tier == ZOE_TIER_RESIDENT && u->loaded;
    return u->tier == ZOE_TIER_RESIDENT ? u->memory != NULL : u->tier == ZOE_TIER_HOST && u->filled;
}

zoe_presence zoe_weights_presence(const zoe_weights *weights) {
    if (!weights->placed) return ZOE_WEIGHTS_AWAY;
    for (int i = 0; i < weights->unit_count; i++)
        if (!settled(weights, &weights->units[i])) return ZOE_WEIGHTS_COMING;
    return ZOE_WEIGHTS_SETTLED;
}

static void unload(zoe_weights *weights) {
    if (weights->be->ops->host_memory)
        zoe_mapped_unload(weights);
    else
        zoe_store_unload(weights);
    weights->placed = false;
}

void zoe_weights_unload(zoe_weights *weights) {
    if (weights->be->weights.offload != ZOE_OFFLOAD_NONE) unload(weights);
}

void zoe_weights_free(zoe_weights *weights) {
    if (!weights) return;
    zoe_context *ctx = weights->be->ctx;
    unload(weights);
    for (size_t i = 0; i < weights->count; i++) zoe_free(ctx, weights->items[i].name);
    zoe_free(ctx, weights->items);
    zoe_free(ctx, weights->units);
    zoe_free(ctx, weights);
}

void zoe_weights_table_row(const zoe_tensor *table, int64_t row, float *out) {
    const char *data = table->data;
    if (!data) {
        zoe_random_fill(out, ZOE_F32, table->shape[1], (uint64_t)row, 0, 1.7f);
        return;
    }
    zoe_convert_floats(out, ZOE_F32, data + (size_t)(row * table->shape[1]) * zoe_dtype_size(table->dtype), table->dtype,
                       table->shape[1]);
}

int64_t zoe_weights_bytes(const zoe_weights *weights) {
    int64_t bytes = 0;
    for (size_t i = 0; i < weights->count; i++) bytes += zoe_item_bytes(&weights->items[i]);
    return bytes;
}

const char *zoe_weights_find_nonfinite(const zoe_weights *weights) {
    if (weights->ckpt && zoe_checkpoint_intact(weights->ckpt) < 0) return NULL;
    for (size_t i = 0; i < weights->count; i++) {
        const zoe_item *it = &weights->items[i];
        /* Of an item in two parts what lies between them is looked at, too: it belongs to the same tensor. */
        if (it->entry && zoe_dtype_is_float(it->entry->dtype) &&
            zoe_first_nonfinite(zoe_item_mapping(it), it->entry->dtype, zoe_item_count(it) + it->gap) >= 0)
            return it->entry->name;
    }
    return NULL;
}

const zoe_checkpoint *zoe_weights_checkpoint(const zoe_weights *weights) {
    return weights->ckpt;
}

bool zoe_weights_source(const zoe_weights *weights, size_t index, const zoe_entry **entry, zoe_tensor *form) {
    if (index >= weights->count) return false;
    *entry = weights->items[index].entry;
    *form = weights->items[index].form;
    return true;
}

bool zoe_weights_describe(const zoe_weights *weights, size_t index, const char **name, int *rank, int64_t *shape) {
    if (index >= weights->count) return false;
    *name = weights->items[index].name;
    *rank = weights->items[index].rank;
    memcpy(shape, weights->items[index].shape, sizeof weights->items[index].shape);
    return true;
}
