/*
 * Codes of four bits straight from bf16; after kernels_quantised.h in the files of the processor levels. Sixteen words of
 * bf16 are a vector here at all of them.
 */
#define LENGTH (2 * ZOE_CPU_PIECE) /* at a time: some of it passes before the first codes of a piece come */
#define GROUPS (LENGTH / 16)
#define STRIP  64 /* numbers whose codes fill a vector */

INLINE __m256i words_at(const uint16_t *x) {
    return _mm256_loadu_si256((const __m256i *)(const void *)x);
}

/* Magnitudes of bf16 are in the order of their bits. */
INLINE __m256i magnitudes(__m256i words) {
    return _mm256_and_si256(words, _mm256_set1_epi16(0x7fff));
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

/* ---- int4: quotients, the even and the odd numbers apart ---- */

/* A piece of a row; false, with nothing of use written, if a scale is no normal number: a quotient may be out of range. */
UNWATCHED static bool to_i4_pieces(uint8_t *y, uint16_t *scales, const uint16_t *x, int64_t n, int64_t group) {
    uint16_t most[GROUPS] = {0}, halves[GROUPS];
    float factors[GROUPS], inverses[GROUPS];
    int64_t count = n / group;
    bool normal = true;
    largest_of_words(most, x, group, count);
    for (int64_t i = 0; i < count; i += LANES) {
        vf_to_f16(halves + i, vf_from_bf16(most + i) / vf_set(7));
        vf scale = vf_from_f16(halves + i);
        vf_put(factors + i, scale, LANES);
        vf_put(inverses + i, vf_set(1) / scale, LANES);
    }
    for (int64_t g = 0; g < count; g++) normal &= halves[g] >= 0x0400 && halves[g] < 0x7c00;
    if (!normal) return false;
    memcpy(scales, halves, (size_t)count * sizeof *scales);
    for (int64_t g = 0; g < count; g++, x += group, y += group / 2) {
        divisor d = {factors[g], inverses[g], true};
        for (int64_t i = 0; i < group; i += 2 * LANES)
            vf_put_pairs(y + i / 2, vf_integers(quotient_v(vf_even_bf16(x + i), d)),
                         vf_integers(quotient_v(vf_odd_bf16(x + i), d)));
    }
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
        if (to_i4_pieces(y, scales, x, some, group)) continue;
        some = some < ZOE_CPU_PIECE ? some : ZOE_CPU_PIECE;
        to_i4_by_floats(y, scales, x, some, group);
    }
}

/* ---- nvfp4: what lies between numbers is told by their bits ---- */

/*
 * Codes 0 to 7 stand for 0, 0.5, 1, 1.5, 2, 3, 4, 6. A number has the code of how many middles between them it has passed:
 * 0.25, 0.75, then twice two to an octave, 1.25, 1.75, 2.5, 3.5 and 5; in the middle itself the even code is next. Times a
 * scale of four bits these are numbers of bf16, and an octave there is 128 whatever it begins with. So of what is past the
 * first 1.25 it takes an addition and a shift each to count the octaves begun, and their second parts begun.
 *
 * For each group, twice in 32 bits to be given to all lanes: the last words before 0.25 and 0.75 are passed, plus
 * one; 1.25; and what to add to what is past that so that a second part begins at a multiple of 128.
 */
typedef struct middles {
    uint32_t low[2][GROUPS], octave[GROUPS], second[GROUPS];
} middles;

INLINE __m256i times_v(__m256 scale, float middle) {
    return _mm256_srli_epi32(_mm256_castps_si256(scale * _mm256_set1_ps(middle)), 16);
}

INLINE void put_twice(uint32_t *to, __m256i words) {
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_or_si256(words, _mm256_slli_epi32(words, 16)));
}

