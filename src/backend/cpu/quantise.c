/*
 * Floats into the quantised forms of backend/quantised.h and back. Every level, and every other backend, makes the same
 * bits: divisions and roundings to nearest even in float32, in the order written here.
 */
#include "backend/cpu/cpu.h"
#include "backend/quantised.h"

#include <math.h>
#include <string.h>

#define LARGEST_E4M3 448.0f
#define LARGEST_E2M1 6.0f
#define LARGEST_I4   7.0f
#define F4_GROUP     16
#define PIECE        1024 /* floats between a row and its quantised form; a multiple of every group */

_Static_assert(PIECE * 2 * sizeof(float) <= ZOE_CPU_SCRATCH, "a piece of a row and its codes fit in scratch");

float *zoe_cpu_f4_global(const zoe_tensor *t) {
    int64_t blocks = t->shape[0] * (t->shape[1] / F4_GROUP);
    return (float *)(void *)((char *)t->scales + zoe_round_up(blocks, 256));
}

/* Largest magnitude of a row of any float type; NaN or infinite where an element is. */
static float largest(const zoe_cpu_kernels *k, const char *row, zoe_dtype dtype, int64_t n, float *buffer) {
    float most = 0;
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t count = zoe_min(PIECE, n - i);
        k->load[dtype](buffer, row + (size_t)i * zoe_dtype_size(dtype), count);
        float here = k->largest(buffer, count);
        if (!(here <= most)) most = here;
    }
    return most;
}

/* ---- pieces of rows: x / scale as codes ---- */

static void put_nibbles(uint8_t *to, const uint8_t *codes, int64_t n) {
    for (int64_t i = 0; i < n; i += 2) to[i / 2] = (uint8_t)((codes[i] & 15) | codes[i + 1] << 4);
}

static void piece_i4(const zoe_cpu_kernels *k, uint8_t *to, uint16_t *scales, const float *x, int64_t n, int group,
                     int8_t *codes) {
    for (int64_t i = 0; i < n; i += group) {
        uint16_t scale = zoe_f32_to_f16(k->largest(x + i, group) / LARGEST_I4);
        scales[i / group] = scale;
        k->to_i8(codes + i, x + i, group, zoe_f16_to_f32(scale));
        for (int64_t j = i; j < i + group; j++) codes[j] = (int8_t)(codes[j] < -7 ? -7 : codes[j] > 7 ? 7 : codes[j]);
    }
    put_nibbles(to, (const uint8_t *)codes, n);
}

static void piece_f4(const zoe_cpu_kernels *k, uint8_t *to, uint8_t *scales, const float *x, int64_t n, float global,
                     uint8_t *codes) {
    for (int64_t i = 0; i < n; i += F4_GROUP) {
        float wanted = k->largest(x + i, F4_GROUP), scale;
        k->to_f8(&scales[i / F4_GROUP], &wanted, 1, LARGEST_E2M1 * global);
        k->load[ZOE_F8_E4M3](&scale, &scales[i / F4_GROUP], 1);
        k->to_f4(codes + i, x + i, F4_GROUP, scale * global);
    }
    put_nibbles(to, codes, n);
}

/* ---- matrices ---- */

static void quantise_row(const zoe_cpu_kernels *k, zoe_tensor *y, const zoe_tensor *x, int64_t row, float *buffer) {
    int64_t n = x->shape[1];
    const char *from = (const char *)x->data + (size_t)(row * n) * zoe_dtype_size(x->dtype);
    uint8_t *codes = (uint8_t *)(buffer + PIECE), *to = (uint8_t *)y->data + row * n * zoe_dtype_bits(y->dtype) / 8;
    int64_t groups = y->group ? n / y->group : 1;
    float scale = 0;
    if (!y->group) {
        scale = largest(k, from, x->dtype, n, buffer) / (y->dtype == ZOE_I8 ? 127 : LARGEST_E4M3);
        ((float *)y->scales)[row] = scale;
    } else if (y->dtype == ZOE_F4_E2M1) {
        scale = *zoe_cpu_f4_global(y);
    }
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t count = zoe_min(PIECE, n - i), group = y->group ? row * groups + i / y->group : 0;
        k->load[x->dtype](buffer, from + (size_t)i * zoe_dtype_size(x->dtype), count);
        if (y->dtype == ZOE_I8)
            k->to_i8((int8_t *)to + i, buffer, count, scale);
        else if (y->dtype == ZOE_F8_E4M3)
            k->to_f8(to + i, buffer, count, scale);
        else if (y->dtype == ZOE_I4)
            piece_i4(k, to + i / 2, (uint16_t *)y->scales + group, buffer, count, y->group, (int8_t *)codes);
        else
            piece_f4(k, to + i / 2, (uint8_t *)y->scales + group, buffer, count, scale, codes);
    }
}

/* The one scale of the whole matrix: its largest element stands at the ends of both ranges. */
static float global_scale(zoe_cpu *cpu, const zoe_tensor *x) {
    int64_t n = x->shape[1];
    uint32_t most = 0; /* the bits of magnitudes are in the order of the numbers */
    float value;
#pragma omp parallel for num_threads(zoe_cpu_team(cpu, (double)x->shape[0] * (double)n)) reduction(max : most)
    for (int64_t row = 0; row < x->shape[0]; row++) {
        const char *from = (const char *)x->data + (size_t)(row * n) * zoe_dtype_size(x->dtype);
        float here = largest(&cpu->kernels, from, x->dtype, n, zoe_cpu_scratch(cpu));
        uint32_t bits;
        memcpy(&bits, &here, sizeof bits);
        if (bits > most) most = bits;
    }
    memcpy(&value, &most, sizeof value);
    return value / (LARGEST_E4M3 * LARGEST_E2M1);
}

int zoe_cpu_quantise(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    ZOE_TRY(zoe_cpu_need_float(be, "quantise", x));
    if (y->dtype == ZOE_F4_E2M1) *zoe_cpu_f4_global(y) = global_scale(cpu, x);
#pragma omp parallel for num_threads(zoe_cpu_team(cpu, (double)zoe_tensor_count(x))) schedule(static)
    for (int64_t row = 0; row < x->shape[0]; row++) quantise_row(&cpu->kernels, y, x, row, zoe_cpu_scratch(cpu));
    return ZOE_OK;
}

/* ---- and back ---- */

static void scale_groups(const zoe_cpu_kernels *k, float *y, const zoe_tensor *w, int64_t row, int64_t from, int64_t n) {
    int64_t first = row * (w->shape[1] / w->group) + from / w->group;
    float scale, global = w->dtype == ZOE_F4_E2M1 ? *zoe_cpu_f4_global(w) : 1;
    for (int64_t i = 0; i < n; i += w->group, first++) {
        if (w->dtype == ZOE_I4)
            scale = zoe_f16_to_f32(((const uint16_t *)w->scales)[first]);
        else
            k->load[ZOE_F8_E4M3](&scale, (const uint8_t *)w->scales + first, 1);
        k->scale(y + i, y + i, zoe_min(w->group, n - i), scale * global);
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
