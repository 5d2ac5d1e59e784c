/*
 * Blocks of a product of int8 rows with int8 weights, summed in integers: exact, whatever the order.
 *
 * As in linear.c, slice by slice of the depth the weights are packed into panels and met by the rows of one tile after the
 * other. Words of 32 bits hold two or four elements of the depth (as the level's instruction takes them), so that panels
 * are made by the same transposition as those of floats.
 */
#include "backend/cpu/linear.h"

#include <string.h>

#define WORDS 256 /* of the depth, in a slice */

/* The largest tile is 16 rows, the widest panel 32 columns. */
_Static_assert(sizeof(int32_t) * ((ZOE_BLOCK_ROWS + 16) * ZOE_BLOCK_COLS + (ZOE_BLOCK_COLS + 32 + 32 + 16) * WORDS) <=
                   ZOE_CPU_SCRATCH,
               "a block, padded to tiles, fits in scratch");

/* Rows of weights into panels [words, tile.cols]. */
static void pack(const zoe_cpu_product *t, int32_t *panels, int32_t *buffer, int64_t col0, int64_t cols, int64_t k0,
                 int64_t depth) {
    const zoe_cpu_integer_tile *tile = &t->kernels->integer;
    int64_t words = depth / tile->elements;
    for (int64_t col = 0; col < cols; col += tile->cols, panels += tile->cols * words) {
        int64_t rows = zoe_min(tile->cols, cols - col);
        for (int64_t row = 0; row < rows; row++)
            tile->right(buffer + row * words, (const int8_t *)t->w->data + (col0 + col + row) * t->depth + k0, depth);
        t->kernels->pack((float *)(void *)panels, tile->cols, (const float *)(const void *)buffer, words, rows, words);
    }
}

static void slice(const zoe_cpu_product *t, int32_t *c, int64_t ldc, int32_t *a, const int32_t *panels, int64_t row0,
                  int64_t rows, int64_t k0, int64_t depth) {
    const zoe_cpu_integer_tile *tile = &t->kernels->integer;
    int64_t words = depth / tile->elements;
    for (int64_t row = 0; row < rows; row += tile->rows) {
        for (int64_t i = 0; i < zoe_min(tile->rows, rows - row); i++)
            tile->left(a + i * words, t->codes + (row0 + row + i) * t->depth + k0, depth);
        for (int64_t col = 0; col < ldc; col += tile->cols)
            tile->run(a, words, panels + col * words, c + row * ldc + col, ldc, k0 > 0);
    }
}

void zoe_cpu_integer_block(const zoe_cpu_product *t, float *scratch, int64_t row0, int64_t rows, int64_t col0,
                           int64_t cols) {
    const zoe_cpu_integer_tile *tile = &t->kernels->integer;
    int64_t ldc = zoe_round_up(cols, tile->cols);
    int32_t *a = (int32_t *)(void *)scratch, *buffer = a + tile->rows * WORDS;
    int32_t *panels = buffer + tile->cols * WORDS, *c = panels + ldc * WORDS;
    memset(a, 0, (size_t)(tile->rows * WORDS) * sizeof *a);
    for (int64_t k0 = 0; k0 < t->depth; k0 += WORDS * tile->elements) {
        int64_t depth = zoe_min(WORDS * tile->elements, t->depth - k0);
        pack(t, panels, buffer, col0, cols, k0, depth);
        slice(t, c, ldc, a, panels, row0, rows, k0, depth);
    }
    float *acc = (float *)(void *)c;
    for (int64_t row = 0; row < rows; row++)
        t->kernels->to_floats(acc + row * ldc, c + row * ldc, cols, tile->offset * t->row_sums[row0 + row],
                              t->row_scales[row0 + row], t->col_scales + col0);
    zoe_cpu_finish(t, acc, ldc, row0, rows, col0, cols);
}
