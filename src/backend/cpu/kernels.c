/* The kernels in plain C: what every processor can run and every other version is checked against. */
#include "backend/cpu/kernels.h"

#include <cpuid.h>
#include <float.h>
#include <math.h>
#include <string.h>

#define TILE_ROWS 4
#define TILE_COLS 8

static void tile(const zoe_cpu_left *a, int64_t first, const float *b, float *c, int64_t ldc, bool add) {
    float sum[TILE_ROWS][TILE_COLS] = {{0}};
    for (int64_t piece = 0; piece < a->count; piece++) {
        const float *from = a->data + first * a->stride + (a->offset ? a->offset[piece] : 0);
        for (int64_t i = 0; i < a->depth; i++, b += TILE_COLS)
            for (int row = 0; row < TILE_ROWS; row++) {
                float x = from[row * a->stride + i];
                for (int col = 0; col < TILE_COLS; col++) sum[row][col] += x * b[col];
            }
    }
    for (int row = 0; row < TILE_ROWS; row++)
        for (int col = 0; col < TILE_COLS; col++) c[row * ldc + col] = (add ? c[row * ldc + col] : 0) + sum[row][col];
}

static void pack(float *to, int64_t cols, const float *from, int64_t stride, int64_t rows, int64_t k) {
    for (int64_t i = 0; i < k; i++)
        for (int64_t row = 0; row < cols; row++) to[i * cols + row] = row < rows ? from[row * stride + i] : 0;
}

static void dot(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, const float *w, int64_t ldw, int64_t k) {
    for (int64_t row = 0; row < rows; row++)
        for (int out = 0; out < ZOE_DOT_ROWS; out++) {
            float sum = 0;
            for (int64_t i = 0; i < k; i++) sum += x[row * ldx + i] * w[out * ldw + i];
            y[row * ldy + out] += sum;
        }
}

/* ---- products of integers: words of four elements ---- */

void zoe_cpu_copy_i8(int32_t *to, const int8_t *from, int64_t n) {
    memcpy(to, from, (size_t)n);
}

void zoe_cpu_raise_i8(int32_t *to, const int8_t *from, int64_t n) {
    for (int64_t i = 0; i < n / 4; i++) {
        uint32_t word;
        memcpy(&word, from + 4 * i, sizeof word);
        word ^= 0x80808080;
        memcpy(to + i, &word, sizeof word);
    }
}

static void integer_tile(const int32_t *a, int64_t words, const int32_t *b, int32_t *c, int64_t ldc, bool add) {
    for (int row = 0; row < TILE_ROWS; row++)
        for (int col = 0; col < TILE_COLS; col++) {
            int32_t sum = add ? c[row * ldc + col] : 0;
            for (int64_t i = 0; i < words; i++) {
                int8_t x[4], y[4];
                memcpy(x, a + row * words + i, sizeof x);
                memcpy(y, b + i * TILE_COLS + col, sizeof y);
                for (int j = 0; j < 4; j++) sum += x[j] * y[j];
            }
            c[row * ldc + col] = sum;
        }
}

static void to_floats(float *y, const int32_t *x, int64_t n, int32_t less, float factor, const float *factors) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)(x[i] - less) * factor * factors[i];
}

/* ---- conversions ---- */

static void load_f32(float *y, const void *x, int64_t n) {
    memcpy(y, x, (size_t)n * sizeof *y);
}

static void load_bf16(float *y, const void *x, int64_t n) {
    const uint16_t *from = x;
    for (int64_t i = 0; i < n; i++) y[i] = zoe_bf16_to_f32(from[i]);
}

static void load_f16(float *y, const void *x, int64_t n) {
    const uint16_t *from = x;
    for (int64_t i = 0; i < n; i++) y[i] = zoe_f16_to_f32(from[i]);
}

static void load_f64(float *y, const void *x, int64_t n) {
    const double *from = x;
    for (int64_t i = 0; i < n; i++) y[i] = (float)from[i];
}

