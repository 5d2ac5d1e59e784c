/*
 * The kernels that read the same at every vector width, written over `vf` and its functions of vector_*.h. Included once
 * by each processor level's file, after its vector header.
 *
 * Errors, measured over the floats: the exponential 1.01 units in the last place, the activations 1.3e-7 |x|.
 */
#include <float.h>
#include <math.h>

#include "backend/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

/* For functions with arrays that vectors go through: watching their use after return, GCC 12 misplaces them (PR 110027). */
#define UNWATCHED __attribute__((no_sanitize_address))

/* Runs `step` for i = 0, LANES, ... with `left` lanes to go: a constant in the loop, so that only the tail is masked. */
#define FOR_ROW(n, step)                                                                                                   \
    do {                                                                                                                   \
        int64_t i = 0;                                                                                                     \
        for (; i + LANES <= (n); i += LANES) {                                                                             \
            const int64_t left = LANES;                                                                                    \
            step;                                                                                                          \
        }                                                                                                                  \
        if (i < (n)) {                                                                                                     \
            const int64_t left = (n)-i;                                                                                    \
            step;                                                                                                          \
        }                                                                                                                  \
    } while (0)

/* ---- functions of one vector ---- */

/* e^x = 2^n e^r with |r| <= ln 2 / 2, e^r = 1 + r + r^2 p(r), p a minimax fit. Infinite above 88.73; zero where
 * the result would be subnormal, as products with such numbers take a hundred times as long. */
INLINE vf exp_v(vf x) {
    vf given = x;
    x = vf_min(vf_set(89), vf_max(vf_set(-88), x));
    vf n = vf_round(x * vf_set(1.44269504f));
    vf r = vf_fma(n, vf_set(-0x1.62e4p-1f), x); /* ln 2 in two parts; the first one times n is exact */
    r = vf_fma(n, vf_set(-0x1.7f7d1cp-20f), r);
    vf p = vf_fma(r, vf_set(0x1.6a1a6ep-10f), vf_set(0x1.123fc6p-7f));
    p = vf_fma(p, r, vf_set(0x1.555916p-5f));
    p = vf_fma(p, r, vf_set(0x1.55548ap-3f));
    p = vf_fma(p, r, vf_set(0x1.fffffcp-2f));
    p = vf_fma(p, r * r, r);
    return vf_less(given, vf_set(-87.3f), vf_set(0), vf_scale2(p + vf_set(1), n));
}

/* x / (1 + e^-u): SiLU with u = x, the tanh form of GELU with u = twice the argument of its tanh. */
INLINE vf gated(vf x, vf u) {
    return x / (vf_set(1) + exp_v(vf_set(0) - u));
}

INLINE vf gelu_tanh(vf x) {
    vf cubic = vf_fma(x * x, vf_set(0.044715f), vf_set(1));
    return gated(x, x * cubic * vf_set(1.5957691216057308f));
}

/* x/2 (1 + erf z), z = x / sqrt 2: erf's odd polynomial up to 1, from there erfc z = e^q(z). */
INLINE vf gelu_erf(vf x) {
    vf z = x * vf_set(0.70710678f), t = vf_abs(z), s = z * z;
    vf p = vf_fma(s, vf_set(7.853858e-05f), vf_set(-0.00080101925f));
    p = vf_fma(p, s, vf_set(0.0051883277f));
    p = vf_fma(p, s, vf_set(-0.026853811f));
    p = vf_fma(p, s, vf_set(0.112835854f));
    p = vf_fma(p, s, vf_set(-0.37612626f));
    p = vf_fma(p, s, vf_set(0.12837917f));
    vf near = vf_fma(p, z, z) + vf_set(1);
    vf q = vf_fma(t, vf_set(-1.7076107e-05f), vf_set(0.00038081864f));
    q = vf_fma(q, t, vf_set(-0.0038748637f));
    q = vf_fma(q, t, vf_set(0.024241058f));
    q = vf_fma(q, t, vf_set(-0.10676633f));
    q = vf_fma(q, t, vf_set(-0.6348661f));
    q = vf_fma(q, t, vf_set(-1.1286912f));
    q = vf_fma(q, t, vf_set(-1.1879109e-05f));
    vf tail = vf_less(t, vf_set(4.2f), exp_v(q), vf_set(0));
    vf far = vf_less(z, vf_set(0), tail, vf_set(2) - tail);
    return x * vf_set(0.5f) * vf_less(t, vf_set(1), near, far);
}

