/* Vectors of sixteen floats, for kernels_vector.h. `left` is how many lanes of a row remain: all of them or a tail. */
#ifndef ZOE_BACKEND_CPU_VECTOR_AVX512_H
#define ZOE_BACKEND_CPU_VECTOR_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 16

typedef __m512 vf;

static inline __mmask16 vf_mask(int64_t left) {
    return (__mmask16)((1u << left) - 1);
}

static inline vf vf_set(float x) {
    return _mm512_set1_ps(x);
}

/* Missing lanes are zero. */
static inline vf vf_get(const float *p, int64_t left) {
    return left >= LANES ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(vf_mask(left), p);
}

static inline void vf_put(float *p, vf x, int64_t left) {
    if (left >= LANES)
        _mm512_storeu_ps(p, x);
    else
        _mm512_mask_storeu_ps(p, vf_mask(left), x);
}

/* Lanes that are not there become `fill`. */
static inline vf vf_keep(vf x, int64_t left, float fill) {
    return left >= LANES ? x : _mm512_mask_blend_ps(vf_mask(left), _mm512_set1_ps(fill), x);
}

static inline vf vf_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}

/* c - a b, rounded once */
static inline vf vf_fnma(vf a, vf b, vf c) {
    return _mm512_fnmadd_ps(a, b, c);
}

static inline vf vf_max(vf a, vf b) { /* b where either is NaN */
    return _mm512_max_ps(a, b);
}

static inline vf vf_min(vf a, vf b) { /* b where either is NaN */
    return _mm512_min_ps(a, b);
}

static inline vf vf_abs(vf x) {
    return _mm512_abs_ps(x);
}

/* Of magnitudes the larger, a NaN being above infinity. */
static inline vf vf_max_bits(vf a, vf b) {
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

/* The power of two at or below a magnitude, zero for those that have none. */
static inline vf vf_power(vf x) {
    return _mm512_and_ps(x, _mm512_castsi512_ps(_mm512_set1_epi32(0x7f800000)));
}

/* A magnitude with the sign of another number. */
static inline vf vf_signed(vf x, vf sign) {
    return _mm512_or_ps(x, _mm512_and_ps(sign, vf_set(-0.0f)));
}

static inline vf vf_round(vf x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* a < b ? x : y */
static inline vf vf_less(vf a, vf b, vf x, vf y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}

/* x * 2^n for integral n. */
static inline vf vf_scale2(vf x, vf n) {
    return _mm512_scalef_ps(x, n);
}

static inline float vf_sum(vf x) {
    return _mm512_reduce_add_ps(x);
}

static inline float vf_top(vf x) {
    return _mm512_reduce_max_ps(x);
}

/* The largest of magnitudes, a NaN being above infinity. */
static inline float vf_top_bits(vf x) {
    int bits = _mm512_reduce_max_epi32(_mm512_castps_si512(x));
    float top;
    memcpy(&top, &bits, sizeof top);
    return top;
}

static inline __m256 vf_halves(vf x) {
    return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
}

/* The sums of four vectors. */
static inline __m128 vf_sum4(vf a, vf b, vf c, vf d) {
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(vf_halves(a), vf_halves(b)), _mm256_hadd_ps(vf_halves(c), vf_halves(d)));
    return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

/* Half as many floats, each twice. */
static inline vf vf_twice(const float *p) {
    __m512i order = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(order, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}

/* (x0, x1) -> (x0 c - x1 s, x1 c + x0 s) */
static inline vf vf_rotate(vf x, vf c, vf s) {
    return _mm512_fmaddsub_ps(x, c, _mm512_permute_ps(x, 0xb1) * s);
}

static inline vf vf_from_bf16(const uint16_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* Of twice as many numbers of bf16 the even ones, and the odd ones. */
static inline vf vf_even_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}

static inline vf vf_odd_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(-0x10000)));
}

static inline vf vf_from_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* To nearest even; a NaN stays one when its payload's low half is cut off. */
static inline void vf_to_bf16(uint16_t *p, vf x) {
    __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i out = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    out = _mm512_mask_or_epi32(out, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), high, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(out));
}

static inline void vf_to_f16(uint16_t *p, vf x) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

/* ---- codes ---- */

typedef __m512i vf_codes; /* one to a lane */

/* The nearest integers. */
static inline vf_codes vf_integers(vf x) {
    return _mm512_cvtps_epi32(x);
}

/*
 * The codes of the nearest small floats, `bits` bits behind the leading one and no steps finer than those from 2^smallest
 * on, to magnitudes; the sign comes from other numbers and stands in the bit `sign`. Adding a power of two whose last bit
 * is a step leaves the rounded count of steps in the low bits; above stand bits of no meaning.
 */
static inline vf_codes vf_small_floats(vf magnitude, vf signs, int bits, int smallest, int sign) {
    vf least = _mm512_castsi512_ps(_mm512_set1_epi32((127 + smallest) << 23));
    __m512i power = _mm512_castps_si512(vf_max(vf_power(magnitude), least));
    vf large = _mm512_castsi512_ps(_mm512_add_epi32(power, _mm512_set1_epi32((23 - bits) << 23)));
    __m512i steps = _mm512_castps_si512(magnitude + large), before = _mm512_srli_epi32(power, (unsigned)(23 - bits));
    __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(signs));
    int first = (127 + smallest) << bits;
    __m512i less = _mm512_mask_blend_epi32(negative, _mm512_set1_epi32(first), _mm512_set1_epi32(first - sign));
    return _mm512_sub_epi32(_mm512_add_epi32(steps, before), less);
}

/* The low byte of each. */
static inline void vf_put_bytes(uint8_t *p, vf_codes x, int64_t left) {
    if (left >= LANES)
        _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(x));
    else
        _mm512_mask_cvtepi32_storeu_epi8(p, vf_mask(left), x);
}

/* The low half byte of each, the even lane's first. */
static inline void vf_put_nibbles(uint8_t *p, vf_codes x) {
    __m512i low = _mm512_and_si512(x, _mm512_set1_epi32(15));
    _mm_storel_epi64((__m128i *)(void *)p, _mm512_cvtepi64_epi8(_mm512_or_si512(low, _mm512_srli_epi64(low, 28))));
}

/* A byte of the low half bytes of each two. */
static inline void vf_put_pairs(uint8_t *p, vf_codes even, vf_codes odd) {
    __m512i low = _mm512_and_si512(even, _mm512_set1_epi32(15));
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_or_si512(low, _mm512_slli_epi32(odd, 4))));
}

#endif
