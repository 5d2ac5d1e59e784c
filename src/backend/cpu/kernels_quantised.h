/*
 * The kernels of quantised numbers that read the same at every vector width; after kernels_vector.h in the files of the
 * processor levels.
 */
#define PIECE 64

static float largest_row(const float *x, int64_t n) {
    vf most = vf_set(0);
    FOR_ROW(n, most = vf_max_bits(most, vf_abs(vf_get(x + i, left))));
    return vf_top_bits(most);
}

static uint16_t largest_half_row(const uint16_t *x, int64_t n) {
    uint16_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint16_t here = x[i] & 0x7fff;
        most = here > most ? here : most;
    }
    return most;
}

/* ---- numbers by a scale ---- */

/* A scale, and its inverse where that can stand in for dividing. */
typedef struct divisor {
    float scale, inverse;
    bool inverts;
} divisor;

INLINE divisor divisor_of(float scale) {
    bool inverts = scale >= 0x1p-100f && scale <= 0x1p100f;
    return (divisor){scale, inverts ? 1 / scale : 0, inverts};
}

/*
 * x / scale. The quotient's remainder, times the inverse, leaves the quotient that division gives (Markstein 1990), in a
 * quarter of its time; the last bit may differ where division itself has to round what lies within 2^-22 of the middle of
 * two floats, of which a code takes notice once in some 2^40 numbers.
 */
INLINE vf quotient_v(vf x, divisor d) {
    vf scale = vf_set(d.scale), inverse = vf_set(d.inverse), value = x * inverse;
    return vf_fma(vf_fnma(value, scale, x), inverse, value);
}

/* x / scale where no magnitude is above limit * scale but for rounding; else within -limit .. limit, a NaN as `limit`. */
INLINE vf limited_v(vf x, divisor d, float limit) {
    if (d.inverts) return quotient_v(x, d);
    return vf_max(vf_set(-limit), vf_min(x / vf_set(d.scale), vf_set(limit)));
}

/* To the nearest number with so many bits after the leading one, in steps no finer than those from `least` on. */
INLINE vf rounded_v(vf x, int bits, float least) {
    vf large = vf_max(vf_power(x), vf_set(least)) * vf_set((float)(1 << (23 - bits)));
    return vf_signed((vf_abs(x) + large) - large, x);
}

static void zero_row(float *y, int64_t n) {
    memset(y, 0, (size_t)n * sizeof *y);
}

static void round_i8_row(float *y, const float *x, int64_t n, float scale) {
    divisor d = divisor_of(scale);
    if (scale == 0)
        zero_row(y, n);
    else
        FOR_ROW(n, vf_put(y + i, vf_round(limited_v(vf_get(x + i, left), d, 127)), left));
}

static void round_f8_row(float *y, const float *x, int64_t n, float scale) {
    divisor d = divisor_of(scale);
    if (scale == 0)
        zero_row(y, n);
    else
        FOR_ROW(n, vf_put(y + i, rounded_v(limited_v(vf_get(x + i, left), d, 448), 3, 0x1p-6f), left));
}

static void to_i8_row(int8_t *y, const float *x, int64_t n, float scale) {
    divisor d = divisor_of(scale);
    uint8_t *to = (uint8_t *)y;
    if (scale == 0)
        memset(y, 0, (size_t)n);
    else
        FOR_ROW(n, vf_put_bytes(to + i, vf_integers(limited_v(vf_get(x + i, left), d, 127)), left));
}

INLINE vf_codes e4m3_v(vf x, divisor d) {
    vf value = limited_v(x, d, 448);
    return vf_small_floats(vf_abs(value), d.inverts ? x : value, 3, -6, 0x80);
}

static void to_f8_row(uint8_t *y, const float *x, int64_t n, float scale) {
    divisor d = divisor_of(scale);
    if (scale == 0)
        memset(y, 0, (size_t)n);
    else
        FOR_ROW(n, vf_put_bytes(y + i, e4m3_v(vf_get(x + i, left), d), left));
}

/* ---- groups, under a scale each, of a piece of a row ---- */

#define GROUPS (ZOE_CPU_PIECE / 16)

static void largest_of_groups(float *most, const float *x, int64_t n, int64_t group) {
    for (int64_t at = 0; at < n; at += group) {
        vf here = vf_set(0);
        for (int64_t i = at; i < at + group; i += LANES) here = vf_max_bits(here, vf_abs(vf_get(x + i, LANES)));
        *most++ = vf_top_bits(here);
    }
}

/*
 * Codes of groups by their scales. Those that f16 or e4m3 rounded down may leave numbers a little above the limit.
 */
INLINE void code_groups(uint8_t *y, const float *x, const float *scales, int64_t count, int64_t group,
                        vf_codes (*code)(vf x, divisor d)) {
    float inverses[GROUPS];
    FOR_ROW(count, vf_put(inverses + i, vf_set(1) / vf_get(scales + i, left), left));
    for (int64_t g = 0; g < count; g++, x += group, y += group / 2) {
        divisor d = {scales[g], inverses[g], scales[g] >= 0x1p-100f && scales[g] <= 0x1p100f};
        if (scales[g] == 0)
            memset(y, 0, (size_t)group / 2);
        else
            for (int64_t i = 0; i < group; i += LANES) vf_put_nibbles(y + i / 2, code(vf_get(x + i, LANES), d));
    }
}