INLINE vf act_v(vf x, zoe_act act) {
    switch (act) {
    case ZOE_ACT_SILU:
        return gated(x, x);
    case ZOE_ACT_GELU_TANH:
        return gelu_tanh(x);
    case ZOE_ACT_GELU_ERF:
        return gelu_erf(x);
    default:
        return x;
    }
}

/* ---- rows ---- */

INLINE void epilogue_step(float *y, const float *acc, const float *residual, const zoe_cpu_epilogue *e, int64_t i,
                          int64_t left) {
    vf x = vf_get(acc + i, left);
    if (e->bias) x = x + vf_get(e->bias + i, left);
    x = act_v(x, e->act);
    if (e->gate) x = x * vf_get(e->gate + i, left);
    if (residual) x = x + vf_get(residual + i, left);
    vf_put(y + i, x, left);
}

static void epilogue_rows(float *y, int64_t ldy, const float *acc, int64_t ld, int64_t rows, int64_t n,
                          const zoe_cpu_epilogue *given) {
    zoe_cpu_epilogue e = *given;
    for (int64_t row = 0; row < rows; row++, y += ldy, acc += ld) {
        FOR_ROW(n, epilogue_step(y, acc, e.residual, &e, i, left));
        if (e.residual) e.residual += e.residual_stride;
    }
}

static float mean_row(const float *x, int64_t n) {
    vf sum[4] = {vf_set(0), vf_set(0), vf_set(0), vf_set(0)};
    int64_t whole = n / (4 * LANES) * (4 * LANES);
    for (int64_t i = 0; i < whole; i += 4 * LANES)
        for (int j = 0; j < 4; j++) sum[j] += vf_get(x + i + j * LANES, LANES);
    x += whole;
    FOR_ROW(n - whole, sum[0] += vf_get(x + i, left));
    return vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)n;
}

