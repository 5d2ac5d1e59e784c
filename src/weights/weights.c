#include "weights/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "weights/convert.h"
#include "weights/quantise.h"
#include "weights/slots.h"

typedef struct item {
    char *name;
    zoe_tensor *target;
    zoe_slot_kind kind;
    int unit;
    int rank;
    int64_t shape[ZOE_MAX_RANK]; /* as in the checkpoint */
    const zoe_entry *entry;      /* NULL for random weights */
    int64_t skip;                /* elements of the entry before this part of it */
    void *owned;                 /* backend memory, or NULL while unloaded or used from the mapping */
} item;

typedef struct unit {
    int64_t bytes; /* while loaded */
    int users;     /* acquisitions not yet released */
    bool loaded;
} unit;

struct zoe_weights {
    zoe_backend *be;
    const zoe_checkpoint *ckpt;
    const char *part;
    const zoe_alias *aliases;
    zoe_weight_form form;
    item *items;
    size_t count, capacity;
    unit *units;
    int unit_count;
    int keep; /* units from here on are given back when released */
};

int zoe_weights_create(zoe_backend *be, const zoe_checkpoint *ckpt, const char *part, const zoe_alias *aliases,
                       zoe_weight_form form, zoe_weights **out) {
    zoe_weights *weights;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, weights, 1));
    *weights = (zoe_weights){.be = be, .ckpt = ckpt, .part = part, .aliases = aliases, .form = form};
    *out = weights;
    return ZOE_OK;
}

void zoe_weights_free(zoe_weights *weights) {
    if (!weights) return;
    zoe_context *ctx = weights->be->ctx;
    zoe_weights_unload(weights);
    for (size_t i = 0; i < weights->count; i++) zoe_free(ctx, weights->items[i].name);
    zoe_free(ctx, weights->items);
    zoe_free(ctx, weights->units);
    zoe_free(ctx, weights);
}

int zoe_weights_unit(zoe_weights *weights) {
    zoe_context *ctx = weights->be->ctx;
    size_t bytes = ((size_t)weights->unit_count + 1) * sizeof(unit);
    unit *units = zoe_realloc(ctx, weights->units, bytes);
    if (!units) return zoe_out_of_memory(ctx, bytes, weights->part);
    weights->units = units;
    units[weights->unit_count] = (unit){0};
    return weights->unit_count++;
}

static int add_item(zoe_weights *weights, const char *prefix, const zoe_slot *slot, const zoe_dims dims, void *target) {
    zoe_context *ctx = weights->be->ctx;
    if (weights->count == weights->capacity) {
        size_t capacity = weights->capacity ? 2 * weights->capacity : 64;
        item *items = zoe_realloc(ctx, weights->items, capacity * sizeof *items);
        if (!items) return zoe_out_of_memory(ctx, capacity * sizeof *items, weights->part);
        weights->items = items;
        weights->capacity = capacity;
    }
    item *it = &weights->items[weights->count];
    *it = (item){.target = (zoe_tensor *)((char *)target + slot->member),
                 .kind = slot->kind,
                 .unit = weights->unit_count - 1};
    it->rank = zoe_shape_rule(slot->shape, dims, it->shape);
    if (it->rank < 0) return zoe_fail(ctx, ZOE_ERR_INTERNAL, "shape rule \"%s\" of %s", slot->shape, slot->name);
    it->name = zoe_format(ctx, "%s%s", prefix, slot->name);
    if (!it->name) return zoe_out_of_memory(ctx, strlen(slot->name), weights->part);
    weights->count++;
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
    for (const zoe_slot *slot = slots; slot->name; slot++)
        if (!slot->when || dims[slot->when - 'A']) ZOE_TRY(add_item(weights, text, slot, dims, target));
    return ZOE_OK;
}

/* ---- checking ---- */

static int64_t item_count(const item *it) {
    int64_t count = 1;
    for (int i = 0; i < it->rank; i++) count *= it->shape[i];
    return count;
}

/* Leading axes of one do not count: some files keep a batch axis on single tensors. */
static bool same_shape(const item *it, const zoe_entry *entry, int parts) {
    int extra = 0;
    while (entry->rank - extra > it->rank && entry->shape[extra] == 1) extra++;
    if (entry->rank - extra != it->rank) return false;
    for (int i = 0; i < it->rank; i++)
        if (entry->shape[extra + i] != it->shape[i] * (i == 0 ? parts : 1)) return false;
    return true;
}

