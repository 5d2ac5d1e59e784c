/*
 * Codes of four bits straight from bf16; after kernels_quantised.h in the files of the processor levels, with vectors of
 * sixteen words at all of them.
 *
 * The magnitude of a code is the number of middles between neighbouring codes that a number lies beyond. The middles times
 * a scale of few bits are exact as floats, and bf16 is in the order of its bits: words are compared, and nothing is divided
 * or rounded. Exactly in the middle the even code is next, so that odd middles have been passed there.
 */
#define MIDDLES 7
#define LENGTH  (2 * ZOE_CPU_PIECE) /* at a time: some of it passes before the first codes of a piece come */
#define GROUPS  (LENGTH / 16)
#define STRIP   64 /* numbers whose codes fill a vector */

/* For each group of a piece the last words before a middle is passed, twice in 32 bits to be given to all lanes. */
typedef struct group_words {
    uint32_t last[MIDDLES][GROUPS];
} group_words;

/* Of a multiple of eight groups; false unless all scales are numbers above zero. */
INLINE bool words_of_groups(group_words *w, const float *scales, int64_t count, const float middles[MIDDLES]) {
    __m256 numbers = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    for (int64_t g = 0; g < count; g += 8) {
        __m256 scale = _mm256_loadu_ps(scales + g);
        numbers = _mm256_and_ps(numbers, _mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_GT_OQ));
        numbers = _mm256_and_ps(numbers, _mm256_cmp_ps(scale, _mm256_set1_ps(INFINITY), _CMP_LT_OQ));
        for (int j = 0; j < MIDDLES; j++) {
            __m256i bits = _mm256_castps_si256(scale * _mm256_set1_ps(middles[j]));
            if (j % 2) bits = _mm256_sub_epi32(bits, _mm256_set1_epi32(1));
            bits = _mm256_blend_epi16(bits, _mm256_srli_epi32(bits, 16), 0x55);
            _mm256_storeu_si256((__m256i *)(void *)&w->last[j][g], bits);
        }
    }
    return _mm256_movemask_ps(numbers) == 255;
}

INLINE __m256i words_at(const uint16_t *x) {
    return _mm256_loadu_si256((const __m256i *)(const void *)x);
}

INLINE __m256i magnitudes(__m256i words) {
    return _mm256_and_si256(words, _mm256_set1_epi16(0x7fff));
}

INLINE __m256i words_for(const uint32_t *both) {
    return _mm256_set1_epi32((int)*both);
}

/* Minus the number of middles that sixteen magnitudes of a group have passed. */
INLINE __m256i passed(__m256i x, const group_words *w, int64_t g) {
    __m256i sum = _mm256_setzero_si256(), size = magnitudes(x);
    for (int j = 0; j < MIDDLES; j++) sum = _mm256_add_epi16(sum, _mm256_cmpgt_epi16(size, words_for(&w->last[j][g])));
    return sum;
}

/* The signs of 32 numbers in bytes, and minus the magnitudes of their codes. */
typedef struct two_vectors {
    __m256i signs, less;
} two_vectors;

INLINE two_vectors two_at(const uint16_t *x, int size, int64_t i, const group_words *w) {
    __m256i a = words_at(x + i), b = words_at(x + i + 16);
    __m256i less = _mm256_packs_epi16(passed(a, w, i >> size), passed(b, w, (i + 16) >> size));
    return (two_vectors){_mm256_packs_epi16(a, b), less};
}

/* Minus a code, and back: a byte of signs may be the least one, which has no opposite. */
INLINE __m256i i4_codes(two_vectors of) {
    __m256i less = _mm256_sign_epi8(of.less, of.signs);
    return _mm256_and_si256(_mm256_sub_epi8(_mm256_setzero_si256(), less), _mm256_set1_epi8(15));
}

INLINE __m256i e2m1_codes(two_vectors of) {
    __m256i signs = _mm256_and_si256(_mm256_srli_epi16(of.signs, 4), _mm256_set1_epi8(8));
    return _mm256_sub_epi8(signs, of.less);
}

/* The codes of whole strips in groups of 2^size numbers. Packing leaves them in fours out of order. */
INLINE void code_strips(uint8_t *y, const uint16_t *x, int64_t n, int size, const group_words *w,
                        __m256i (*codes)(two_vectors of)) {
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), places = _mm256_set1_epi16(0x1001);
    for (int64_t i = 0; i < n; i += STRIP) {
        __m256i first = _mm256_maddubs_epi16(codes(two_at(x, size, i, w)), places);
        __m256i second = _mm256_maddubs_epi16(codes(two_at(x, size, i + 32, w)), places);
        __m256i bytes = _mm256_packus_epi16(first, second);
        _mm256_storeu_si256((__m256i *)(void *)(y + i / 2), _mm256_permutevar8x32_epi32(bytes, order));
    }
}

/* ---- the largest of groups: eight groups at a time, until each has a lane ---- */

INLINE __m256i group_at(const uint16_t *x, int64_t group, int64_t g, int64_t count) {
    const uint16_t *from = x + (g < count ? g : count - 1) * group;
    __m256i most = magnitudes(words_at(from));
    for (int64_t i = 16; i < group; i += 16) most = _mm256_max_epi16(most, magnitudes(words_at(from + i)));
    return most;
}