static float sum_squares_row(const float *x, int64_t n, float offset) {
    vf sum[4] = {vf_set(0), vf_set(0), vf_set(0), vf_set(0)}, off = vf_set(offset);
    int64_t whole = n / (4 * LANES) * (4 * LANES);
    for (int64_t i = 0; i < whole; i += 4 * LANES)
        for (int j = 0; j < 4; j++) {
            vf d = vf_get(x + i + j * LANES, LANES) - off;
            sum[j] = vf_fma(d, d, sum[j]);
        }
    x += whole;
    FOR_ROW(n - whole, vf d = vf_keep(vf_get(x + i, left), left, offset) - off; sum[0] = vf_fma(d, d, sum[0]));
    return vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

INLINE void affine_step(float *y, const float *x, const zoe_cpu_affine *a, int64_t i, int64_t left) {
    vf value = (vf_get(x + i, left) - vf_set(a->mean)) * vf_set(a->factor);
    if (a->weight) value = value * vf_get(a->weight + i, left);
    if (a->bias) value = value + vf_get(a->bias + i, left);
    if (a->scale) value = vf_fma(value, vf_get(a->scale + i, left), value);
    if (a->shift) value = value + vf_get(a->shift + i, left);
    vf_put(y + i, act_v(value, a->act), left);
}

static void affine_row(float *y, const float *x, int64_t n, const zoe_cpu_affine *given) {
    zoe_cpu_affine a = *given;
    FOR_ROW(n, affine_step(y, x, &a, i, left));
}

static void rotate_row(float *y, const float *x, const float *cos, const float *sin, int64_t pairs) {
    int64_t i = 0;
    for (; i + LANES / 2 <= pairs; i += LANES / 2)
        vf_put(y + 2 * i, vf_rotate(vf_get(x + 2 * i, LANES), vf_twice(cos + i), vf_twice(sin + i)), LANES);
    for (; i < pairs; i++) {
        float x0 = x[2 * i], x1 = x[2 * i + 1];
        y[2 * i] = x0 * cos[i] - x1 * sin[i];
        y[2 * i + 1] = x1 * cos[i] + x0 * sin[i];
    }
}

static float softmax_row(float *s, const float *bias, int64_t n, float *max, float *sum) {
    vf top[2] = {vf_set(*max), vf_set(*max)}, total = vf_set(0);
    if (bias) FOR_ROW(n, vf_put(s + i, vf_get(s + i, left) + vf_get(bias + i, left), left));
    int64_t whole = n / (2 * LANES) * (2 * LANES);
    for (int64_t i = 0; i < whole; i += 2 * LANES)
        for (int j = 0; j < 2; j++) top[j] = vf_max(vf_get(s + i + j * LANES, LANES), top[j]);
    const float *rest = s + whole;
    FOR_ROW(n - whole, top[0] = vf_max(vf_keep(vf_get(rest + i, left), left, -FLT_MAX), top[0]));
    float high = vf_top(vf_max(top[0], top[1]));
    FOR_ROW(n, vf e = exp_v(vf_get(s + i, left) - vf_set(high)); vf_put(s + i, e, left); total += vf_keep(e, left, 0));
    float correction = 1;
    if (high != *max) {
        float both[LANES];
        vf_put(both, exp_v(vf_set(*max - high)), LANES);
        correction = both[0];
    }
    *max = high;
    *sum = *sum * correction + vf_sum(total);
    return correction;
}

static void scale_row(float *y, const float *x, int64_t n, float factor) {
    vf f = vf_set(factor);
    FOR_ROW(n, vf_put(y + i, vf_get(x + i, left) * f, left));
}

static void activate_row(float *y, const float *x, const float *times, int64_t n, zoe_act act) {
    if (times)
        FOR_ROW(n, vf_put(y + i, act_v(vf_get(x + i, left), act) * vf_get(times + i, left), left));
    else
        FOR_ROW(n, vf_put(y + i, act_v(vf_get(x + i, left), act), left));
}

INLINE vf scale_shift_v(vf x, const float *factor, const float *shift, int64_t i, int64_t left) {
    if (factor) x = x * vf_get(factor + i, left);
    if (shift) x = x + vf_get(shift + i, left);
    return x;
}

static void scale_shift_row(float *y, const float *x, const float *factor, const float *shift, int64_t n) {
    FOR_ROW(n, vf_put(y + i, scale_shift_v(vf_get(x + i, left), factor, shift, i, left), left));
}

INLINE vf lincomb_v(int count, const float *const *x, const float *coefficients, int64_t i, int64_t left) {
    vf sum = vf_set(coefficients[0]) * vf_get(x[0] + i, left);
    for (int j = 1; j < count; j++) sum = vf_fma(vf_set(coefficients[j]), vf_get(x[j] + i, left), sum);
    return sum;
}

static void lincomb_row(float *y, int count, const float *const *x, const float *coefficients, int64_t n) {
    FOR_ROW(n, vf_put(y + i, lincomb_v(count, x, coefficients, i, left), left));
}

/* Zero times what is not finite is NaN. */
static bool finite_row_v(const float *x, int64_t n) {
    vf sum = vf_set(0);
    FOR_ROW(n, sum = vf_fma(vf_get(x + i, left), vf_set(0), sum));
    return vf_sum(sum) == 0;
}

/* ---- conversions: a tail goes through a buffer of one vector ---- */

#define LOADER(name, convert)                                                                                              \
    static void name(float *y, const void *x, int64_t n) {                                                                 \
        const uint16_t *from = x;                                                                                          \
        int64_t i = 0;                                                                                                     \
        for (; i + LANES <= n; i += LANES) vf_put(y + i, convert(from + i), LANES);                                        \
        uint16_t tail[LANES] = {0};                                                                                        \
        if (i == n) return;                                                                                                \
        memcpy(tail, from + i, (size_t)(n - i) * sizeof *tail);                                                            \
        vf_put(y + i, convert(tail), n - i);                                                                               \
    }

#define STORER(name, convert)                                                                                              \
    static void name(void *y, const float *x, int64_t n) {                                                                 \
        uint16_t *to = y;                                                                                                  \
        int64_t i = 0;                                                                                                     \
        for (; i + LANES <= n; i += LANES) convert(to + i, vf_get(x + i, LANES));                                          \
        uint16_t tail[LANES];                                                                                              \
        if (i == n) return;                                                                                                \
        convert(tail, vf_get(x + i, n - i));                                                                               \
        memcpy(to + i, tail, (size_t)(n - i) * sizeof *tail);                                                              \
    }

LOADER(load_bf16_row, vf_from_bf16)
LOADER(load_f16_row, vf_from_f16)
STORER(store_bf16_row, vf_to_bf16)
STORER(store_f16_row, vf_to_f16)

/* ---- packing: eight by eight ---- */

/* Eight floats of row `row` and of row `row + 4`, low halves or high halves (`at` 0 or 4), in one register. */
INLINE __m256 two_rows(const float *from, int64_t stride, int row, int at) {
    __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(from + row * stride + at));
    return _mm256_insertf128_ps(low, _mm_loadu_ps(from + (row + 4) * stride + at), 1);
}

