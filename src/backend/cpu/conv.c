/*
 * Convolution over [frames, height, width, channels] as an implicit matrix product.
 *
 * The weights of some output channels are packed for all threads. A task is a rectangle of output pixels of one frame: the
 * input that it sees is copied into a patch in scratch, where padding, carried frames and upsampling are already resolved.
 * In the patch the taps of one kernel row and their channels lie behind each other, so that every output pixel's input is
 * a row of a matrix with a constant row stride, and nothing needs to be unfolded. Pixels of several lines are taken as one
 * long run; the few at the end of each line that belong to no output are computed and dropped.
 */
#include "backend/cpu/cpu.h"

#include <string.h>

#define BLOCK_DEPTH 576 /* of the weights' slices */
#define MAX_ROWS    64  /* kernel rows in a slice */

typedef struct conv {
    const zoe_cpu_kernels *kernels;
    const zoe_tensor *x, *y, *w, *history;
    const zoe_conv *p;
    const float *bias;
    int64_t in, out, out_height, out_width;
    int64_t run;                             /* one kernel row of taps: kernel[2] * in */
    int64_t depth, rows;                     /* of a slice of the weights: taps and channels, kernel rows */
    int64_t lines, width;                    /* of output in a task */
    int64_t patch_lines, patch_width, slack; /* slack: floats behind the patch that whole tiles may read */
    int64_t first, count, ldc;               /* output channels in work, padded */
} conv;

/* ---- the patch ---- */

/* A frame of the input with `history` and padding in front; NULL where it is zero. */
static const float *frame_at(const conv *t, int64_t frame) {
    int64_t size = t->x->shape[1] * t->x->shape[2] * t->in, before = t->history ? t->history->shape[0] : 0;
    frame -= t->p->pad[0][0];
    if (frame < 0 || frame >= before + t->x->shape[0]) return NULL;
    if (frame < before) return (const float *)t->history->data + frame * t->history->stride[0];
    return (const float *)t->x->data + (frame - before) * size;
}

/* One line of the patch: pixels x0 .. of input line `line` of a frame (both counted after upsampling and padding). */
static void copy_line(const conv *t, float *to, const float *frame, int64_t line, int64_t x0) {
    int64_t up = t->p->upsample, in = t->in, width = t->x->shape[2], count = t->patch_width;
    line -= t->p->pad[1][0];
    x0 -= t->p->pad[2][0];
    if (!frame || line < 0 || line >= t->x->shape[1] * up) {
        memset(to, 0, (size_t)(count * in) * sizeof *to);
        return;
    }
    const float *from = frame + line / up * width * in;
    int64_t begin = zoe_min(zoe_max(0, -x0), count), end = zoe_max(begin, zoe_min(count, width * up - x0));
    memset(to, 0, (size_t)(begin * in) * sizeof *to);
    if (up == 1)
        memcpy(to + begin * in, from + (x0 + begin) * in, (size_t)((end - begin) * in) * sizeof *to);
    else
        for (int64_t i = begin; i < end; i++) memcpy(to + i * in, from + (x0 + i) / up * in, (size_t)in * sizeof *to);
    memset(to + end * in, 0, (size_t)((count - end) * in) * sizeof *to);
}

/* [kernel[0], patch_lines, patch_width, in] for output line y0, column x0 of output frame `frame`. */
static void fill_patch(const conv *t, float *patch, int64_t frame, int64_t y0, int64_t x0) {
    const zoe_conv *p = t->p;
    for (int i = 0; i < p->kernel[0]; i++) {
        const float *from = frame_at(t, frame * p->stride[0] + i);
        for (int64_t line = 0; line < t->patch_lines; line++) {
            copy_line(t, patch, from, y0 * p->stride[1] + line, x0 * p->stride[2]);
            patch += t->patch_width * t->in;
        }
    }
    memset(patch, 0, (size_t)t->slack * sizeof *patch);
}

/* ---- a task ---- */

static int64_t slice_count(const conv *t) {
    int64_t rows = t->p->kernel[0] * t->p->kernel[1];
    return t->depth < t->run ? rows * ((t->run + t->depth - 1) / t->depth) : (rows + t->rows - 1) / t->rows;
}

/*
 * The depth in slices: several kernel rows together where they are short, a part of one where it is long. Where slice i
 * begins in the packed weights, in units of ldc, and how it reads the patch; `offset` holds MAX_ROWS.
 */
