/* What a tensor of a file becomes once it is loaded, and how it is filled. */
#include <math.h>
#include <string.h>

#include "weights/convert.h"
#include "weights/parts.h"
#include "weights/quantise.h"

int64_t zoe_item_count(const zoe_item *it) {
    int64_t count = 1;
    for (int i = 0; i < it->rank; i++) count *= it->shape[i];
    return count;
}

size_t zoe_item_span(const zoe_item *it, int64_t elements) {
    return (size_t)((elements * zoe_dtype_bits(zoe_item_source(it)) + 7) / 8);
}

/* Scales of a file are items of their own. */
int64_t zoe_item_bytes(const zoe_item *it) {
    bool apart = it->scales || it->kind == ZOE_SLOT_SCALES;
    return apart ? (int64_t)zoe_item_span(it, zoe_item_count(it)) : zoe_form_bytes(&it->form);
}

const char *zoe_item_mapping(const zoe_item *it) {
    return (const char *)it->entry->data + zoe_item_span(it, it->skip);
}

zoe_tensor zoe_item_form(const zoe_weights *weights, const zoe_item *it) {
    const zoe_backend *be = weights->be;
    if (it->scales) return it->form;
    if (it->kind == ZOE_SLOT_SCALES) return zoe_tensor_of(NULL, it->entry->dtype, it->rank, it->shape);
    int64_t count = zoe_item_count(it), out = it->shape[0];
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

int64_t zoe_item_rows(const zoe_item *it) {
    return it->kind == ZOE_SLOT_VECTOR ? 1 : it->form.shape[0];
}

int64_t zoe_item_width(const zoe_item *it) {
    int64_t rows = zoe_item_rows(it);
    return rows ? zoe_item_count(it) / rows : 0;
}

bool zoe_item_verbatim(const zoe_item *it) {
    if (it->scales) return true;
    return it->entry && it->kind != ZOE_SLOT_CONV && it->kind != ZOE_SLOT_VECTOR && it->form.dtype == it->entry->dtype;
}

zoe_dtype zoe_item_source(const zoe_item *it) {
    if (it->scales) return it->form.dtype;
    return it->entry ? it->entry->dtype : zoe_is_quantised(&it->form) ? ZOE_BF16 : it->form.dtype;
}

static uint64_t name_seed(const char *name) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return hash;
}

/* Weights drawn so that activations neither vanish nor explode: scales near 1, the rest by the inputs they sum over. */
void zoe_item_draw(const zoe_item *it, void *to, int64_t row, int64_t rows) {
    size_t length = strlen(it->name);
    int64_t out = it->form.shape[0], inputs = out ? zoe_item_count(it) / out : 1, width = zoe_item_width(it);
    bool scale = it->kind == ZOE_SLOT_VECTOR &&
                 (strstr(it->name, "gamma") || (length > 7 && !strcmp(it->name + length - 7, ".weight")));
    float spread = it->kind == ZOE_SLOT_VECTOR ? 0.05f : sqrtf(3.0f / (float)inputs);
    zoe_random_fill_from(to, zoe_item_source(it), row * width, rows * width, name_seed(it->name), scale ? 1.0f : 0.0f,
                         spread);
}

zoe_tensor zoe_item_over(const zoe_item *it, void *memory) {
    zoe_tensor t = it->form;
    t.data = memory;
    return zoe_is_quantised(&t) ? zoe_quantised_of(memory, t.dtype, t.shape[0], t.shape[1], t.group) : t;
}

int64_t zoe_item_fill(const zoe_item *it, void *to, const void *source, int64_t row, int64_t rows, uint32_t *largest) {
    const zoe_tensor *form = &it->form;
    zoe_dtype dtype = zoe_item_source(it);
    int64_t width = zoe_item_width(it);
    char *at = (char *)to + (size_t)(row * width) * zoe_dtype_size(form->dtype);
    if (zoe_is_quantised(form)) {
        zoe_tensor y = zoe_item_over(it, to);
        *largest = zoe_quantise_rows(&y, source, dtype, row, rows);
        return -1;
    }
    if (it->entry && (it->kind == ZOE_SLOT_CONV || it->kind == ZOE_SLOT_VECTOR)) {
        int64_t bad = zoe_first_nonfinite(source, dtype, rows * width);
        if (bad >= 0) return row * width + bad;
    }
    if (it->entry && it->kind == ZOE_SLOT_CONV) /* drawn ones are drawn as they will lie */
        zoe_convert_conv(at, form->dtype, source, dtype, rows, form->shape[4],
                         form->shape[1] * form->shape[2] * form->shape[3]);
    else
        zoe_convert_floats(at, form->dtype, source, dtype, rows * width);
    return -1;
}

int zoe_item_not_finite(const zoe_weights *weights, const zoe_item *it, int64_t element) {
    return zoe_fail(weights->be->ctx, ZOE_ERR_NUMERIC,
                    "%s: tensor %s holds NaN or infinity at element %lld; the file is damaged", weights->part,
                    it->entry->name, (long long)element);
}