INLINE void transpose8(float *to, int64_t cols, const float *from, int64_t stride) {
    for (int at = 0; at < 8; at += 4, to += 4 * cols) {
        __m256 a = two_rows(from, stride, 0, at), b = two_rows(from, stride, 1, at);
        __m256 c = two_rows(from, stride, 2, at), d = two_rows(from, stride, 3, at);
        __m256 ab0 = _mm256_unpacklo_ps(a, b), ab1 = _mm256_unpackhi_ps(a, b);
        __m256 cd0 = _mm256_unpacklo_ps(c, d), cd1 = _mm256_unpackhi_ps(c, d);
        _mm256_storeu_ps(to, _mm256_shuffle_ps(ab0, cd0, 0x44));
        _mm256_storeu_ps(to + cols, _mm256_shuffle_ps(ab0, cd0, 0xee));
        _mm256_storeu_ps(to + 2 * cols, _mm256_shuffle_ps(ab1, cd1, 0x44));
        _mm256_storeu_ps(to + 3 * cols, _mm256_shuffle_ps(ab1, cd1, 0xee));
    }
}

/* The next eight rows are asked for in time: each is too short for the processor to notice. */
static void pack_panel(float *to, int64_t cols, const float *from, int64_t stride, int64_t rows, int64_t k) {
    int64_t whole_rows = rows & ~(int64_t)7, whole_k = k & ~(int64_t)7;
    for (int64_t row = 0; row < whole_rows; row += 8)
        for (int64_t i = 0; i < whole_k; i += 8) {
            for (int64_t next = i & 8 ? 12 : 8; next < (i & 8 ? 16 : 12); next++)
                __builtin_prefetch(from + (row + next) * stride + i);
            transpose8(to + i * cols + row, cols, from + row * stride + i, stride);
        }
    for (int64_t i = whole_k; i < k; i++)
        for (int64_t row = 0; row < whole_rows; row++) to[i * cols + row] = from[row * stride + i];
    for (int64_t row = whole_rows; row < cols; row++)
        for (int64_t i = 0; i < k; i++) to[i * cols + row] = row < rows ? from[row * stride + i] : 0;
}

/* ---- products of a few rows ---- */

INLINE void dot_rows(int rows, float *y, int64_t ldy, const float *x, int64_t ldx, const float *w, int64_t ldw, int64_t k) {
    vf sum[DOT_GROUP][ZOE_DOT_ROWS];
    for (int row = 0; row < rows; row++)
        for (int out = 0; out < ZOE_DOT_ROWS; out++) sum[row][out] = vf_set(0);
    FOR_ROW(
        k, vf b[ZOE_DOT_ROWS]; for (int out = 0; out < ZOE_DOT_ROWS; out++) b[out] = vf_get(w + out * ldw + i, left);
        for (int row = 0; row < rows; row++) {
            vf a = vf_get(x + row * ldx + i, left);
            for (int out = 0; out < ZOE_DOT_ROWS; out++) sum[row][out] = vf_fma(a, b[out], sum[row][out]);
        });
    for (int row = 0; row < rows; row++) {
        float *to = y + row * ldy;
        __m128 sums = vf_sum4(sum[row][0], sum[row][1], sum[row][2], sum[row][3]);
        _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), sums));
    }
}

