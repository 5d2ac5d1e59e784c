#include "base/tensor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int bits;
} dtypes[ZOE_DTYPE_COUNT] = {
    [ZOE_F32] = {"F32", 32},        [ZOE_BF16] = {"BF16", 16},      [ZOE_F16] = {"F16", 16},  [ZOE_F64] = {"F64", 64},
    [ZOE_F8_E4M3] = {"F8_E4M3", 8}, [ZOE_F8_E5M2] = {"F8_E5M2", 8}, [ZOE_I8] = {"I8", 8},     [ZOE_I16] = {"I16", 16},
    [ZOE_I32] = {"I32", 32},        [ZOE_I64] = {"I64", 64},        [ZOE_U8] = {"U8", 8},     [ZOE_U16] = {"U16", 16},
    [ZOE_U32] = {"U32", 32},        [ZOE_U64] = {"U64", 64},        [ZOE_BOOL] = {"BOOL", 8}, [ZOE_I4] = {"I4", 4},
    [ZOE_F4_E2M1] = {"F4", 4},
};

int zoe_dtype_bits(zoe_dtype dtype) {
    return dtypes[dtype].bits;
}

size_t zoe_dtype_size(zoe_dtype dtype) {
    return (size_t)dtypes[dtype].bits / 8;
}

const char *zoe_dtype_name(zoe_dtype dtype) {
    return dtypes[dtype].name;
}

bool zoe_dtype_parse(const char *name, zoe_dtype *out) {
    for (int i = 0; i < ZOE_FILE_DTYPE_COUNT; i++)
        if (strcmp(name, dtypes[i].name) == 0) {
            *out = (zoe_dtype)i;
            return true;
        }
    return false;
}

zoe_tensor zoe_tensor_of(void *data, zoe_dtype dtype, int rank, const int64_t *shape) {
    zoe_tensor t = {.dtype = dtype, .rank = rank, .data = data};
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        t.shape[i] = shape[i];
        t.stride[i] = stride;
        stride *= shape[i];
    }
    return t;
}

int64_t zoe_tensor_count(const zoe_tensor *t) {
    int64_t count = 1;
    for (int i = 0; i < t->rank; i++) count *= t->shape[i];
    return count;
}

int64_t zoe_tensor_bytes(const zoe_tensor *t) {
    return (zoe_tensor_count(t) * zoe_dtype_bits(t->dtype) + 7) / 8;
}

bool zoe_tensor_dense(const zoe_tensor *t) {
    int64_t stride = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->stride[i] != stride) return false;
        stride *= t->shape[i];
    }
    return true;
}

bool zoe_tensor_same_shape(const zoe_tensor *a, const zoe_tensor *b) {
    return a->rank == b->rank && memcmp(a->shape, b->shape, (size_t)a->rank * sizeof a->shape[0]) == 0;
}

int64_t zoe_tensor_rows(const zoe_tensor *t) {
    int64_t rows = 1;
    for (int i = 0; i + 1 < t->rank; i++) rows *= t->shape[i];
    return rows;
}

zoe_tensor zoe_view_slice(const zoe_tensor *t, int axis, int64_t start, int64_t count) {
    zoe_tensor view = *t;
    view.shape[axis] = count;
    view.data = (char *)t->data + (size_t)(start * t->stride[axis]) * zoe_dtype_size(t->dtype);
    return view;
}

zoe_tensor zoe_view_permute(const zoe_tensor *t, const int *axes) {
    zoe_tensor view = *t;
    for (int i = 0; i < t->rank; i++) {
        view.shape[i] = t->shape[axes[i]];
        view.stride[i] = t->stride[axes[i]];
    }
    return view;
}

zoe_tensor zoe_view_split(const zoe_tensor *t, int axis, int64_t inner) {
    zoe_tensor view = *t;
    view.rank = t->rank + 1;
    for (int i = t->rank; i > axis + 1; i--) {
        view.shape[i] = t->shape[i - 1];
        view.stride[i] = t->stride[i - 1];
    }
    view.shape[axis] = t->shape[axis] / inner;
    view.stride[axis] = t->stride[axis] * inner;
    view.shape[axis + 1] = inner;
    view.stride[axis + 1] = t->stride[axis];
    return view;
}

zoe_tensor zoe_view_shape(const zoe_tensor *t, int rank, const int64_t *shape) {
    return zoe_tensor_of(t->data, t->dtype, rank, shape);
}

zoe_tensor zoe_view_heads(const zoe_tensor *t, int64_t heads) {
    zoe_tensor split = zoe_view_split(t, 1, t->shape[1] / heads);
    return zoe_view_permute(&split, (const int[]){1, 0, 2});
}

void zoe_shape_text(char *text, size_t size, int rank, const int64_t *shape) {
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "[", (long long)shape[i]);
    if (used < size) snprintf(text + used, size - used, rank ? "]" : "[]");
}

float zoe_bf16_to_f32(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t zoe_f32_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x)) return (uint16_t)(bits >> 16 | 0x40); /* keep it a NaN when the payload's low half is cut off */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float zoe_f16_to_f32(uint16_t x) {
    int exponent = x >> 10 & 31;
    float mantissa = (float)(x & 1023);
    float value;
    if (exponent == 0)
        value = ldexpf(mantissa, -24);
    else if (exponent == 31)
        value = mantissa != 0 ? NAN : INFINITY;
    else
        value = ldexpf(mantissa + 1024, exponent - 25);
    return x & 0x8000 ? -value : value;
}

uint16_t zoe_f32_to_f16(float x) {
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    float size = fabsf(x);
    if (isnan(x)) return sign | 0x7e00;
    if (size >= 65520) return sign | 0x7c00;
    if (size == 0) return sign; /* frexpf() calls its exponent 0 */
    int exponent;
    frexpf(size, &exponent);
    if (exponent < -13) exponent = -13; /* subnormal: the step stays 2^-24 */
    int step = exponent - 11;
    int steps = (int)nearbyintf(ldexpf(size, -step)); /* 0..2048; a carry runs over into the exponent by itself */
    return (uint16_t)(sign + ((exponent + 13) << 10) + steps);
}
