/* Blocks of a matrix product on packed panels, shared by linear, attention and convolution. */
#include "backend/cpu/cpu.h"

/* Rows of weights asked for before they are converted: each is too short for the processor to notice. */
#define AHEAD 4

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
            for (int64_t row = 0; row < rows; row++) {
                for (size_t i = 0; i < (size_t)depth * size; i += 64)
                    __builtin_prefetch(from + (size_t)((row + AHEAD) * ldb) * size + i);
                k->load[dtype](buffer + row * depth, from + (size_t)(row * ldb) * size, depth);
            }
            k->pack(panels, cols, buffer, depth, rows, depth);
        }
        panels += cols * depth;
    }
}

void zoe_cpu_pack_weights(const zoe_cpu_kernels *k, float *panels, float *buffer, const zoe_tensor *w, int64_t first,
                          int64_t n, int64_t from, int64_t depth) {
    if (!w->scales) {
        const char *at = (const char *)w->data + (size_t)(first * w->shape[1] + from) * zoe_dtype_size(w->dtype);
        zoe_cpu_pack(k, panels, buffer, at, w->dtype, w->shape[1], n, depth);
        return;
    }
    for (int64_t col = 0; col < n; col += k->wide.cols) {
        int64_t cols = panel_cols(k, n - col), rows = zoe_min(cols, n - col);
        for (int64_t row = 0; row < rows; row++) zoe_cpu_unpack(k, buffer + row * depth, w, first + col + row, from, depth);
        k->pack(panels, cols, buffer, depth, rows, depth);
        panels += cols * depth;
    }
}

/* Rows outside: a tile's rows of a stay in the first-level cache while the panels stream past. */
void zoe_cpu_multiply(const zoe_cpu_kernels *k, int64_t m, int64_t n, const zoe_cpu_left *a, const float *panels, float *c,
                      int64_t ldc, bool add) {
    int64_t depth = a->depth * a->count, whole = n - n % k->wide.cols;
    bool narrow = n - whole > 0 && n - whole <= k->narrow.cols;
    if (!narrow && whole < n) whole += k->wide.cols;
    for (int64_t row = 0; row < m; row += k->wide.rows)
        for (int64_t col = 0; col < whole; col += k->wide.cols)
            k->wide.run(a, row, panels + col * depth, c + row * ldc + col, ldc, add);
    for (int64_t row = 0; narrow && row < m; row += k->narrow.rows)
        k->narrow.run(a, row, panels + whole * depth, c + row * ldc + whole, ldc, add);
}
