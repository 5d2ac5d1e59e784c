/*
 * Floats into the quantised forms of backend/quantised.h and back. Every level, and every other backend, makes the same
 * bits: divisions and roundings to nearest even in float32, in the order written here.
 */
#include "backend/cpu/cpu.h"
#include "backend/quantised.h"

#include <math.h>
#include <string.h>

#define LARGEST_E4M3 448.0f
#define F4_GROUP     16
#define PIECE        ZOE_CPU_PIECE

/* A piece of floats of any type, wherever they stand, where they are aligned. */
static const void *aligned(const char *from, zoe_dtype dtype, int64_t n, double copy[PIECE]) {
    size_t size = zoe_dtype_size(dtype);
    return (uintptr_t)from % size ? memcpy(copy, from, (size_t)n * size) : from;
}

/* ---- matrices ---- */

typedef struct quantiser {
    const zoe_cpu_kernels *kernels;
    zoe_tensor *y;
    const char *floats; /* of row `first` */
    zoe_dtype dtype;
    int64_t first;
} quantiser;

static float largest_piece(const zoe_cpu_kernels *k, const void *floats, zoe_dtype dtype, int64_t n) {
    float piece[PIECE], most;
    if (dtype == ZOE_BF16 || dtype == ZOE_F16) {
        uint16_t half = k->largest_half(floats, n);
        k->load[dtype](&most, &half, 1);
        return most;
    }
    k->load[dtype](piece, floats, n);
    return k->largest(piece, n);
}

static float largest(const zoe_cpu_kernels *k, const char *floats, zoe_dtype dtype, int64_t count) {
    float most = 0;
    double copy[PIECE];
    for (int64_t i = 0; i < count; i += PIECE) {
        int64_t n = zoe_min(PIECE, count - i);
        float here = largest_piece(k, aligned(floats + (size_t)i * zoe_dtype_size(dtype), dtype, n, copy), dtype, n);
        if (isnan(here)) return here;
        if (here > most) most = here;
    }
    return most;
}

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* A row of bf16 at once where this level can; else false. */
static bool quantise_bf16(const quantiser *q, uint8_t *to, int64_t group, const uint16_t *from, float scale, float *most) {
    const zoe_cpu_kernels *k = q->kernels;
    const zoe_tensor *y = q->y;
    int64_t width = y->shape[1];
    if ((uintptr_t)from % sizeof *from) return false;
    if (y->dtype == ZOE_F8_E4M3 && k->to_f8_bf16)
        k->to_f8_bf16(to, from, width, scale);
    else if (y->dtype == ZOE_I4 && k->to_i4_bf16)
        k->to_i4_bf16(to, (uint16_t *)y->scales + group, from, width, y->group);
    else if (y->dtype == ZOE_F4_E2M1 && k->to_f4_bf16)
        *most = k->to_f4_bf16(to, (uint8_t *)y->scales + group, from, width, scale);
    else
        return false;
    return true;
}

/* Returns, for nvfp4, the bits of the largest magnitude. */
static uint32_t quantise_row(const quantiser *q, int64_t row) {
    const zoe_cpu_kernels *k = q->kernels;
    zoe_tensor *y = q->y;
    int64_t width = y->shape[1], first = y->group ? row * (width / y->group) : 0;
    size_t size = zoe_dtype_size(q->dtype);
    const char *from = q->floats + (size_t)((row - q->first) * width) * size;
    uint8_t *to = (uint8_t *)y->data + row * width * zoe_dtype_bits(y->dtype) / 8;
    float piece[PIECE], scale = y->dtype == ZOE_F4_E2M1 ? *zoe_quantised_global(y) : 0, most = 0;
    double copy[PIECE];
    if (!y->group) {
        scale = largest(k, from, q->dtype, width) / (y->dtype == ZOE_I8 ? 127 : LARGEST_E4M3);
        ((float *)y->scales)[row] = scale;
    }
    if (q->dtype == ZOE_BF16 && quantise_bf16(q, to, first, (const void *)from, scale, &most)) return bits_of(most);
    uint32_t bits = 0;
    for (int64_t i = 0; i < width; i += PIECE) {
        int64_t n = zoe_min(PIECE, width - i), group = y->group ? first + i / y->group : 0;
        k->load[q->dtype](piece, aligned(from + (size_t)i * size, q->dtype, n, copy), n);
        if (y->dtype == ZOE_I8)
            k->to_i8((int8_t *)to + i, piece, n, scale);
        else if (y->dtype == ZOE_F8_E4M3)
            k->to_f8(to + i, piece, n, scale);
        else if (y->dtype == ZOE_I4)
            k->to_i4(to + i / 2, (uint16_t *)y->scales + group, piece, n, y->group);
        else
            bits = larger(bits, bits_of(k->to_f4(to + i / 2, (uint8_t *)y->scales + group, piece, n, scale)));
    }
    return bits;
}