/* As zoe_weights_find(), with the part of the tensor that an alias names. */
static const zoe_entry *find_part(const zoe_checkpoint *ckpt, const zoe_alias *aliases, const char *name, int *index,
                                  int *parts) {
    char other[256];
    const zoe_entry *entry = zoe_checkpoint_find(ckpt, name);
    *index = 0, *parts = 1;
    while (!entry && (aliases = zoe_alias_next(aliases, name, other, sizeof other, index, parts)))
        entry = zoe_checkpoint_find(ckpt, other);
    return entry;
}

const zoe_entry *zoe_weights_find(const zoe_checkpoint *ckpt, const zoe_alias *aliases, const char *name) {
    int index, parts;
    return find_part(ckpt, aliases, name, &index, &parts);
}

/* Finds an item's entry under its own name or an alias; writes what is wrong, or nothing, into `problem`. */
static void resolve(zoe_weights *weights, item *it, char *problem, size_t size) {
    char expected[96], found[96];
    int index, parts;
    problem[0] = 0;
    it->entry = find_part(weights->ckpt, weights->aliases, it->name, &index, &parts);
    if (!it->entry) {
        snprintf(problem, size, "%s is missing", it->name);
        return;
    }
    zoe_shape_text(expected, sizeof expected, it->rank, it->shape);
    zoe_shape_text(found, sizeof found, it->entry->rank, it->entry->shape);
    if (!same_shape(it, it->entry, parts))
        snprintf(problem, size, "%s has shape %s, expected %s%s", it->entry->name, found, expected,
                 parts > 1 ? " in each of its parts" : "");
    else if (!zoe_dtype_is_float(it->entry->dtype))
        snprintf(problem, size, "%s has dtype %s, expected F32, BF16, F16 or F64", it->entry->name,
                 zoe_dtype_name(it->entry->dtype));
    it->skip = index * item_count(it);
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

/* ---- loading ---- */

static bool aligned(const void *data, zoe_dtype dtype) {
    return (uintptr_t)data % zoe_dtype_size(dtype) == 0;
}

static const void *item_data(const item *it) {
    return (const char *)it->entry->data + (size_t)it->skip * zoe_dtype_size(it->entry->dtype);
}

/* The type and shape in which the backend gets an item. */
static zoe_tensor loaded_form(const zoe_weights *weights, const item *it) {
    const zoe_backend *be = weights->be;
    int64_t count = item_count(it), out = it->shape[0];
    if (it->kind == ZOE_SLOT_VECTOR) return zoe_tensor_of(NULL, ZOE_F32, it->rank, it->shape);
    if (it->kind == ZOE_SLOT_CONV) {
        int64_t first = it->rank == 5 ? it->shape[2] : 1, in = it->shape[1];
        const int64_t *space = it->shape + it->rank - 2;
        return ZOE_TENSOR(NULL, be->dtype, out, first, space[0], space[1], in);
    }
    if (it->kind == ZOE_SLOT_PRECISE) return ZOE_TENSOR(NULL, ZOE_F32, out, count / (out ? out : 1));
    if (it->kind == ZOE_SLOT_TABLE)
        return ZOE_TENSOR(NULL, it->entry ? it->entry->dtype : ZOE_BF16, out, count / (out ? out : 1));
    if (it->kind == ZOE_SLOT_LINEAR && zoe_quantisable(weights->form, out, count / (out ? out : 1)))
        return zoe_quantised_of(NULL, weights->form.dtype, out, count / out, weights->form.group);
    zoe_dtype dtype = it->entry ? it->entry->dtype : ZOE_BF16;
    if (zoe_dtype_is_float(weights->form.dtype)) dtype = weights->form.dtype;
    if (!be->ops->host_memory)
        dtype = be->dtype;
    else if (dtype == ZOE_F64)
        dtype = ZOE_F32;
    return ZOE_TENSOR(NULL, dtype, out, count / (out ? out : 1));
}

/* What loading takes: a table's pages come in as its rows are used. */
static void measure_units(zoe_weights *weights) {
    for (int i = 0; i < weights->unit_count; i++) weights->units[i].bytes = 0;
    for (size_t i = 0; i < weights->count; i++) {
        const item *it = &weights->items[i];
        zoe_tensor form = loaded_form(weights, it);
        if (it->kind != ZOE_SLOT_TABLE) weights->units[it->unit].bytes += zoe_form_bytes(&form);
    }
}

int zoe_weights_check(zoe_weights *weights) {
    int status = weights->ckpt ? resolve_all(weights) : ZOE_OK;
    measure_units(weights);
    return status;
}

static bool usable_in_place(const zoe_weights *weights, const item *it, const zoe_tensor *form) {
    if (it->kind == ZOE_SLOT_TABLE) return true;
    if (!it->entry || it->kind == ZOE_SLOT_CONV) return false;
    return weights->be->ops->host_memory && form->dtype == it->entry->dtype && aligned(item_data(it), form->dtype);
}

static int check_finite(const zoe_weights *weights, const item *it) {
    int64_t bad = zoe_first_nonfinite(item_data(it), it->entry->dtype, item_count(it));
    if (bad < 0) return ZOE_OK;
    return zoe_fail(weights->be->ctx, ZOE_ERR_NUMERIC, "%s: tensor %s holds %s at element %lld; the file is damaged",
                    weights->part, it->entry->name,
                    isnan(zoe_float_at(item_data(it), it->entry->dtype, bad)) ? "NaN" : "infinity", (long long)bad);
}

static uint64_t name_seed(const char *name) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return hash;
}

