/* Vectors of eight floats, for kernels_vector.h. `left` is how many lanes of a row remain: all of them or a tail. */
#ifndef ZOE_BACKEND_CPU_VECTOR_AVX2_H
#define ZOE_BACKEND_CPU_VECTOR_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 8

typedef __m256 vf;

static inline __m256i vf_mask(int64_t left) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)left), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vf vf_set(float x) {
    return _mm256_set1_ps(x);
}

/* Missing lanes are zero. */
static inline vf vf_get(const float *p, int64_t left) {
    return left >= LANES ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, vf_mask(left));
}

static inline void vf_put(float *p, vf x, int64_t left) {
    if (left >= LANES)
        _mm256_storeu_ps(p, x);
    else
        _mm256_maskstore_ps(p, vf_mask(left), x);
}

/* Lanes that are not there become `fill`. */
static inline vf vf_keep(vf x, int64_t left, float fill) {
    return left >= LANES ? x : _mm256_blendv_ps(_mm256_set1_ps(fill), x, _mm256_castsi256_ps(vf_mask(left)));
}

static inline vf vf_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}

/* c - a b, rounded once */
static inline vf vf_fnma(vf a, vf b, vf c) {
    return _mm256_fnmadd_ps(a, b, c);
}

static inline vf vf_max(vf a, vf b) { /* b where either is NaN */
    return _mm256_max_ps(a, b);
}

static inline vf vf_min(vf a, vf b) { /* b where either is NaN */
    return _mm256_min_ps(a, b);
}

static inline vf vf_abs(vf x) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

/* Of magnitudes the larger, a NaN being above infinity. */
static inline vf vf_max_bits(vf a, vf b) {
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

/* The power of two at or below a magnitude, zero for those that have none. */
static inline vf vf_power(vf x) {
    return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000)));
}

/* A magnitude with the sign of another number. */
static inline vf vf_signed(vf x, vf sign) {
    return _mm256_or_ps(x, _mm256_and_ps(sign, vf_set(-0.0f)));
}

static inline vf vf_round(vf x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* a < b ? x : y */
static inline vf vf_less(vf a, vf b, vf x, vf y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

/* x * 2^n for integral n in -300..300: in two steps, as 2^n alone may not be a float. */
static inline vf vf_scale2(vf x, vf n) {
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
    __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return x * _mm256_castsi256_ps(first) * _mm256_castsi256_ps(second);
}

static inline float vf_sum(vf x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float vf_top(vf x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* The largest of magnitudes, a NaN being above infinity. */
static inline float vf_top_bits(vf x) {
    __m256i all = _mm256_castps_si256(x);
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
}

/* The sums of four vectors. */
static inline __m128 vf_sum4(vf a, vf b, vf c, vf d) {
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

/* Half as many floats, each twice. */
static inline vf vf_twice(const float *p) {
    __m256 half = _mm256_castps128_ps256(_mm_loadu_ps(p));
    return _mm256_permutevar8x32_ps(half, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

/* (x0, x1) -> (x0 c - x1 s, x1 c + x0 s) */
static inline vf vf_rotate(vf x, vf c, vf s) {
    return _mm256_fmaddsub_ps(x, c, _mm256_permute_ps(x, 0xb1) * s);
}

static inline vf vf_from_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
}

/* Of twice as many numbers of bf16 the even ones, and the odd ones. */
static inline vf vf_even_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p), 16));
}

static inline vf vf_odd_bf16(const uint16_t *p) {
    __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(-0x10000)));
}

static inline vf vf_from_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* To nearest even; a NaN stays one when its payload's low half is cut off. */
static inline void vf_to_bf16(uint16_t *p, vf x) {
    __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m256i nan = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i out = _mm256_blendv_epi8(rounded, nan, is_nan);
    __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(out), _mm256_extracti128_si256(out, 1));
    _mm_storeu_si128((__m128i *)(void *)p, packed);
}

static inline void vf_to_f16(uint16_t *p, vf x) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

/* ---- codes ---- */

typedef __m256i vf_codes; /* one to a lane */

/* The nearest integers. */
static inline vf_codes vf_integers(vf x) {
    return _mm256_cvtps_epi32(x);
}

/*
 * The codes of the nearest small floats, `bits` bits behind the leading one and no steps finer than those from 2^smallest
 * on, to magnitudes; the sign comes from other numbers and stands in the bit `sign`. Adding a power of two whose last bit
 * is a step leaves the rounded count of steps in the low bits; above stand bits of no meaning.
 */
static inline vf_codes vf_small_floats(vf magnitude, vf signs, int bits, int smallest, int sign) {
    vf least = _mm256_castsi256_ps(_mm256_set1_epi32((127 + smallest) << 23));
    __m256i power = _mm256_castps_si256(vf_max(vf_power(magnitude), least));
    vf large = _mm256_castsi256_ps(_mm256_add_epi32(power, _mm256_set1_epi32((23 - bits) << 23)));
    __m256i steps = _mm256_castps_si256(magnitude + large), before = _mm256_srli_epi32(power, 23 - bits);
    __m256i negative = _mm256_srai_epi32(_mm256_castps_si256(signs), 31);
    __m256i first = _mm256_set1_epi32((127 + smallest) << bits);
    __m256i less = _mm256_sub_epi32(first, _mm256_and_si256(negative, _mm256_set1_epi32(sign)));
    return _mm256_sub_epi32(_mm256_add_epi32(steps, before), less);
}

/* The low byte of each. */
static inline void vf_put_bytes(uint8_t *p, vf_codes x, int64_t left) {
    __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(255));
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    __m128i bytes = _mm_packus_epi16(words, words);
    uint64_t all = (uint64_t)_mm_cvtsi128_si64(bytes);
    memcpy(p, &all, left >= LANES ? LANES : (size_t)left);
}

/* The low half byte of each, the even lane's first. */
static inline void vf_put_nibbles(uint8_t *p, vf_codes x) {
    __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(15));
    __m256i both = _mm256_or_si256(low, _mm256_srli_epi64(low, 28));
    __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    __m128i words = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(both, order));
    uint32_t all = (uint32_t)_mm_cvtsi128_si32(_mm_shuffle_epi8(words, _mm_set1_epi32(0x0c080400)));
    memcpy(p, &all, sizeof all);
}

/* A byte of the low half bytes of each two. */
static inline void vf_put_pairs(uint8_t *p, vf_codes even, vf_codes odd) {
    __m256i low = _mm256_and_si256(even, _mm256_set1_epi32(15));
    vf_put_bytes(p, _mm256_or_si256(low, _mm256_slli_epi32(odd, 4)), LANES);
}

#endif
