/* The AVX-512 level (F, BW, DQ, VL): thirty-two registers of sixteen floats. */
#include "backend/cpu/vector_avx512.h"

#define TILE_WIDE_ROWS   14 /* 28 sums, 2 columns, 1 or 2 broadcasts */
#define TILE_NARROW_ROWS 14
#define TILE_MAX_ROWS    14
#define DOT_GROUP        6

#include "backend/cpu/kernels_vector.h"

#include "backend/cpu/kernels_quantised.h"

#include "backend/cpu/kernels_four_bits.h"

/* ---- e4m3 of bf16, by a table ---- */

/*
 * Over a common scale the code of a number with the mantissa m and the exponent e is code(m) + 8 e, unless it is subnormal,
 * and bf16 has 128 mantissas.
 */
enum { MANTISSAS = 128 };

UNWATCHED static void mantissas_by(float scale, int16_t words[MANTISSAS]) {
    uint8_t codes[MANTISSAS];
    float floats[MANTISSAS];
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    int exponent = (int)(bits >> 23) + 2; /* quotients between 2 and 8 */
    for (uint32_t m = 0; m < MANTISSAS; m++) {
        bits = (uint32_t)exponent << 23 | m << 16;
        memcpy(&floats[m], &bits, sizeof bits);
    }
    to_f8_row(codes, floats, MANTISSAS, scale);
    for (int m = 0; m < MANTISSAS; m++) words[m] = (int16_t)(codes[m] - 8 * exponent);
}

/* 32 codes; false if one of them is subnormal. */
INLINE bool codes_by_table(uint8_t *y, const uint16_t *x, const int16_t words[MANTISSAS]) {
    __m512i all = _mm512_loadu_si512(x), first = _mm512_loadu_si512(words), second = _mm512_loadu_si512(words + 32);
    __m512i third = _mm512_loadu_si512(words + 64), fourth = _mm512_loadu_si512(words + 96);
    __m512i low = _mm512_permutex2var_epi16(first, all, second);
    __m512i high = _mm512_permutex2var_epi16(third, all, fourth);
    __m512i by_mantissa = _mm512_mask_blend_epi16(_mm512_test_epi16_mask(all, _mm512_set1_epi16(64)), low, high);
    __m512i by_exponent = _mm512_and_si512(_mm512_srli_epi16(all, 4), _mm512_set1_epi16(0x7f8));
    __m512i code = _mm512_add_epi16(by_mantissa, by_exponent), signs = _mm512_srli_epi16(all, 8);
    if (_mm512_cmplt_epi16_mask(code, _mm512_set1_epi16(8))) return false;
    code = _mm512_ternarylogic_epi32(code, signs, _mm512_set1_epi16(0x80), 0xf8); /* code | (signs & 0x80) */
    _mm256_storeu_si256((__m256i *)(void *)y, _mm512_cvtepi16_epi8(code));
    return true;
}

UNWATCHED static void to_f8_bf16_row(uint8_t *y, const uint16_t *x, int64_t n, float scale) {
    enum { CHUNK = 32 };
    float floats[CHUNK];
    int16_t words[MANTISSAS];
    bool tabled = scale >= 0x1p-100f && scale <= 0x1p100f;
    if (tabled) mantissas_by(scale, words);
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t left = n - i < CHUNK ? n - i : CHUNK;
        if (tabled && left == CHUNK && codes_by_table(y + i, x + i, words)) continue;
        load_bf16_row(floats, x + i, left);
        to_f8_row(y + i, floats, left, scale);
    }
}

/* ---- products of integers, two elements of 16 bits to a word ---- */

#define INTEGER_ROWS 14

#include "backend/cpu/integer_avx512.h"

static inline vi vi_products(vi sum, vi a, vi b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
}

#include "backend/cpu/kernels_integer.h"

void zoe_cpu_kernels_init_avx512(zoe_cpu_kernels *k) {
    fill_table(k);
    fill_quantised(k);
    fill_four_bits(k);
    k->to_f8_bf16 = to_f8_bf16_row;
    k->integer = (zoe_cpu_integer_tile){INTEGER_ROWS, INTEGER_COLS, 2, 0, zoe_cpu_widen_i8, zoe_cpu_widen_i8, integer_tile};
    k->level = "avx512";
}
