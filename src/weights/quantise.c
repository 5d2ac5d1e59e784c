#include "weights/quantise.h"

#include <string.h>

#include "weights/convert.h"

#define UNIT 16

static const struct {
    const char *name;
    zoe_dtype dtype;
} names[] = {{"native", ZOE_DTYPE_COUNT}, {"int8", ZOE_I8}, {"fp8", ZOE_F8_E4M3}, {"int4", ZOE_I4}, {"nvfp4", ZOE_F4_E2M1}};

const char *zoe_form_name(zoe_dtype dtype) {
    for (size_t i = 1; i < sizeof names / sizeof names[0]; i++)
        if (names[i].dtype == dtype) return names[i].name;
    return names[0].name;
}

bool zoe_form_named(const char *name, zoe_dtype *out) {
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i].name) == 0) {
            *out = names[i].dtype;
            return true;
        }
    return false;
}

bool zoe_quantisable(zoe_weight_form form, int64_t out, int64_t in) {
    if (form.dtype == ZOE_DTYPE_COUNT || zoe_dtype_is_float(form.dtype)) return false;
    int group = zoe_quantised_group(form.dtype, form.group);
    return out > 0 && in > 0 && out % UNIT == 0 && in % UNIT == 0 && (!group || in % group == 0);
}

int64_t zoe_form_bytes(const zoe_tensor *form) {
    if (!zoe_is_quantised(form)) return zoe_tensor_bytes(form);
    return zoe_quantised_bytes(form->dtype, form->shape[0], form->shape[1], form->group);
}

int zoe_form_alloc(zoe_backend *be, zoe_tensor *form) {
    void *memory;
    ZOE_TRY(be->ops->alloc(be, (size_t)zoe_form_bytes(form), &memory));
    if (zoe_is_quantised(form))
        *form = zoe_quantised_of(memory, form->dtype, form->shape[0], form->shape[1], form->group);
    else
        form->data = memory;
    return ZOE_OK;
}

int zoe_form_narrow(zoe_backend *be, zoe_tensor *t, zoe_dtype form) {
    zoe_tensor q = zoe_quantised_of(NULL, form, t->shape[0], t->shape[1], 0);
    ZOE_TRY(zoe_form_alloc(be, &q));
    int status = zoe_op_quantise(be, &q, t);
    zoe_backend_free(be, t->data);
    *t = q;
    return status;
}