INLINE vf_codes i4_v(vf x, divisor d) {
    return vf_integers(vf_max(vf_set(-7), vf_min(limited_v(x, d, 7), vf_set(7))));
}

UNWATCHED static void to_i4_groups(uint8_t *y, uint16_t *scales, const float *x, int64_t n, int64_t group) {
    float factors[GROUPS] = {0};
    int64_t count = n / group;
    largest_of_groups(factors, x, n, group);
    FOR_ROW(count, vf_put(factors + i, vf_get(factors + i, left) / vf_set(7), left));
    store_f16_row(scales, factors, count);
    load_f16_row(factors, scales, count);
    code_groups(y, x, factors, count, group, i4_v);
}

INLINE vf_codes e2m1_v(vf x, divisor d) {
    vf value = limited_v(x, d, 6);
    return vf_small_floats(vf_min(vf_abs(value), vf_set(6)), d.inverts ? x : value, 1, 0, 8);
}

static void load_f8_row(float *y, const void *x, int64_t n);

UNWATCHED static float to_f4_groups(uint8_t *y, uint8_t *scales, const float *x, int64_t n, float global) {
    float factors[GROUPS] = {0};
    const int64_t group = 16, count = n / group;
    largest_of_groups(factors, x, n, group);
    float most = largest_row(factors, count);
    to_f8_row(scales, factors, count, 6 * global);
    load_f8_row(factors, scales, count);
    scale_row(factors, factors, count, global);
    code_groups(y, x, factors, count, group, e2m1_v);
    return most;
}

#undef GROUPS

/* ---- codes as floats ---- */

static void load_i8_row(float *y, const int8_t *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i];
}

/* As halves the codes have the same mantissa and exponents that are smaller by eight. */
static void load_f8_row(float *y, const void *x, int64_t n) {
    const uint8_t *from = x;
    uint16_t halves[PIECE];
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t count = n - at < PIECE ? n - at : PIECE;
        for (int64_t i = 0; i < count; i++) {
            uint32_t code = from[at + i], size = code & 0x7f;
            halves[i] = (uint16_t)((code & 0x80) << 8 | (size == 0x7f ? 0x7e00 : size << 7));
        }
        load_f16_row(y + at, halves, count);
        scale_row(y + at, y + at, count, 256);
    }
}

/* Sixteen codes of four bits out of eight bytes, through a table of bytes. */
INLINE __m128i nibbles(const uint8_t *x, __m128i values) {
    __m128i both = _mm_loadl_epi64((const __m128i *)(const void *)x), mask = _mm_set1_epi8(15);
    __m128i low = _mm_and_si128(both, mask), high = _mm_and_si128(_mm_srli_epi16(both, 4), mask);
    return _mm_shuffle_epi8(values, _mm_unpacklo_epi8(low, high));
}

INLINE void put_bytes(float *y, __m128i bytes, float times) {
    __m256 factor = _mm256_set1_ps(times);
    _mm256_storeu_ps(y, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)) * factor);
    _mm256_storeu_ps(y + 8, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))) * factor);
}

INLINE void load_nibbles(float *y, const uint8_t *x, int64_t n, __m128i values, float times) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) put_bytes(y + i, nibbles(x + i / 2, values), times);
    if (i == n) return;
    uint8_t tail[8] = {0};
    float all[16];
    memcpy(tail, x + i / 2, (size_t)(n - i + 1) / 2);
    put_bytes(all, nibbles(tail, values), times);
    memcpy(y + i, all, (size_t)(n - i) * sizeof *y);
}

static void load_i4_row(float *y, const uint8_t *x, int64_t n) {
    load_nibbles(y, x, n, _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1), 1);
}

/* Halves; the sign of zero is of no use here. */
static void load_f4_row(float *y, const uint8_t *x, int64_t n) {
    load_nibbles(y, x, n, _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), 0.5f);
}

static void scale_groups_row(float *y, const float *factors, int64_t n, int64_t group) {
    for (int64_t at = 0; at < n; at += group, factors++) {
        vf f = vf_set(*factors);
        int64_t count = n - at < group ? n - at : group;
        FOR_ROW(count, vf_put(y + at + i, vf_get(y + at + i, left) * f, left));
    }
}

static void to_floats_row(float *y, const int32_t *x, int64_t n, int32_t less, float factor, const float *factors) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)(x[i] - less) * factor * factors[i];
}

static void fill_quantised(zoe_cpu_kernels *k) {
    k->scale_groups = scale_groups_row;
    k->largest = largest_row;
    k->largest_half = largest_half_row;
    k->to_i8 = to_i8_row;
    k->to_f8 = to_f8_row;
    k->to_i4 = to_i4_groups;
    k->to_f4 = to_f4_groups;
    k->round_i8 = round_i8_row;
    k->round_f8 = round_f8_row;
    k->load_i8 = load_i8_row;
    k->load_i4 = load_i4_row;
    k->load_f4 = load_f4_row;
    k->load[ZOE_F8_E4M3] = load_f8_row;
    k->to_floats = to_floats_row;
}

#undef PIECE
