/*
 * The kernels of quantised numbers that read the same at every vector width; after kernels_vector.h in the files of the
 * processor levels. Codes are made in pieces: rounded in vectors, then turned into bytes by a loop that compilers know how
 * to do at once.
 */
#define PIECE 64

static float largest_row(const float *x, int64_t n) {
    vf most = vf_set(0);
    float lanes[LANES], top = 0;
    FOR_ROW(n, most = vf_max_bits(most, vf_abs(vf_get(x + i, left))));
    vf_put(lanes, most, LANES);
    for (int i = 0; i < LANES; i++) {
        if (!(lanes[i] <= FLT_MAX)) top = top == top && lanes[i] == lanes[i] ? INFINITY : NAN;
        if (lanes[i] > top) top = lanes[i];
    }
    return top;
}

/* x / scale within -limit .. limit, a NaN becoming `limit`. */
INLINE vf limited_v(vf x, vf scale, float limit) {
    return vf_max(vf_set(-limit), vf_min(x / scale, vf_set(limit)));
}

/* To the nearest number with so many bits after the leading one, in steps no finer than those from `least` on. */
INLINE vf rounded_v(vf x, int bits, float least) {
    vf step = vf_max(vf_power(x), vf_set(least)) * vf_set(1.0f / (float)(1 << bits));
    return vf_round(x / step) * step;
}

static void zero_row(float *y, int64_t n) {
    memset(y, 0, (size_t)n * sizeof *y);
}

static void round_i8_row(float *y, const float *x, int64_t n, float scale) {
    vf s = vf_set(scale);
    if (scale == 0)
        zero_row(y, n);
    else
        FOR_ROW(n, vf_put(y + i, vf_round(limited_v(vf_get(x + i, left), s, 127)), left));
}

static void round_f8_row(float *y, const float *x, int64_t n, float scale) {
    vf s = vf_set(scale);
    if (scale == 0)
        zero_row(y, n);
    else
        FOR_ROW(n, vf_put(y + i, rounded_v(limited_v(vf_get(x + i, left), s, 448), 3, 0x1p-6f), left));
}

static void round_f4_row(float *y, const float *x, int64_t n, float scale) {
    vf s = vf_set(scale);
    if (scale == 0)
        zero_row(y, n);
    else
        FOR_ROW(n, vf_put(y + i, rounded_v(limited_v(vf_get(x + i, left), s, 6), 1, 1), left));
}

#define CODER(name, type, round, code)                                                                                     \
    static void name(type *y, const float *x, int64_t n, float scale) {                                                    \
        float piece[PIECE];                                                                                                \
        for (int64_t at = 0; at < n; at += PIECE) {                                                                        \
            int64_t count = n - at < PIECE ? n - at : PIECE;                                                               \
            round(piece, x + at, count, scale);                                                                            \
            for (int64_t i = 0; i < count; i++) y[at + i] = (type)(code(piece[i]));                                        \
        }                                                                                                                  \
    }

CODER(to_i8_row, int8_t, round_i8_row, (int32_t))
CODER(to_f8_row, uint8_t, round_f8_row, zoe_e4m3_code)
CODER(to_f4_row, uint8_t, round_f4_row, zoe_e2m1_code)

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
    k->to_i8 = to_i8_row;
    k->to_f8 = to_f8_row;
    k->to_f4 = to_f4_row;
    k->round_i8 = round_i8_row;
    k->round_f8 = round_f8_row;
    k->load_i8 = load_i8_row;
    k->load_i4 = load_i4_row;
    k->load_f4 = load_f4_row;
    k->load[ZOE_F8_E4M3] = load_f8_row;
    k->to_floats = to_floats_row;
}

#undef PIECE
