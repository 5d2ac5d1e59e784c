/*
 * y = residual + gate * act(x W^T + bias).
 *
 * Each thread takes blocks of the result: slice by slice of the depth it packs W (converting the weights on the way),
 * copies the rows of x of one tile after the other, and sums into a block of its scratch; at the end it writes y once.
 * Products of a few rows skip the packing and read every weight once.
 *
 * Quantised weights are taken apart on the way like other types. Where the form asks for it (int8, fp8), rows of x are
 * rounded to the same kind of numbers as they are copied, and both scales are applied to the sums.
 */
#include "backend/cpu/linear.h"

#include <string.h>

#define SMALL_BLOCK 64 /* rows or columns, below which tasks are not cut for the sake of more threads */
#define LINE        16 /* floats of a cache line */
#define FEW_ROWS    32
#define FEW_COLS    32   /* weights' rows to a task */
#define FEW_DEPTH   1024 /* a converted slice of ZOE_DOT_ROWS weights' rows stays in the first-level cache */

_Static_assert(((ZOE_BLOCK_ROWS + 16) * ZOE_BLOCK_COLS + (ZOE_BLOCK_COLS + 64) * ZOE_BLOCK_DEPTH) * sizeof(float) <=
                   ZOE_CPU_SCRATCH,
               "a block, padded to tiles, fits in scratch");

void zoe_cpu_finish(const zoe_cpu_product *t, const float *acc, int64_t ldc, int64_t row0, int64_t rows, int64_t col0,
                    int64_t cols) {
    const zoe_linear *p = t->p;
    int64_t together = p->gate && t->groups ? 1 : rows;
    for (int64_t row = row0; row < row0 + rows; row += together) {
        zoe_cpu_epilogue e = {.act = p->act, .residual_stride = t->ldr};
        if (p->bias) e.bias = (const float *)p->bias->data + col0;
        if (p->gate) e.gate = (const float *)p->gate->data + (t->groups ? t->groups[row] * t->ldg : 0) + col0;
        if (t->residual) e.residual = t->residual + row * t->ldr + col0;
        t->kernels->epilogue(t->y + row * t->ldy + col0, t->ldy, acc + (row - row0) * ldc, ldc, together, cols, &e);
    }
}

/* Applies the scales of sums of rounded rows. */
static void scale(const zoe_cpu_product *t, float *acc, int64_t ldc, int64_t row0, int64_t rows, int64_t col0,
                  int64_t cols) {
    for (int64_t row = 0; t->row_scales && row < rows; row++)
        t->kernels->scale_shift(acc + row * ldc, acc + row * ldc, t->col_scales + col0, NULL, cols),
            t->kernels->scale(acc + row * ldc, acc + row * ldc, cols, t->row_scales[row0 + row]);
}

/* Asks for a part of the next tile's rows of x while the present one is computed. */
static void prefetch(const zoe_cpu_product *t, int64_t row0, int64_t rows, int64_t k0, int64_t depth, int64_t from,
                     int64_t to) {
    int64_t lines = (depth + LINE - 1) / LINE;
    for (int64_t i = rows * lines * from / to; i < rows * lines * (from + 1) / to; i++)
        __builtin_prefetch(t->x + (row0 + i / lines) * t->ldx + k0 + i % lines * LINE);
}

static void copy_row(const zoe_cpu_product *t, float *to, int64_t row, int64_t k0, int64_t depth) {
    const float *from = t->x + row * t->ldx + k0;
    if (t->round)
        t->round(to, from, depth, t->row_scales[row]);
    else
        memcpy(to, from, (size_t)depth * sizeof *to);
}

/* c += the product of one slice of the depth; a holds the rows of one tile. */
static void slice(const zoe_cpu_product *t, float *c, int64_t ldc, float *a, const float *b, int64_t row0, int64_t rows,
                  int64_t cols, int64_t k0, int64_t depth) {
    const zoe_cpu_kernels *k = t->kernels;
    zoe_cpu_left left = {.data = a, .stride = ZOE_BLOCK_DEPTH, .depth = depth, .count = 1};
    int64_t step = k->narrow.rows, group = 2 * k->wide.cols, groups = (cols + group - 1) / group;
    for (int64_t row = 0; row < rows; row += step) {
        int64_t count = zoe_min(step, rows - row), next = zoe_max(0, zoe_min(step, rows - row - step));
        for (int64_t i = 0; i < count; i++) copy_row(t, a + i * ZOE_BLOCK_DEPTH, row0 + row + i, k0, depth);
        for (int64_t i = 0; i < groups; i++) {
            int64_t col = i * group;
            prefetch(t, row0 + row + step, next, k0, depth, i, groups);
            zoe_cpu_multiply(k, count, zoe_min(group, cols - col), &left, b + col * depth, c + row * ldc + col, ldc,
                             k0 > 0);
        }
    }
}