/* Four exponent bits, bias 7, no infinities; all ones is NaN. */
static float f8_e4m3(uint8_t x) {
    int exponent = x >> 3 & 15, mantissa = x & 7;
    float value = exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
    if ((x & 0x7f) == 0x7f) value = NAN;
    return x & 0x80 ? -value : value;
}

static void load_f8_e4m3(float *y, const void *x, int64_t n) {
    const uint8_t *from = x;
    for (int64_t i = 0; i < n; i++) y[i] = f8_e4m3(from[i]);
}

/* The upper byte of a half. */
static void load_f8_e5m2(float *y, const void *x, int64_t n) {
    const uint8_t *from = x;
    for (int64_t i = 0; i < n; i++) y[i] = zoe_f16_to_f32((uint16_t)(from[i] << 8));
}

static void load_i8(float *y, const int8_t *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i];
}

static int nibble(const uint8_t *x, int64_t i) {
    return i % 2 ? x[i / 2] >> 4 : x[i / 2] & 15;
}

static void load_i4(float *y, const uint8_t *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)((nibble(x, i) ^ 8) - 8);
}

static void load_f4(float *y, const uint8_t *x, int64_t n) {
    static const float values[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (int64_t i = 0; i < n; i++) y[i] = nibble(x, i) & 8 ? -values[nibble(x, i) & 7] : values[nibble(x, i) & 7];
}

static void scale_groups(float *y, const float *factors, int64_t n, int64_t group) {
    for (int64_t i = 0; i < n; i++) y[i] *= factors[i / group];
}

static void store_f32(void *y, const float *x, int64_t n) {
    memcpy(y, x, (size_t)n * sizeof *x);
}

static void store_bf16(void *y, const float *x, int64_t n) {
    uint16_t *to = y;
    for (int64_t i = 0; i < n; i++) to[i] = zoe_f32_to_bf16(x[i]);
}

static void store_f16(void *y, const float *x, int64_t n) {
    uint16_t *to = y;
    for (int64_t i = 0; i < n; i++) to[i] = zoe_f32_to_f16(x[i]);
}

static void store_f64(void *y, const float *x, int64_t n) {
    double *to = y;
    for (int64_t i = 0; i < n; i++) to[i] = x[i];
}

/* ---- quantisation ---- */

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The bits of magnitudes are in the order of the numbers, infinity and NaN at the end. */
static float largest(const float *x, int64_t n) {
    uint32_t most = 0;
    float result;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = bits_of(x[i]) & 0x7fffffff;
        if (bits > most) most = bits;
    }
    memcpy(&result, &most, sizeof result);
    return result;
}

static uint16_t largest_half(const uint16_t *x, int64_t n) {
    uint16_t most = 0;
    for (int64_t i = 0; i < n; i++)
        if ((x[i] & 0x7fff) > most) most = x[i] & 0x7fff;
    return most;
}

/* x / scale within -limit .. limit; a NaN counts as `limit`. */
static float limited(float x, float scale, float limit) {
    float value = scale ? x / scale : 0;
    return value < -limit ? -limit : value < limit ? value : limit;
}

/* To the nearest number with so many bits after the leading one, in steps no finer than those from `least` on. */
static float rounded(float x, int bits, float least) {
    int exponent;
    frexpf(fmaxf(fabsf(x), least), &exponent);
    float step = ldexpf(1, exponent - 1 - bits);
    return rintf(x / step) * step;
}

static void round_i8(float *y, const float *x, int64_t n, float scale) {
    for (int64_t i = 0; i < n; i++) y[i] = rintf(limited(x[i], scale, 127));
}

static void round_f8(float *y, const float *x, int64_t n, float scale) {
    for (int64_t i = 0; i < n; i++) y[i] = rounded(limited(x[i], scale, 448), 3, 0x1p-6f);
}

static void to_i8(int8_t *y, const float *x, int64_t n, float scale) {
    for (int64_t i = 0; i < n; i++) y[i] = (int8_t)rintf(limited(x[i], scale, 127));
}

