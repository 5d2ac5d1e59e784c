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

/* On a device the floats are there only as long as it takes. */
static int quantise_on_device(zoe_backend *be, zoe_tensor *form, const zoe_tensor *floats) {
    zoe_tensor there;
    ZOE_TRY(zoe_backend_alloc(be, &there, floats->dtype, 2, floats->shape));
    int status = zoe_upload(be, &there, floats->data);
    if (status == ZOE_OK) status = zoe_op_quantise(be, form, &there);
    zoe_backend_free(be, there.data);
    return status;
}

int zoe_quantise_floats(zoe_backend *be, zoe_tensor *form, const void *from, zoe_dtype dtype) {
    zoe_tensor floats = ZOE_TENSOR((void *)(uintptr_t)from, dtype, form->shape[0], form->shape[1]);
    void *copy = NULL;
    if (dtype == ZOE_F64 || (uintptr_t)from % zoe_dtype_size(dtype)) {
        floats.dtype = dtype == ZOE_F64 ? ZOE_F32 : dtype;
        size_t bytes = (size_t)zoe_tensor_bytes(&floats);
        copy = floats.data = zoe_alloc(be->ctx, bytes);
        if (!copy) return zoe_out_of_memory(be->ctx, bytes, "a matrix to quantise");
        zoe_convert_floats(copy, floats.dtype, from, dtype, zoe_tensor_count(&floats));
    }
    int status = be->ops->host_memory ? zoe_op_quantise(be, form, &floats) : quantise_on_device(be, form, &floats);
    zoe_free(be->ctx, copy);
    return status;
}