static void dot_panel(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, const float *w, int64_t ldw,
                      int64_t k) {
    int64_t row = 0;
    for (; row + DOT_GROUP <= rows; row += DOT_GROUP)
        dot_rows(DOT_GROUP, y + row * ldy, ldy, x + row * ldx, ldx, w, ldw, k);
    for (; row < rows; row++) dot_rows(1, y + row * ldy, ldy, x + row * ldx, ldx, w, ldw, k);
}

/* ---- the register tile ---- */

/*
 * Rows are reached from a pointer to every third of them, plus once or twice the row stride: a form that the processor's
 * addresses have, so that few general registers are needed. `rows` and `vectors` are constants where this is inlined.
 */
INLINE void tile_body(int rows, int vectors, const zoe_cpu_left *a, int64_t first, const float *b, float *c, int64_t ldc,
                      bool add) {
    vf sum[TILE_MAX_ROWS][2];
    int64_t stride = a->stride, depth = a->depth;
    for (int row = 0; row < rows; row++)
        for (int j = 0; j < vectors; j++) sum[row][j] = vf_set(0);
    for (int64_t piece = 0; piece < a->count; piece++) {
        const float *from = a->data + first * stride + (a->offset ? a->offset[piece] : 0), *third[(TILE_MAX_ROWS + 2) / 3];
        for (int i = 0; i < (rows + 2) / 3; i++) third[i] = from + 3 * i * stride;
        for (int64_t i = 0; i < depth; i++, b += vectors * LANES) {
            vf right[2];
            for (int j = 0; j < vectors; j++) right[j] = vf_get(b + j * LANES, LANES);
            for (int row = 0; row < rows; row++) {
                vf left = vf_set(third[row / 3][i + row % 3 * stride]);
                for (int j = 0; j < vectors; j++) sum[row][j] = vf_fma(left, right[j], sum[row][j]);
            }
        }
    }
    for (int row = 0; row < rows; row++)
        for (int j = 0; j < vectors; j++) {
            float *to = c + row * ldc + j * LANES;
            if (add) sum[row][j] += vf_get(to, LANES);
            vf_put(to, sum[row][j], LANES);
        }
}

static void tile_wide(const zoe_cpu_left *a, int64_t row, const float *b, float *c, int64_t ldc, bool add) {
    tile_body(TILE_WIDE_ROWS, 2, a, row, b, c, ldc, add);
}

static void tile_narrow(const zoe_cpu_left *a, int64_t row, const float *b, float *c, int64_t ldc, bool add) {
    tile_body(TILE_NARROW_ROWS, 1, a, row, b, c, ldc, add);
}

static void fill_table(zoe_cpu_kernels *k) {
    k->wide = (zoe_cpu_tile){TILE_WIDE_ROWS, 2 * LANES, tile_wide};
    k->narrow = (zoe_cpu_tile){TILE_NARROW_ROWS, LANES, tile_narrow};
    k->pack = pack_panel;
    k->dot = dot_panel;
    k->load[ZOE_BF16] = load_bf16_row;
    k->load[ZOE_F16] = load_f16_row;
    k->store[ZOE_BF16] = store_bf16_row;
    k->store[ZOE_F16] = store_f16_row;
    k->epilogue = epilogue_rows;
    k->mean = mean_row;
    k->sum_squares = sum_squares_row;
    k->affine = affine_row;
    k->rotate = rotate_row;
    k->softmax = softmax_row;
    k->scale = scale_row;
    k->activate = activate_row;
    k->scale_shift = scale_shift_row;
    k->lincomb = lincomb_row;
    k->finite = finite_row_v;
}