static void to_f8(uint8_t *y, const float *x, int64_t n, float scale) {
    for (int64_t i = 0; i < n; i++) y[i] = zoe_e4m3_code(rounded(limited(x[i], scale, 448), 3, 0x1p-6f));
}

static void to_i4(uint8_t *y, uint16_t *scales, const float *x, int64_t n, int64_t group) {
    for (int64_t i = 0; i < n; i += 2) {
        if (i % group == 0) scales[i / group] = zoe_f32_to_f16(largest(x + i, group) / 7);
        float scale = zoe_f16_to_f32(scales[i / group]);
        int even = (int)rintf(limited(x[i], scale, 7)), odd = (int)rintf(limited(x[i + 1], scale, 7));
        y[i / 2] = (uint8_t)((even & 15) | (odd & 15) << 4);
    }
}

static float to_f4(uint8_t *y, uint8_t *scales, const float *x, int64_t n, float global) {
    const int64_t group = 16;
    float scale = 0;
    for (int64_t i = 0; i < n; i += 2) {
        if (i % group == 0) {
            float most = largest(x + i, group);
            to_f8(&scales[i / group], &most, 1, 6 * global);
            load_f8_e4m3(&scale, &scales[i / group], 1);
            scale *= global;
        }
        int even = zoe_e2m1_code(rounded(limited(x[i], scale, 6), 1, 1));
        y[i / 2] = (uint8_t)(even | zoe_e2m1_code(rounded(limited(x[i + 1], scale, 6), 1, 1)) << 4);
    }
    return largest(x, n);
}

/* ---- rows ---- */

static float apply(float x, zoe_act act) {
    switch (act) {
    case ZOE_ACT_SILU:
        return x / (1 + expf(-x));
    case ZOE_ACT_GELU_TANH:
        return 0.5f * x * (1 + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case ZOE_ACT_GELU_ERF:
        return 0.5f * x * (1 + erff(x * 0.7071067811865476f));
    default:
        return x;
    }
}

static void epilogue(float *y, int64_t ldy, const float *acc, int64_t ld, int64_t rows, int64_t n,
                     const zoe_cpu_epilogue *e) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < n; i++) {
            float value = apply(acc[row * ld + i] + (e->bias ? e->bias[i] : 0), e->act);
            if (e->gate) value *= e->gate[i];
            y[row * ldy + i] = e->residual ? e->residual[row * e->residual_stride + i] + value : value;
        }
}

static float mean(const float *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return (float)(sum / (double)n);
}

static float sum_squares(const float *x, int64_t n, float offset) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)x[i] - (double)offset;
        sum += d * d;
    }
    return (float)sum;
}

static void affine(float *y, const float *x, int64_t n, const zoe_cpu_affine *a) {
    for (int64_t i = 0; i < n; i++) {
        float value = (x[i] - a->mean) * a->factor;
        if (a->weight) value *= a->weight[i];
        if (a->bias) value += a->bias[i];
        if (a->scale) value *= 1 + a->scale[i];
        if (a->shift) value += a->shift[i];
        y[i] = apply(value, a->act);
    }
}

static void rotate(float *y, const float *x, const float *cos, const float *sin, int64_t pairs) {
    for (int64_t i = 0; i < pairs; i++) {
        float x0 = x[2 * i], x1 = x[2 * i + 1];
        y[2 * i] = x0 * cos[i] - x1 * sin[i];
        y[2 * i + 1] = x1 * cos[i] + x0 * sin[i];
    }
}

static float softmax(float *s, const float *bias, int64_t n, float *max, float *sum) {
    float top = *max;
    for (int64_t i = 0; i < n; i++) {
        if (bias) s[i] += bias[i];
        if (s[i] > top) top = s[i];
    }
    float correction = expf(*max - top), total = 0;
    for (int64_t i = 0; i < n; i++) {
        s[i] = expf(s[i] - top);
        total += s[i];
    }
    *max = top;
    *sum = *sum * correction + total;
    return correction;
}

