#include "backend/quantised.h"

#include <math.h>
#include <string.h>

#define ALIGNMENT    256
#define USUAL_GLOBAL 0x1p-9f

static int64_t aligned(int64_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

int zoe_quantised_group(zoe_dtype dtype, int group) {
    if (dtype == ZOE_I4) return group ? group : 32;
    return dtype == ZOE_F4_E2M1 ? 16 : 0;
}

static int64_t data_bytes(zoe_dtype dtype, int64_t out, int64_t in) {
    return aligned((out * in * zoe_dtype_bits(dtype) + 7) / 8);
}

int64_t zoe_quantised_bytes(zoe_dtype dtype, int64_t out, int64_t in, int group) {
    int64_t data = data_bytes(dtype, out, in);
    group = zoe_quantised_group(dtype, group);
    if (dtype == ZOE_I4) return data + out * (in / group) * 2;
    if (dtype == ZOE_F4_E2M1) return data + aligned(out * (in / group)) + 4;
    return data + out * 4;
}

zoe_tensor zoe_quantised_of(void *memory, zoe_dtype dtype, int64_t out, int64_t in, int group) {
    zoe_tensor t = ZOE_TENSOR(memory, dtype, out, in);
    t.scales = memory ? (char *)memory + data_bytes(dtype, out, in) : NULL;
    t.group = zoe_quantised_group(dtype, group);
    return t;
}

float *zoe_quantised_global(const zoe_tensor *t) {
    return (float *)(void *)((char *)t->scales + aligned(t->shape[0] * (t->shape[1] / t->group)));
}

static float global_for(float largest) {
    int exponent;
    float mantissa = frexpf(largest, &exponent); /* 1/2 .. 1 */
    if (largest == 0 || (largest >= 0x1p-7f && largest <= 448 * 6 * USUAL_GLOBAL)) return USUAL_GLOBAL;
    return isfinite(largest) ? ldexpf(1, exponent - 12 + (mantissa > 448 * 6 / 0x1p12f)) : largest;
}

void zoe_quantised_begin(const zoe_tensor *y) {
    if (y->dtype == ZOE_F4_E2M1) *zoe_quantised_global(y) = USUAL_GLOBAL;
}

bool zoe_quantised_again(const zoe_tensor *y, uint32_t largest) {
    float number;
    if (y->dtype != ZOE_F4_E2M1) return false;
    memcpy(&number, &largest, sizeof number);
    float global = global_for(number), *found = zoe_quantised_global(y);
    if (memcmp(&global, found, sizeof global) == 0) return false;
    *found = global;
    return true;
}
