/*
 * y = residual + gate * act(x W^T + bias).
 *
 * Each thread takes blocks of the result: slice by slice of the depth it packs W (converting the weights on the way),
 * copies the rows of x of one tile after the other, and sums into a block of its scratch; at the end it writes y once.
 * Products of a few rows skip the packing and read every weight once.
 */
#include "backend/cpu/cpu.h"

#include <string.h>

#define BLOCK_ROWS  1536 /* of x and y: the packing of a slice of W is shared by so many rows */
#define BLOCK_COLS  512  /* of W */
#define BLOCK_DEPTH 384  /* a packed slice of W stays in the second-level cache, a tile's rows of x in the first */
#define SMALL_BLOCK 64   /* rows or columns, below which tasks are not cut for the sake of more threads */
#define LINE        16   /* floats of a cache line */
#define FEW_ROWS    32
#define FEW_COLS    32   /* weights' rows to a task */
#define FEW_DEPTH   1024 /* a converted slice of ZOE_DOT_ROWS weights' rows stays in the first-level cache */

_Static_assert(((BLOCK_ROWS + 16) * BLOCK_COLS + (BLOCK_COLS + 64) * BLOCK_DEPTH) * sizeof(float) <= ZOE_CPU_SCRATCH,
               "a block, padded to tiles, fits in scratch");

typedef struct product {
    const zoe_cpu_kernels *kernels;
    const float *x;
    const char *w;
    zoe_dtype dtype;
    float *y;
    const float *residual;
    int64_t rows, cols, depth, ldx, ldy, ldr, ldg;
    const zoe_linear *p;
} product;

/* Rows that share a gate are written together. */
static void finish(const product *t, const float *acc, int64_t ldc, int64_t row0, int64_t rows, int64_t col0,
                   int64_t cols) {
    const zoe_linear *p = t->p;
    const int32_t *group = p->row_group ? p->row_group->data : NULL;
    int64_t together = p->gate && group ? 1 : rows;
    for (int64_t row = row0; row < row0 + rows; row += together) {
        zoe_cpu_epilogue e = {.act = p->act, .residual_stride = t->ldr};
        if (p->bias) e.bias = (const float *)p->bias->data + col0;
        if (p->gate) e.gate = (const float *)p->gate->data + (group ? group[row] * t->ldg : 0) + col0;
        if (t->residual) e.residual = t->residual + row * t->ldr + col0;
        t->kernels->epilogue(t->y + row * t->ldy + col0, t->ldy, acc + (row - row0) * ldc, ldc, together, cols, &e);
    }
}

/* Asks for a part of the next tile's rows of x while the present one is computed. */
static void prefetch(const product *t, int64_t row0, int64_t rows, int64_t k0, int64_t depth, int64_t from, int64_t to) {
    int64_t lines = (depth + LINE - 1) / LINE;
    for (int64_t i = rows * lines * from / to; i < rows * lines * (from + 1) / to; i++)
        __builtin_prefetch(t->x + (row0 + i / lines) * t->ldx + k0 + i % lines * LINE);
}

/* c += the product of one slice of the depth; a holds the rows of one tile. */
static void slice(const product *t, float *c, int64_t ldc, float *a, const float *b, int64_t row0, int64_t rows,
                  int64_t cols, int64_t k0, int64_t depth) {
    const zoe_cpu_kernels *k = t->kernels;
    zoe_cpu_left left = {.data = a, .stride = BLOCK_DEPTH, .depth = depth, .count = 1};
    int64_t step = k->narrow.rows, group = 2 * k->wide.cols, groups = (cols + group - 1) / group;
    for (int64_t row = 0; row < rows; row += step) {
        int64_t count = zoe_min(step, rows - row), next = zoe_max(0, zoe_min(step, rows - row - step));
        for (int64_t i = 0; i < count; i++)
            memcpy(a + i * BLOCK_DEPTH, t->x + (row0 + row + i) * t->ldx + k0, (size_t)depth * sizeof *a);
        for (int64_t i = 0; i < groups; i++) {
            int64_t col = i * group;
            prefetch(t, row0 + row + step, next, k0, depth, i, groups);
            zoe_cpu_multiply(k, count, zoe_min(group, cols - col), &left, b + col * depth, c + row * ldc + col, ldc,
                             k0 > 0);
        }
    }
}