static void block(const zoe_cpu_product *t, float *scratch, int64_t row0, int64_t rows, int64_t col0, int64_t cols) {
    const zoe_cpu_kernels *k = t->kernels;
    int64_t ldc = zoe_cpu_padded_cols(k, cols);
    float *a = scratch, *b = a + k->narrow.rows * ZOE_BLOCK_DEPTH, *buffer = b + ldc * ZOE_BLOCK_DEPTH;
    float *c = buffer + k->wide.cols * ZOE_BLOCK_DEPTH;
    memset(a, 0, (size_t)(k->narrow.rows * ZOE_BLOCK_DEPTH) * sizeof *a);
    for (int64_t k0 = 0; k0 < t->depth; k0 += ZOE_BLOCK_DEPTH) {
        int64_t depth = zoe_min(ZOE_BLOCK_DEPTH, t->depth - k0);
        zoe_cpu_pack_weights(k, b, buffer, t->w, col0, cols, k0, depth);
        slice(t, c, ldc, a, b, row0, rows, cols, k0, depth);
    }
    scale(t, c, ldc, row0, rows, col0, cols);
    zoe_cpu_finish(t, c, ldc, row0, rows, col0, cols);
}

/* x is rounded already. */
static void few_rows(const zoe_cpu_product *t, float *scratch, int64_t col0, int64_t cols) {
    const zoe_cpu_kernels *k = t->kernels;
    float *acc = scratch, *buffer = acc + FEW_ROWS * FEW_COLS;
    memset(acc, 0, sizeof *acc * FEW_ROWS * FEW_COLS);
    for (int64_t col = 0; col < cols; col += ZOE_DOT_ROWS)
        for (int64_t k0 = 0; k0 < t->depth; k0 += FEW_DEPTH) {
            int64_t depth = zoe_min(FEW_DEPTH, t->depth - k0), count = zoe_min(ZOE_DOT_ROWS, cols - col);
            const float *w = (const float *)t->w->data + (col0 + col) * t->depth + k0;
            int64_t ldw = t->depth;
            if (t->w->dtype != ZOE_F32 || count < ZOE_DOT_ROWS) {
                for (int64_t i = 0; i < ZOE_DOT_ROWS; i++)
                    zoe_cpu_unpack(k, buffer + i * FEW_DEPTH, t->w, col0 + col + zoe_min(i, count - 1), k0, depth);
                w = buffer;
                ldw = FEW_DEPTH;
            }
            k->dot(acc + col, FEW_COLS, t->x + k0, t->ldx, t->rows, w, ldw, depth);
        }
    scale(t, acc, FEW_COLS, 0, t->rows, col0, cols);
    zoe_cpu_finish(t, acc, FEW_COLS, 0, t->rows, col0, cols);
}

static int64_t blocks(const zoe_cpu_product *t, int64_t rows, int64_t cols) {
    return (t->rows + rows - 1) / rows * ((t->cols + cols - 1) / cols);
}

/* Rounded copies of the rows fit in the shared scratch, too. */
static bool few_enough(const zoe_cpu_product *t) {
    return t->rows <= FEW_ROWS && t->rows * (t->depth + 1) <= (int64_t)(ZOE_CPU_SHARED / sizeof(float));
}

static void run(const zoe_cpu *cpu, const zoe_cpu_product *t) {
    int team = zoe_cpu_team(cpu, (double)t->rows * (double)t->cols * (double)t->depth / 16);
    if (few_enough(t)) {
#pragma omp parallel for num_threads(team) schedule(dynamic)
        for (int64_t col = 0; col < t->cols; col += FEW_COLS)
            few_rows(t, zoe_cpu_scratch(cpu), col, zoe_min(FEW_COLS, t->cols - col));
        return;
    }
    int64_t most = t->codes ? ZOE_BLOCK_CODES : ZOE_BLOCK_ROWS, tall = (t->rows + most - 1) / most;
    int64_t step = (t->rows + tall - 1) / tall, width = zoe_min(ZOE_BLOCK_COLS, t->cols);
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
        (t->codes ? zoe_cpu_integer_block : block)(t, zoe_cpu_scratch(cpu), row, zoe_min(step, t->rows - row), col,
                                                   zoe_min(width, t->cols - col));
    }
}