static void scale(float *y, const float *x, int64_t n, float factor) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * factor;
}

static void activate(float *y, const float *x, const float *times, int64_t n, zoe_act act) {
    for (int64_t i = 0; i < n; i++) y[i] = apply(x[i], act) * (times ? times[i] : 1);
}

static void scale_shift(float *y, const float *x, const float *factor, const float *shift, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * (factor ? factor[i] : 1) + (shift ? shift[i] : 0);
}

static void lincomb(float *y, int count, const float *const *x, const float *coefficients, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int j = 0; j < count; j++) sum += coefficients[j] * x[j][i];
        y[i] = sum;
    }
}

static bool finite_row(const float *x, int64_t n) {
    bool all = true;
    for (int64_t i = 0; i < n; i++) all &= fabsf(x[i]) <= FLT_MAX;
    return all;
}

/* ---- levels ---- */

/* Clang's __builtin_cpu_supports() does not know this one. */
static bool has_f16c(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

/* Nor GCC 12 this one. */
static bool has_avx_vnni(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1 << 4);
}

uint32_t zoe_cpu_levels(void) {
    uint32_t levels = 0;
    bool widens = __builtin_cpu_supports("avx512f") || has_f16c(); /* asking takes long in a virtual machine */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && widens) levels |= ZOE_CPU_AVX2;
    if (levels && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        levels |= ZOE_CPU_AVX512;
    if (levels & ZOE_CPU_AVX512 ? __builtin_cpu_supports("avx512vnni") : levels && has_avx_vnni()) levels |= ZOE_CPU_VNNI;
    return levels;
}

void zoe_cpu_kernels_init(zoe_cpu_kernels *k, uint32_t levels) {
    *k = (zoe_cpu_kernels){
        .level = "c",
        .wide = {TILE_ROWS, TILE_COLS, tile},
        .narrow = {TILE_ROWS, TILE_COLS, tile},
        .pack = pack,
        .dot = dot,
        .load = {[ZOE_F32] = load_f32,
                 [ZOE_BF16] = load_bf16,
                 [ZOE_F16] = load_f16,
                 [ZOE_F64] = load_f64,
                 [ZOE_F8_E4M3] = load_f8_e4m3,
                 [ZOE_F8_E5M2] = load_f8_e5m2},
        .store = {[ZOE_F32] = store_f32, [ZOE_BF16] = store_bf16, [ZOE_F16] = store_f16, [ZOE_F64] = store_f64},
        .load_i8 = load_i8,
        .load_i4 = load_i4,
        .load_f4 = load_f4,
        .scale_groups = scale_groups,
        .largest = largest,
        .largest_half = largest_half,
        .to_i8 = to_i8,
        .to_f8 = to_f8,
        .to_i4 = to_i4,
        .to_f4 = to_f4,
        .round_i8 = round_i8,
        .round_f8 = round_f8,
        .integer = {TILE_ROWS, TILE_COLS, 4, 0, zoe_cpu_copy_i8, zoe_cpu_copy_i8, integer_tile},
        .to_floats = to_floats,
        .epilogue = epilogue,
        .mean = mean,
        .sum_squares = sum_squares,
        .affine = affine,
        .rotate = rotate,
        .softmax = softmax,
        .scale = scale,
        .activate = activate,
        .scale_shift = scale_shift,
        .lincomb = lincomb,
        .finite = finite_row,
    };
    if (!(levels & ZOE_CPU_AVX2)) return;
    zoe_cpu_kernels_init_avx2(k);
    if (levels & ZOE_CPU_AVX512) zoe_cpu_kernels_init_avx512(k);
    if (levels & ZOE_CPU_VNNI && levels & ZOE_CPU_AVX512 && __builtin_cpu_supports("avx512vnni"))
        zoe_cpu_kernels_init_vnni512(k);
    else if (levels & ZOE_CPU_VNNI && has_avx_vnni())
        zoe_cpu_kernels_init_vnni(k);
}