/* Weights drawn so that activations neither vanish nor explode: scales near 1, the rest by the inputs they sum over. */
static void draw(const item *it, const zoe_tensor *form, void *to) {
    size_t length = strlen(it->name);
    int64_t count = zoe_tensor_count(form), inputs = form->shape[0] ? count / form->shape[0] : 1;
    bool scale = it->kind == ZOE_SLOT_VECTOR &&
                 (strstr(it->name, "gamma") || (length > 7 && !strcmp(it->name + length - 7, ".weight")));
    float spread = it->kind == ZOE_SLOT_VECTOR ? 0.05f : sqrtf(3.0f / (float)inputs);
    zoe_random_fill(to, form->dtype, count, name_seed(it->name), scale ? 1.0f : 0.0f, spread);
}

static void fill(const item *it, const zoe_tensor *form, void *to) {
    if (!it->entry)
        draw(it, form, to);
    else if (it->kind == ZOE_SLOT_CONV)
        zoe_convert_conv(to, form->dtype, item_data(it), it->entry->dtype, form->shape[0], form->shape[4],
                         form->shape[1] * form->shape[2] * form->shape[3]);
    else
        zoe_convert_floats(to, form->dtype, item_data(it), it->entry->dtype, item_count(it));
}

/* Random weights are drawn as the file would have them, so that every form holds the same numbers. */
static int fill_quantised(zoe_weights *weights, const item *it, zoe_tensor *form) {
    zoe_context *ctx = weights->be->ctx;
    if (it->entry) {
        int status = zoe_quantise_floats(weights->be, form, item_data(it), it->entry->dtype);
        zoe_checkpoint_drop(weights->ckpt, it->entry);
        return status;
    }
    zoe_tensor drawn = ZOE_TENSOR(NULL, ZOE_BF16, form->shape[0], form->shape[1]);
    size_t bytes = (size_t)zoe_tensor_bytes(&drawn);
    drawn.data = zoe_alloc(ctx, bytes);
    if (!drawn.data) return zoe_out_of_memory(ctx, bytes, it->name);
    draw(it, &drawn, drawn.data);
    int status = zoe_quantise_floats(weights->be, form, drawn.data, ZOE_BF16);
    zoe_free(ctx, drawn.data);
    return status;
}

static int load_item(zoe_weights *weights, item *it) {
    zoe_backend *be = weights->be;
    zoe_context *ctx = be->ctx;
    zoe_tensor form = loaded_form(weights, it);
    bool small = it->kind == ZOE_SLOT_VECTOR || it->kind == ZOE_SLOT_CONV;
    if (be->ops->computes && it->entry && small) ZOE_TRY(check_finite(weights, it));
    if (usable_in_place(weights, it, &form)) {
        if (it->entry) form.data = (void *)(uintptr_t)item_data(it);
        *it->target = form;
        return ZOE_OK;
    }
    ZOE_TRY(zoe_form_alloc(be, &form));
    it->owned = form.data;
    *it->target = form;
    if (!be->ops->computes) return ZOE_OK;
    if (zoe_is_quantised(&form)) return fill_quantised(weights, it, &form);
    if (be->ops->host_memory) {
        fill(it, &form, form.data);
        if (it->entry) zoe_checkpoint_drop(weights->ckpt, it->entry); /* not needed twice */
        return ZOE_OK;
    }
    size_t bytes = (size_t)zoe_tensor_bytes(&form);
    void *staging = zoe_alloc(ctx, bytes);
    if (!staging) return zoe_out_of_memory(ctx, bytes, it->name);
    fill(it, &form, staging);
    int status = zoe_upload(be, &form, staging);
    zoe_free(ctx, staging);
    return status;
}

static void unload_item(zoe_weights *weights, item *it) {
    zoe_backend_free(weights->be, it->owned);
    it->owned = NULL;
    if (it->entry) zoe_checkpoint_drop(weights->ckpt, it->entry);
    it->target->data = NULL;
}