INLINE __m256i two_groups(const uint16_t *x, int64_t group, int64_t g, int64_t count) {
    __m256i a = group_at(x, group, g, count), b = group_at(x, group, g + 1, count);
    return _mm256_max_epi16(_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
}

INLINE __m256i four_groups(const uint16_t *x, int64_t group, int64_t g, int64_t count) {
    __m256i a = two_groups(x, group, g, count), b = two_groups(x, group, g + 2, count);
    return _mm256_max_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}

/* `most` has room for a multiple of eight. */
INLINE void largest_of_words(uint16_t *most, const uint16_t *x, int64_t group, int64_t count) {
    for (int64_t g = 0; g < count; g += 8) {
        __m256i a = four_groups(x, group, g, count), b = four_groups(x, group, g + 4, count);
        __m256i all = _mm256_max_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
        __m128i both = _mm_max_epi16(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
        _mm_storeu_si128((__m128i *)(void *)(most + g), both);
    }
}

/* ---- rows: whole strips of pieces, and what these cannot do through floats ---- */

/* False if not all scales are numbers above zero. */
UNWATCHED static bool to_i4_strips(uint8_t *y, uint16_t *scales, const uint16_t *x, int64_t n, int64_t group) {
    static const float middles[MIDDLES] = {0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f};
    uint16_t most[GROUPS] = {0}, halves[GROUPS];
    float factors[GROUPS];
    group_words words;
    int64_t count = n / group;
    largest_of_words(most, x, group, count);
    for (int64_t i = 0; i < count; i += LANES) {
        vf_to_f16(halves + i, vf_from_bf16(most + i) / vf_set(7));
        vf_put(factors + i, vf_from_f16(halves + i), LANES);
    }
    memcpy(scales, halves, (size_t)count * sizeof *scales);
    if (!words_of_groups(&words, factors, count, middles)) return false;
    code_strips(y, x, n, __builtin_ctzll((unsigned long long)group), &words, i4_codes);
    return true;
}

static void to_i4_by_floats(uint8_t *y, uint16_t *scales, const uint16_t *x, int64_t n, int64_t group) {
    float floats[ZOE_CPU_PIECE];
    load_bf16_row(floats, x, n);
    to_i4_groups(y, scales, floats, n, group);
}

static void to_i4_bf16_row(uint8_t *y, uint16_t *scales, const uint16_t *x, int64_t n, int64_t group) {
    for (int64_t some; n > 0; x += some, y += some / 2, scales += some / group, n -= some) {
        some = n < LENGTH ? n : LENGTH;
        if (some > STRIP) some -= some % STRIP;
        if (some >= STRIP && to_i4_strips(y, scales, x, some, group)) continue;
        some = some < ZOE_CPU_PIECE ? some : ZOE_CPU_PIECE;
        to_i4_by_floats(y, scales, x, some, group);
    }
}

/* The same where `global` is a power of two. */
UNWATCHED static bool to_f4_strips(uint8_t *y, uint8_t *scales, const uint16_t *x, int64_t n, float global,
                                   uint16_t *largest) {
    static const float middles[MIDDLES] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5};
    uint16_t most[GROUPS] = {0};
    float factors[GROUPS];
    group_words words;
    int64_t group = 16, count = n / group;
    divisor d = divisor_of(6 * global);
    largest_of_words(most, x, group, count);
    for (int64_t i = 0; i < count; i += LANES) {
        vf size = vf_from_bf16(most + i);
        vf_put(factors + i, rounded_v(limited_v(size, d, 448), 3, 0x1p-6f) * vf_set(global), LANES);
        vf_put_bytes(scales + i, e4m3_v(size, d), count - i);
    }
    *largest = largest_half_row(most, count);
    if (!words_of_groups(&words, factors, count, middles)) return false;
    code_strips(y, x, n, 4, &words, e2m1_codes);
    return true;
}

static void to_f4_by_floats(uint8_t *y, uint8_t *scales, const uint16_t *x, int64_t n, float global) {
    float floats[ZOE_CPU_PIECE];
    load_bf16_row(floats, x, n);
    to_f4_groups(y, scales, floats, n, global);
}

/* Scales times a middle are numbers of bf16, and none is subnormal. */
INLINE bool few_bits(float global) {
    uint32_t bits;
    memcpy(&bits, &global, sizeof bits);
    return (bits & 0x7fffff) == 0 && global >= 0x1p-100f && global <= 0x1p100f;
}

static float to_f4_bf16_row(uint8_t *y, uint8_t *scales, const uint16_t *x, int64_t n, float global) {
    bool compares = few_bits(global);
    uint16_t most = 0;
    float largest;
    for (int64_t some; n > 0; x += some, y += some / 2, scales += some / 16, n -= some) {
        uint16_t here;
        some = n < LENGTH ? n : LENGTH;
        if (some > STRIP) some -= some % STRIP;
        if (!compares || some < STRIP || !to_f4_strips(y, scales, x, some, global, &here)) {
            some = some < ZOE_CPU_PIECE ? some : ZOE_CPU_PIECE;
            to_f4_by_floats(y, scales, x, some, global);
            here = largest_half_row(x, some);
        }
        most = here > most ? here : most;
    }
    load_bf16_row(&largest, &most, 1);
    return largest;
}

static void fill_four_bits(zoe_cpu_kernels *k) {
    k->to_i4_bf16 = to_i4_bf16_row;
    k->to_f4_bf16 = to_f4_bf16_row;
}

#undef MIDDLES
#undef LENGTH
#undef GROUPS
#undef STRIP