bool zoe_load_finite(float *to, const void *floats, zoe_dtype dtype, int64_t count) {
    zoe_cpu_kernels k;
    double copy[PIECE];
    zoe_cpu_kernels_init(&k, zoe_cpu_levels());
    for (int64_t i = 0; i < count; i += PIECE) {
        int64_t n = zoe_min(PIECE, count - i);
        k.load[dtype](to + i, aligned((const char *)floats + (size_t)i * zoe_dtype_size(dtype), dtype, n, copy), n);
    }
    return k.finite(to, count);
}

uint32_t zoe_quantise_rows(zoe_tensor *y, const void *floats, zoe_dtype dtype, int64_t first, int64_t rows) {
    zoe_cpu_kernels k;
    zoe_cpu_kernels_init(&k, zoe_cpu_levels());
    const quantiser q = {.kernels = &k, .y = y, .floats = floats, .dtype = dtype, .first = first};
    uint32_t most = 0;
    for (int64_t row = first; row < first + rows; row++) most = larger(most, quantise_row(&q, row));
    return most;
}

int zoe_cpu_quantise(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    const quantiser q = {.kernels = &cpu->kernels, .y = y, .floats = x->data, .dtype = x->dtype};
    uint32_t most = 0;
    ZOE_TRY(zoe_cpu_need_float(be, "quantise", x));
    zoe_quantised_begin(y);
    do {
#pragma omp parallel for num_threads(zoe_cpu_team(cpu, (double)zoe_tensor_count(x))) schedule(static) reduction(max : most)
        for (int64_t row = 0; row < x->shape[0]; row++) most = larger(most, quantise_row(&q, row));
    } while (zoe_quantised_again(y, most));
    return ZOE_OK;
}

/* ---- and back ---- */

/* The scales of groups first .. first + n of a matrix. */
static void load_scales(const zoe_cpu_kernels *k, float *to, const zoe_tensor *w, int64_t first, int64_t n) {
    if (w->dtype == ZOE_I4) {
        k->load[ZOE_F16](to, (const uint16_t *)w->scales + first, n);
    } else {
        k->load[ZOE_F8_E4M3](to, (const uint8_t *)w->scales + first, n);
        k->scale(to, to, n, *zoe_quantised_global(w));
    }
}

static void scale_groups(const zoe_cpu_kernels *k, float *y, const zoe_tensor *w, int64_t row, int64_t from, int64_t n) {
    float scales[PIECE / F4_GROUP];
    int64_t first = row * (w->shape[1] / w->group) + from / w->group;
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t count = zoe_min(PIECE, n - at);
        load_scales(k, scales, w, first + at / w->group, (count + w->group - 1) / w->group);
        k->scale_groups(y + at, scales, count, w->group);
    }
}

void zoe_cpu_unpack(const zoe_cpu_kernels *k, float *y, const zoe_tensor *w, int64_t row, int64_t from, int64_t n) {
    const char *codes = (const char *)w->data + (row * w->shape[1] + from) * zoe_dtype_bits(w->dtype) / 8;
    if (w->dtype == ZOE_I8)
        k->load_i8(y, (const int8_t *)codes, n);
    else if (w->dtype == ZOE_I4)
        k->load_i4(y, (const uint8_t *)codes, n);
    else if (w->dtype == ZOE_F4_E2M1)
        k->load_f4(y, (const uint8_t *)codes, n);
    else
        k->load[w->dtype](y, codes, n);
    if (w->group) scale_groups(k, y, w, row, from, n);
}

void zoe_dequantise_rows(const zoe_tensor *y, float *floats, int64_t first, int64_t rows) {
    zoe_cpu_kernels k;
    int64_t width = y->shape[1];
    zoe_cpu_kernels_init(&k, zoe_cpu_levels());
    for (int64_t row = first; row < first + rows; row++, floats += width) {
        zoe_cpu_unpack(&k, floats, y, row, 0, width);
        if (!y->group) k.scale(floats, floats, width, ((const float *)y->scales)[row]);
    }
}