/* The rows of x are rounded once, into the shared scratch, or (codes NULL) as they are copied, time and again. */
typedef struct rounding {
    float *scales, *copies;
    int32_t *sums;
    int8_t *codes;
} rounding;

/* What of it the product needs, behind each other; bytes a row. */
static int64_t place(const zoe_cpu_product *t, void *memory, rounding *r) {
    bool few = few_enough(t), integers = !few && t->w->dtype == ZOE_I8 && t->depth % 4 == 0;
    *r = (rounding){.scales = memory};
    if (few) r->copies = r->scales + t->rows;
    if (integers) r->sums = (int32_t *)(void *)(r->scales + t->rows), r->codes = (int8_t *)(r->sums + t->rows);
    return 4 + (few ? 4 * t->depth : integers ? 4 + t->depth : 0);
}

static void round_row(zoe_cpu_product *t, const rounding *r, int64_t row) {
    const zoe_cpu_kernels *k = t->kernels;
    const float *x = t->x + row * t->ldx;
    r->scales[row] = k->largest(x, t->depth) / (t->w->dtype == ZOE_I8 ? 127 : 448);
    if (r->copies) t->round(r->copies + row * t->depth, x, t->depth, r->scales[row]);
    if (!r->codes) return;
    int8_t *codes = r->codes + row * t->depth;
    int32_t sum = 0;
    k->to_i8(codes, x, t->depth, r->scales[row]);
    for (int64_t i = 0; k->integer.offset && i < t->depth; i++) sum += codes[i];
    r->sums[row] = sum;
}

static void round_rows(const zoe_cpu *cpu, zoe_cpu_product *t) {
    rounding r;
    place(t, cpu->shared, &r);
    t->round = t->w->dtype == ZOE_I8 ? t->kernels->round_i8 : t->kernels->round_f8;
#pragma omp parallel for num_threads(zoe_cpu_team(cpu, (double)t->rows *(double)t->depth))
    for (int64_t row = 0; row < t->rows; row++) round_row(t, &r, row);
    t->row_scales = r.scales, t->row_sums = r.sums, t->codes = r.codes;
    if (r.copies) t->x = r.copies, t->ldx = t->depth;
}

/* In equal pieces of as many rows as the shared scratch holds. */
static void run_rounded(const zoe_cpu *cpu, const zoe_cpu_product *all) {
    rounding r;
    int64_t most = (int64_t)ZOE_CPU_SHARED / place(all, cpu->shared, &r), pieces = (all->rows + most - 1) / most;
    int64_t step = pieces ? (all->rows + pieces - 1) / pieces : 1;
    for (int64_t row = 0; row < all->rows; row += step) {
        zoe_cpu_product t = *all;
        t.rows = zoe_min(step, all->rows - row);
        t.x += row * t.ldx, t.y += row * t.ldy;
        if (t.residual) t.residual += row * t.ldr;
        if (t.groups) t.groups += row;
        round_rows(cpu, &t);
        run(cpu, &t);
    }
}

int zoe_cpu_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    ZOE_TRY(zoe_cpu_need_f32(be, "linear", x));
    ZOE_TRY(zoe_cpu_need_f32(be, "linear", y));
    ZOE_TRY(zoe_cpu_need_f32(be, "linear", p->residual));
    if (!w->scales) ZOE_TRY(zoe_cpu_need_float(be, "linear", w));
    zoe_cpu_product t = {.kernels = &cpu->kernels,
                         .x = x->data,
                         .w = w,
                         .y = y->data,
                         .p = p,
                         .rows = zoe_tensor_rows(x),
                         .cols = w->shape[0],
                         .depth = w->shape[1],
                         .ldx = zoe_row_stride(x),
                         .ldy = zoe_row_stride(y)};
    if (p->residual) t.residual = p->residual->data, t.ldr = zoe_row_stride(p->residual);
    if (p->gate) t.ldg = zoe_row_stride(p->gate);
    if (p->row_group) t.groups = p->row_group->data;
    if (w->scales && !w->group) t.col_scales = w->scales;
    if (t.cols > 0 && t.col_scales)
        run_rounded(cpu, &t);
    else if (t.rows > 0 && t.cols > 0)
        run(cpu, &t);
    return ZOE_OK;
}