static int64_t slice_at(const conv *t, int64_t i, zoe_cpu_left *left, int64_t *offset) {
    const zoe_conv *p = t->p;
    int64_t rows = p->kernel[0] * p->kernel[1], parts = (t->run + t->depth - 1) / t->depth;
    int64_t first = i / parts * t->rows, k0 = i % parts * t->depth;
    left->stride = p->stride[2] * t->in;
    left->depth = zoe_min(t->depth, t->run - k0);
    left->count = zoe_min(t->rows, rows - first);
    left->offset = offset;
    for (int64_t j = 0; j < left->count; j++) {
        int64_t row = first + j;
        offset[j] = (row / p->kernel[1] * t->patch_lines + row % p->kernel[1]) * t->patch_width * t->in + k0;
    }
    return first * t->run + k0;
}

static void task(const conv *t, float *scratch, const float *weights, int64_t frame, int64_t y0, int64_t x0) {
    int64_t lines = zoe_min(t->lines, t->out_height - y0), width = zoe_min(t->width, t->out_width - x0);
    int64_t pixels = (lines - 1) * t->patch_width + width, offset[MAX_ROWS], slices = slice_count(t);
    float *patch = scratch, *sum = patch + t->p->kernel[0] * t->patch_lines * t->patch_width * t->in + t->slack;
    fill_patch(t, patch, frame, y0, x0);
    for (int64_t i = 0; i < slices; i++) {
        zoe_cpu_left left = {.data = patch};
        int64_t at = slice_at(t, i, &left, offset);
        zoe_cpu_multiply(t->kernels, pixels, t->count, &left, weights + at * t->ldc, sum, t->ldc, i > 0);
    }
    for (int64_t line = 0; line < lines; line++) {
        int64_t at = ((frame * t->out_height + y0 + line) * t->out_width + x0) * t->out + t->first;
        zoe_cpu_epilogue e = {.bias = t->bias ? t->bias + t->first : NULL};
        if (t->p->residual) {
            const int64_t *stride = t->p->residual->stride;
            e.residual = (const float *)t->p->residual->data + frame * stride[0] + (y0 + line) * stride[1] +
                         x0 * stride[2] + t->first;
            e.residual_stride = stride[2];
        }
        t->kernels->epilogue((float *)t->y->data + at, t->out, sum + line * t->patch_width * t->ldc, t->ldc, width,
                             t->count, &e);
    }
}

static void pack_slice(const conv *t, float *weights, float *buffer, int64_t i) {
    zoe_cpu_left left = {0};
    int64_t offset[MAX_ROWS], depth = t->run * t->p->kernel[0] * t->p->kernel[1], at = slice_at(t, i, &left, offset);
    const char *from = (const char *)t->w->data + (size_t)(t->first * depth + at) * zoe_dtype_size(t->w->dtype);
    zoe_cpu_pack(t->kernels, weights + at * t->ldc, buffer, from, t->w->dtype, depth, t->count, left.depth * left.count);
}

static void run(const zoe_cpu *cpu, conv *t, int64_t cols) {
    int64_t frames = t->y->shape[0], down = (t->out_height + t->lines - 1) / t->lines;
    int64_t across = (t->out_width + t->width - 1) / t->width, tasks = frames * down * across, slices = slice_count(t);
    int team =
        zoe_cpu_team(cpu, (double)zoe_tensor_count(t->y) * (double)(t->run * t->p->kernel[0] * t->p->kernel[1]) / 16);
    for (t->first = 0; t->first < t->out; t->first += cols) {
        t->count = zoe_min(cols, t->out - t->first);
        t->ldc = zoe_cpu_padded_cols(t->kernels, t->count);
#pragma omp parallel num_threads(team)
        {
            float *scratch = zoe_cpu_scratch(cpu);
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < slices; i++) pack_slice(t, cpu->shared, scratch, i);
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < tasks; i++) {
                int64_t rest = i / across;
                task(t, scratch, cpu->shared, rest / down, rest % down * t->lines, i % across * t->width);
            }
        }
    }
}

/* ---- sizes ---- */

static void set_patch(conv *t, int64_t lines, int64_t width) {
    const zoe_conv *p = t->p;
    t->lines = lines;
    t->width = width;
    t->patch_lines = (lines - 1) * p->stride[1] + p->kernel[1];
    t->patch_width = (width - 1) * p->stride[2] + p->kernel[2];
}