static void unload_unit(zoe_weights *weights, int index) {
    unit *u = &weights->units[index];
    for (size_t i = 0; i < weights->count; i++)
        if (weights->items[i].unit == index) unload_item(weights, &weights->items[i]);
    if (u->loaded) weights->be->weight_bytes -= u->bytes;
    u->loaded = false;
}

static int load_unit(zoe_weights *weights, int index) {
    zoe_backend *be = weights->be;
    unit *u = &weights->units[index];
    for (size_t i = 0; i < weights->count; i++) {
        if (weights->items[i].unit != index) continue;
        int status = load_item(weights, &weights->items[i]);
        if (status == ZOE_OK) continue;
        unload_unit(weights, index);
        return status;
    }
    u->loaded = true;
    be->weight_bytes += u->bytes;
    be->weight_loads += u->bytes;
    if (be->weight_bytes > be->weight_peak) be->weight_peak = be->weight_bytes;
    return ZOE_OK;
}

/* The two units that stream are one at work and one on its way. */
static int64_t streaming_bytes(const zoe_weights *weights, int from) {
    int64_t largest = 0;
    for (int i = from; i < weights->unit_count; i++)
        if (weights->units[i].bytes > largest) largest = weights->units[i].bytes;
    return weights->unit_count - from > 1 ? 2 * largest : largest;
}

int64_t zoe_weights_least(const zoe_weights *weights) {
    return weights->units[0].bytes + streaming_bytes(weights, 1);
}

/* As many leading units stay as the budget allows beside those that stream. */
static void choose_keep(zoe_weights *weights) {
    int64_t budget = weights->be->weight_budget, kept = weights->units[0].bytes, all = 0;
    for (int i = 0; i < weights->unit_count; i++) all += weights->units[i].bytes;
    weights->keep = weights->unit_count;
    if (!budget || all <= budget) return;
    weights->keep = 1;
    while (weights->keep < weights->unit_count) {
        kept += weights->units[weights->keep].bytes;
        if (kept + streaming_bytes(weights, weights->keep + 1) > budget) return;
        weights->keep++;
    }
}

static bool nothing_loaded(const zoe_weights *weights) {
    for (int i = 0; i < weights->unit_count; i++)
        if (weights->units[i].loaded) return false;
    return true;
}

/* Asks for the pages of the streaming unit that comes after this one. */
static void prefetch_next(const zoe_weights *weights, int index) {
    int next = index + 1 < weights->unit_count ? index + 1 : weights->keep;
    if (next < weights->keep || next >= weights->unit_count || weights->units[next].loaded) return;
    for (size_t i = 0; i < weights->count; i++)
        if (weights->items[i].unit == next && weights->items[i].entry)
            zoe_checkpoint_prefetch(weights->ckpt, weights->items[i].entry);
}

int zoe_weights_acquire(zoe_weights *weights, int index) {
    unit *u = &weights->units[index];
    if (nothing_loaded(weights)) choose_keep(weights);
    if (zoe_weights_least(weights) > weights->be->weight_least) weights->be->weight_least = zoe_weights_least(weights);
    if (!u->loaded) ZOE_TRY(load_unit(weights, index));
    u->users++;
    if (weights->keep < weights->unit_count && weights->be->ops->computes) prefetch_next(weights, index);
    return ZOE_OK;
}

void zoe_weights_release(zoe_weights *weights, int index) {
    if (--weights->units[index].users == 0 && index >= weights->keep) unload_unit(weights, index);
}

void zoe_weights_unload(zoe_weights *weights) {
    for (int i = 0; i < weights->unit_count; i++) unload_unit(weights, i);
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
    for (size_t i = 0; i < weights->count; i++) {
        zoe_tensor form = loaded_form(weights, &weights->items[i]);
        bytes += zoe_form_bytes(&form);
    }
    return bytes;
}

const char *zoe_weights_find_nonfinite(const zoe_weights *weights) {
    for (size_t i = 0; i < weights->count; i++) {
        const item *it = &weights->items[i];
        if (it->entry && zoe_first_nonfinite(item_data(it), it->entry->dtype, item_count(it)) >= 0) return it->entry->name;
    }
    return NULL;
}

bool zoe_weights_describe(const zoe_weights *weights, size_t index, const char **name, int *rank, int64_t *shape) {
    if (index >= weights->count) return false;
    *name = weights->items[index].name;
    *rank = weights->items[index].rank;
    memcpy(shape, weights->items[index].shape, sizeof weights->items[index].shape);
    return true;
}