/* Of a multiple of eight groups; false unless all scales are numbers from `least` on. */
INLINE bool middles_of(middles *m, const float *scales, int64_t count, float least) {
    __m256 fit = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    for (int64_t g = 0; g < count; g += 8) {
        __m256 scale = _mm256_loadu_ps(scales + g);
        fit = _mm256_and_ps(fit, _mm256_cmp_ps(scale, _mm256_set1_ps(least), _CMP_GE_OQ));
        fit = _mm256_and_ps(fit, _mm256_cmp_ps(scale, _mm256_set1_ps(INFINITY), _CMP_LT_OQ));
        __m256i octave = times_v(scale, 1.25f), second = times_v(scale, 1.75f);
        put_twice(m->low[0] + g, _mm256_add_epi32(times_v(scale, 0.25f), _mm256_set1_epi32(1)));
        put_twice(m->low[1] + g, times_v(scale, 0.75f));
        put_twice(m->octave + g, octave);
        put_twice(m->second + g, _mm256_sub_epi32(_mm256_add_epi32(octave, _mm256_set1_epi32(256)), second));
    }
    return _mm256_movemask_ps(fit) == 255;
}

INLINE __m256i words_for(const uint32_t *both) {
    return _mm256_set1_epi32((int)*both);
}

/* Magnitudes of the codes of sixteen numbers of a group. */
INLINE __m256i e2m1_words(__m256i x, const middles *m, int64_t g) {
    __m256i size = magnitudes(x), past = _mm256_subs_epu16(size, words_for(m->octave + g));
    __m256i octaves = _mm256_srli_epi16(_mm256_add_epi16(past, _mm256_set1_epi16(255)), 7);
    __m256i seconds = _mm256_srli_epi16(_mm256_add_epi16(past, words_for(m->second + g)), 7);
    __m256i under = _mm256_add_epi16(_mm256_cmpgt_epi16(words_for(m->low[0] + g), size),
                                     _mm256_cmpgt_epi16(words_for(m->low[1] + g), size));
    return _mm256_add_epi16(_mm256_add_epi16(octaves, seconds), under);
}

/* The codes of 32 numbers, two to a word; out of order by fours, as packing leaves them. */
INLINE __m256i e2m1_pairs(const uint16_t *x, const middles *m, int64_t g) {
    __m256i a = words_at(x), b = words_at(x + 16);
    __m256i sizes = _mm256_packs_epi16(e2m1_words(a, m, g), e2m1_words(b, m, g + 1));
    __m256i signs = _mm256_and_si256(_mm256_srli_epi16(_mm256_packs_epi16(a, b), 4), _mm256_set1_epi8(8));
    return _mm256_maddubs_epi16(_mm256_or_si256(sizes, signs), _mm256_set1_epi16(0x1001));
}

/*
 * Whole strips of a piece, where `global` is a power of two. False if a scale is no normal number: there, quotients may be
 * out of range.
 */
UNWATCHED static bool to_f4_strips(uint8_t *y, uint8_t *scales, const uint16_t *x, int64_t n, float global,
                                   uint16_t *largest) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    uint16_t most[GROUPS] = {0};
    float factors[GROUPS];
    middles m;
    int64_t count = n / 16;
    divisor d = divisor_of(6 * global);
    largest_of_words(most, x, 16, count);
    for (int64_t i = 0; i < count; i += LANES) {
        vf size = vf_from_bf16(most + i);
        vf_put(factors + i, rounded_v(limited_v(size, d, 448), 3, 0x1p-6f) * vf_set(global), LANES);
        vf_put_bytes(scales + i, e4m3_v(size, d), count - i);
    }
    *largest = largest_half_row(most, count);
    if (!middles_of(&m, factors, count, 0x1p-6f * global)) return false;
    for (int64_t g = 0; g < count; g += 4, x += STRIP, y += STRIP / 2) {
        __m256i bytes = _mm256_packus_epi16(e2m1_pairs(x, &m, g), e2m1_pairs(x + 32, &m, g + 2));
        _mm256_storeu_si256((__m256i *)(void *)y, _mm256_permutevar8x32_epi32(bytes, order));
    }
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

#undef LENGTH
#undef GROUPS
#undef STRIP
