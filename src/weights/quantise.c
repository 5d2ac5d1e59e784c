#include "weights/quantise.h"

#include "weights/convert.h"

#define UNIT 16

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