static int64_t scratch_floats(const conv *t, int64_t cols) {
    int64_t pixels = zoe_cpu_padded_rows(t->kernels, (t->lines - 1) * t->patch_width + t->width);
    return t->p->kernel[0] * t->patch_lines * t->patch_width * t->in + t->slack + pixels * cols;
}

static bool fits(const conv *t, int64_t cols) {
    int64_t pixels = (t->lines - 1) * t->patch_width + t->width;
    return t->p->kernel[0] * t->patch_lines * t->patch_width * t->in <= ZOE_CONV_PATCH && pixels * cols <= ZOE_CONV_SUMS;
}

/* Pixels of a task and output channels at a time; false when even the smallest do not fit in scratch. */
static bool choose_tiles(const zoe_cpu *cpu, conv *t, int64_t *cols) {
    const zoe_conv *p = t->p;
    int64_t depth = t->run * p->kernel[0] * p->kernel[1], wide = t->kernels->wide.cols;
    int64_t rows = zoe_cpu_padded_rows(t->kernels, 1), shared = (int64_t)(ZOE_CPU_SHARED / sizeof(float));
    *cols = zoe_min(zoe_max(wide, ZOE_CONV_COLS / wide * wide), zoe_cpu_padded_cols(t->kernels, t->out));
    while (*cols > wide && *cols * depth > shared) *cols = zoe_round_up(*cols / 2, wide);
    if (*cols * depth > shared) return false;
    t->depth = zoe_min(BLOCK_DEPTH, t->run);
    t->rows = zoe_min(zoe_max(1, BLOCK_DEPTH / t->run), MAX_ROWS);
    t->slack = rows * p->stride[2] * t->in + t->run;
    set_patch(t, 1, zoe_min(t->out_width, rows));
    int64_t tasks = t->y->shape[0] * t->out_height;
    while (t->width < t->out_width) {
        conv wider = *t;
        set_patch(&wider, 1, zoe_min(t->width * 2, t->out_width));
        if (!fits(&wider, *cols)) break;
        *t = wider;
    }
    while (p->stride[1] == 1 && p->stride[2] == 1 && t->width == t->out_width && t->lines < t->out_height) {
        conv longer = *t;
        set_patch(&longer, t->lines + 1, t->width);
        if (!fits(&longer, *cols) || tasks / longer.lines < 4 * cpu->threads) break;
        *t = longer;
    }
    return scratch_floats(t, *cols) <= (int64_t)(ZOE_CPU_SCRATCH / sizeof(float));
}

/* A kernel of one tap is a linear layer over the pixels. */
static bool pointwise(const zoe_conv *p) {
    for (int i = 0; i < 3; i++)
        if (p->kernel[i] != 1 || p->stride[i] != 1 || p->pad[i][0] || p->pad[i][1]) return false;
    return p->upsample == 1 && !p->history && (!p->residual || zoe_tensor_dense(p->residual));
}

int zoe_cpu_conv(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_conv *p) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    const zoe_tensor *all[] = {y, x, p->history, p->residual};
    for (int i = 0; i < 4; i++) ZOE_TRY(zoe_cpu_need_f32(be, "conv", all[i]));
    ZOE_TRY(zoe_cpu_need_float(be, "conv", w));
    if (zoe_tensor_count(y) <= 0) return ZOE_OK;
    if (pointwise(p)) {
        zoe_tensor flat = ZOE_VIEW(w, w->shape[0], w->shape[4]);
        return zoe_cpu_linear(be, y, x, &flat, &(zoe_linear){.bias = p->bias, .residual = p->residual});
    }
    conv t = {.kernels = &cpu->kernels,
              .x = x,
              .y = y,
              .w = w,
              .history = p->history,
              .p = p,
              .bias = p->bias ? p->bias->data : NULL,
              .in = x->shape[3],
              .out = y->shape[3],
              .out_height = y->shape[1],
              .out_width = y->shape[2],
              .run = p->kernel[2] * x->shape[3]};
    int64_t cols;
    if (!choose_tiles(cpu, &t, &cols))
        return zoe_fail(be->ctx, ZOE_ERR_UNSUPPORTED,
                        "conv: %lld to %lld channels are too many for the CPU's scratch memory", (long long)t.in,
                        (long long)t.out);
    run(cpu, &t, cols);
    return ZOE_OK;
}
