/*
 * The register tile of the integer product, for the processor levels. Before it: `vi` with VI_LANES lanes of 32 bits,
 * vi_get(), vi_put(), vi_all(word), vi_add(), vi_zero() and vi_products(sum, a, b), which adds to every lane the products
 * of the elements in a word of the left side and one of the right.
 */
#include <stdint.h>
#include <string.h>

#define INTEGER_COLS (2 * VI_LANES)

/* Keeps the compiler from starting rows ahead, for which there are not enough registers. */
#define IN_ORDER(v) __asm__ volatile("" : "+v"(v))

/* Rows are reached as in the tile of floats (kernels_vector.h). */
static void integer_tile(const int32_t *a, int64_t words, const int32_t *b, int32_t *c, int64_t ldc, bool add) {
    vi sum[INTEGER_ROWS][2];
    const int32_t *third[(INTEGER_ROWS + 2) / 3];
    for (int i = 0; i < (INTEGER_ROWS + 2) / 3; i++) third[i] = a + 3 * i * words;
    for (int row = 0; row < INTEGER_ROWS; row++) sum[row][0] = sum[row][1] = vi_zero();
    for (int64_t i = 0; i < words; i++, b += INTEGER_COLS) {
        vi first = vi_get(b), second = vi_get(b + VI_LANES);
        for (int row = 0; row < INTEGER_ROWS; row++) {
            vi left = vi_all(third[row / 3] + i + row % 3 * words);
            IN_ORDER(left);
            sum[row][0] = vi_products(sum[row][0], left, first);
            vi last = vi_products(sum[row][1], left, second);
            IN_ORDER(last);
            sum[row][1] = last;
        }
    }
    for (int row = 0; row < INTEGER_ROWS; row++)
        for (int j = 0; j < 2; j++) {
            int32_t *to = c + row * ldc + j * VI_LANES;
            vi_put(to, add ? vi_add(sum[row][j], vi_get(to)) : sum[row][j]);
        }
}
