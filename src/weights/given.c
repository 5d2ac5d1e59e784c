/*
 * Matrices that are quantised in the file: NAME.weight has the codes, NAME.weight_scale their scales, and with nvfp4
 * NAME.weight_global_scale the one for all (docs/memory.md has the table).
 */
#include <stdio.h>

#include "weights/parts.h"
#include "weights/quantise.h"

/* The form that the types and shapes of codes and scales stand for; false if for none. */
static bool form_of(const zoe_entry *codes, const zoe_entry *scales, int64_t in, zoe_weight_form *out) {
    *out = (zoe_weight_form){.dtype = codes->dtype};
    if (codes->dtype == ZOE_I8 || codes->dtype == ZOE_F8_E4M3) return scales->dtype == ZOE_F32;
    if (codes->dtype != ZOE_U8 || scales->rank != 2 || scales->shape[1] <= 0 || in % scales->shape[1]) return false;
    int64_t group = in / scales->shape[1];
    if (scales->dtype == ZOE_F16 && (group == 32 || group == 64 || group == 128))
        *out = (zoe_weight_form){.dtype = ZOE_I4, .group = (int)group};
    else if (scales->dtype == ZOE_F8_E4M3 && group == 16)
        out->dtype = ZOE_F4_E2M1;
    else
        return false;
    return true;
}

/* What stands in the file as [rows, width]; width 0: one axis alone. */
static bool has_shape(const zoe_entry *entry, int64_t rows, int64_t width) {
    if (!width) return entry->rank == 1 && entry->shape[0] == rows;
    return entry->rank == 2 && entry->shape[0] == rows && entry->shape[1] == width;
}

static void bind_scales(zoe_item *it, const zoe_entry *entry, int64_t rows, int64_t width, int64_t skip) {
    it->entry = entry;
    it->rank = width ? 2 : 1;
    it->shape[0] = rows;
    it->shape[1] = width;
    it->skip = skip;
}

void zoe_item_given(zoe_weights *weights, zoe_item *it, zoe_part part, char *problem, size_t size) {
    zoe_part unused;
    int64_t parts = part.of;
    int64_t out = it->shape[0], in = zoe_item_count(it) / (out ? out : 1);
    zoe_item *end = weights->items + weights->count,
             *global = it + 2 < end && it[2].kind == ZOE_SLOT_SCALES ? it + 2 : NULL;
    const zoe_entry *codes = it->entry, *scales = zoe_item_find(weights->ckpt, weights->aliases, it[1].name, &unused);
    const zoe_entry *one = global ? zoe_item_find(weights->ckpt, weights->aliases, global->name, &unused) : NULL;
    zoe_weight_form form;
    if (part.second >= 0 || !form_of(codes, scales, in, &form) || !zoe_quantisable(form, out, in) ||
        (form.dtype == ZOE_F4_E2M1) != (one != NULL)) {
        snprintf(problem, size,
                 "%s (%s) with scales %s is no form known here: expected I8 or F8_E4M3 with F32, or U8 with F16 (int4) or "
                 "F8_E4M3 and a global scale (nvfp4)",
                 codes->name, zoe_dtype_name(codes->dtype), zoe_dtype_name(scales->dtype));
        return;
    }
    int group = zoe_quantised_group(form.dtype, form.group);
    int64_t width = in * zoe_dtype_bits(form.dtype) / 8, groups = group ? in / group : 0;
    const zoe_entry *wrong = !has_shape(codes, out * parts, width)                     ? codes
                             : !has_shape(scales, out * parts, groups)                 ? scales
                             : one && (!has_shape(one, 1, 0) || one->dtype != ZOE_F32) ? one
                                                                                       : NULL;
    if (wrong) {
        char found[96];
        zoe_shape_text(found, sizeof found, wrong->rank, wrong->shape);
        snprintf(problem, size, "%s has shape %s, which does not fit a matrix [%lld, %lld] in %s", wrong->name, found,
                 (long long)out * parts, (long long)in, zoe_form_name(form.dtype));
        return;
    }
    it->scales = scales;
    it->form = zoe_quantised_of(NULL, form.dtype, out, in, form.group);
    it->skip = part.first * out * in;
    bind_scales(it + 1, scales, out, groups, part.first * out * (groups ? groups : 1));
    if (global) bind_scales(global, one, 1, 0, 0);
}

int zoe_items_agree(const zoe_weights *weights) {
    for (size_t i = 0; i < weights->count; i++) {
        const zoe_item *it = &weights->items[i];
        zoe_dtype asked = weights->form.dtype;
        if (!it->scales || asked == ZOE_DTYPE_COUNT || asked == it->form.dtype) continue;
        return zoe_fail(
            weights->be->ctx, ZOE_ERR_ARGUMENT,
            "%s (%s) is quantised already, in %s: --linear %s needs the model as it was published, or leave it out",
            weights->part, zoe_checkpoint_path(weights->ckpt, 0), zoe_form_name(it->form.dtype), zoe_form_name(asked));
    }
    return ZOE_OK;
}
