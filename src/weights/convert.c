#include "weights/convert.h"

#include <math.h>
#include <string.h>

bool zoe_dtype_is_float(zoe_dtype dtype) {
    return dtype == ZOE_F32 || dtype == ZOE_BF16 || dtype == ZOE_F16 || dtype == ZOE_F64;
}

float zoe_float_at(const void *data, zoe_dtype dtype, int64_t i) {
    const char *p = (const char *)data + (size_t)i * zoe_dtype_size(dtype);
    uint16_t half;
    float single;
    double wide;
    switch (dtype) {
    case ZOE_BF16:
        memcpy(&half, p, 2);
        return zoe_bf16_to_f32(half);
    case ZOE_F16:
        memcpy(&half, p, 2);
        return zoe_f16_to_f32(half);
    case ZOE_F64:
        memcpy(&wide, p, 8);
        return (float)wide;
    default:
        memcpy(&single, p, 4);
        return single;
    }
}

static void store(void *data, zoe_dtype dtype, int64_t i, float value) {
    if (dtype == ZOE_F32)
        ((float *)data)[i] = value;
    else
        ((uint16_t *)data)[i] = dtype == ZOE_BF16 ? zoe_f32_to_bf16(value) : zoe_f32_to_f16(value);
}

void zoe_convert_floats(void *to, zoe_dtype to_type, const void *from, zoe_dtype from_type, int64_t count) {
    if (to_type == from_type) {
        memcpy(to, from, (size_t)count * zoe_dtype_size(to_type));
        return;
    }
#pragma omp parallel for schedule(static) if (count > 1 << 16)
    for (int64_t i = 0; i < count; i++) store(to, to_type, i, zoe_float_at(from, from_type, i));
}

void zoe_convert_conv(void *to, zoe_dtype to_type, const void *from, zoe_dtype from_type, int64_t out, int64_t in,
                      int64_t taps) {
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < out; o++)
        for (int64_t t = 0; t < taps; t++)
            for (int64_t i = 0; i < in; i++)
                store(to, to_type, (o * taps + t) * in + i, zoe_float_at(from, from_type, (o * in + i) * taps + t));
}

int64_t zoe_first_nonfinite(const void *data, zoe_dtype dtype, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(zoe_float_at(data, dtype, i))) return i;
    return -1;
}

/* SplitMix64 (Steele, Lea, Flood 2014): every index hashes to its number, so that threads need no order. */
static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void zoe_random_fill(void *to, zoe_dtype dtype, int64_t count, uint64_t seed, float centre, float spread) {
    zoe_random_fill_from(to, dtype, 0, count, seed, centre, spread);
}

void zoe_random_fill_from(void *to, zoe_dtype dtype, int64_t first, int64_t count, uint64_t seed, float centre,
                          float spread) {
    uint64_t start = mix(seed) + (uint64_t)first;
#pragma omp parallel for schedule(static) if (count > 1 << 16)
    for (int64_t i = 0; i < count; i++) {
        float unit = (float)(mix(start + (uint64_t)i) >> 40) * 0x1p-23f - 1.0f;
        store(to, dtype, i, centre + spread * unit);
    }
}
