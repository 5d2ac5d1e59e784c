/* Blocks of a matrix product on packed panels, shared by linear, attention and convolution. */
#include "backend/cpu/cpu.h"

static int64_t panel_cols(const zoe_cpu_kernels *k, int64_t left) {
    return left <= k->narrow.cols ? k->narrow.cols : k->wide.cols;
}

int64_t zoe_cpu_padded_cols(const zoe_cpu_kernels *k, int64_t n) {
    int64_t whole = n / k->wide.cols * k->wide.cols;
    return whole == n ? n : whole + panel_cols(k, n - whole);
}

int64_t zoe_cpu_padded_rows(const zoe_cpu_kernels *k, int64_t m) {
    return zoe_round_up(m, k->narrow.rows);
}

void zoe_cpu_pack(const zoe_cpu_kernels *k, float *panels, float *buffer, const void *b, zoe_dtype dtype, int64_t ldb,
                  int64_t n, int64_t depth) {
    size_t size = zoe_dtype_size(dtype);
    for (int64_t col = 0; col < n; col += k->wide.cols) {
        int64_t cols = panel_cols(k, n - col), rows = zoe_min(cols, n - col);
        const char *from = (const char *)b + (size_t)(col * ldb) * size;
        if (dtype == ZOE_F32) {
            k->pack(panels, cols, (const float *)(const void *)from, ldb, rows, depth);
        } else {
            for (int64_t row = 0; row < rows; row++)
                k->load[dtype](buffer + row * depth, from + (size_t)(row * ldb) * size, depth);
            k->pack(panels, cols, buffer, depth, rows, depth);
        }
        panels += cols * depth;
    }
}

void zoe_cpu_multiply(const zoe_cpu_kernels *k, int64_t m, int64_t n, int64_t depth, const float *a, int64_t lda,
                      const float *panels, float *c, int64_t ldc, bool add) {
    for (int64_t col = 0; col < n; col += k->wide.cols) {
        const zoe_cpu_tile *tile = n - col <= k->narrow.cols ? &k->narrow : &k->wide;
        for (int64_t row = 0; row < m; row += tile->rows)
            tile->run(depth, a + row * lda, lda, panels, c + row * ldc + col, ldc, add);
        panels += tile->cols * depth;
    }
}