static void block(const product *t, float *scratch, int64_t row0, int64_t rows, int64_t col0, int64_t cols) {
    const zoe_cpu_kernels *k = t->kernels;
    size_t element = zoe_dtype_size(t->dtype);
    int64_t ldc = zoe_cpu_padded_cols(k, cols);
    float *a = scratch, *b = a + k->narrow.rows * BLOCK_DEPTH, *buffer = b + ldc * BLOCK_DEPTH;
    float *c = buffer + k->wide.cols * BLOCK_DEPTH;
    memset(a, 0, (size_t)(k->narrow.rows * BLOCK_DEPTH) * sizeof *a);
    for (int64_t k0 = 0; k0 < t->depth; k0 += BLOCK_DEPTH) {
        int64_t depth = zoe_min(BLOCK_DEPTH, t->depth - k0);
        zoe_cpu_pack(k, b, buffer, t->w + (size_t)(col0 * t->depth + k0) * element, t->dtype, t->depth, cols, depth);
        slice(t, c, ldc, a, b, row0, rows, cols, k0, depth);
    }
    finish(t, c, ldc, row0, rows, col0, cols);
}

static void few_rows(const product *t, float *scratch, int64_t col0, int64_t cols) {
    const zoe_cpu_kernels *k = t->kernels;
    size_t element = zoe_dtype_size(t->dtype);
    float *acc = scratch, *buffer = acc + FEW_ROWS * FEW_COLS;
    memset(acc, 0, sizeof *acc * FEW_ROWS * FEW_COLS);
    for (int64_t col = 0; col < cols; col += ZOE_DOT_ROWS)
        for (int64_t k0 = 0; k0 < t->depth; k0 += FEW_DEPTH) {
            int64_t depth = zoe_min(FEW_DEPTH, t->depth - k0), count = zoe_min(ZOE_DOT_ROWS, cols - col);
            const char *from = t->w + (size_t)((col0 + col) * t->depth + k0) * element;
            const float *w = (const float *)(const void *)from;
            int64_t ldw = t->depth;
            if (t->dtype != ZOE_F32 || count < ZOE_DOT_ROWS) {
                for (int64_t i = 0; i < ZOE_DOT_ROWS; i++)
                    k->load[t->dtype](buffer + i * FEW_DEPTH, from + (size_t)(zoe_min(i, count - 1) * t->depth) * element,
                                      depth);
                w = buffer;
                ldw = FEW_DEPTH;
            }
            k->dot(acc + col, FEW_COLS, t->x + k0, t->ldx, t->rows, w, ldw, depth);
        }
    finish(t, acc, FEW_COLS, 0, t->rows, col0, cols);
}

static int64_t blocks(const product *t, int64_t rows, int64_t cols) {
    return (t->rows + rows - 1) / rows * ((t->cols + cols - 1) / cols);
}

static void run(const zoe_cpu *cpu, const product *t) {
    int team = zoe_cpu_team(cpu, (double)t->rows * (double)t->cols * (double)t->depth / 16);
    if (t->rows <= FEW_ROWS) {
#pragma omp parallel for num_threads(team) schedule(dynamic)
        for (int64_t col = 0; col < t->cols; col += FEW_COLS)
            few_rows(t, zoe_cpu_scratch(cpu), col, zoe_min(FEW_COLS, t->cols - col));
        return;
    }
    int64_t tall = (t->rows + BLOCK_ROWS - 1) / BLOCK_ROWS, step = (t->rows + tall - 1) / tall,
            width = zoe_min(BLOCK_COLS, t->cols);
    while (blocks(t, step, width) < 3 * team && (step > SMALL_BLOCK || width > SMALL_BLOCK))
        if (step > width)
            step = (step + 1) / 2;
        else
            width = zoe_round_up(width / 2, cpu->kernels.wide.cols);
    step = zoe_round_up(step, cpu->kernels.narrow.rows);
    int64_t row_blocks = (t->rows + step - 1) / step, col_blocks = (t->cols + width - 1) / width;
#pragma omp parallel for num_threads(team) schedule(dynamic)
    for (int64_t i = 0; i < row_blocks * col_blocks; i++) {
        int64_t row = i % row_blocks * step, col = i / row_blocks * width;
        block(t, zoe_cpu_scratch(cpu), row, zoe_min(step, t->rows - row), col, zoe_min(width, t->cols - col));
    }
}

int zoe_cpu_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    ZOE_TRY(zoe_cpu_need_f32(be, "linear", x));
    ZOE_TRY(zoe_cpu_need_f32(be, "linear", y));
    ZOE_TRY(zoe_cpu_need_f32(be, "linear", p->residual));
    ZOE_TRY(zoe_cpu_need_float(be, "linear", w));
    product t = {.kernels = &cpu->kernels,
                 .x = x->data,
                 .w = w->data,
                 .dtype = w->dtype,
                 .y = y->data,
                 .p = p,
                 .rows = zoe_tensor_rows(x),
                 .cols = w->shape[0],
                 .depth = w->shape[1],
                 .ldx = zoe_row_stride(x),
                 .ldy = zoe_row_stride(y)};
    if (p->residual) t.residual = p->residual->data, t.ldr = zoe_row_stride(p->residual);
    if (p->gate) t.ldg = zoe_row_stride(p->gate);
    if (t.rows > 0 && t.cols > 0) run(cpu, &t);
    return ZOE_OK;
}
