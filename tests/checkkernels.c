/*
 * Runs every operation of a backend, at every processor level or in every type of activations, on random and extreme
 * operands and compares it with float64.
 *
 *   checkkernels [--backend cpu|cuda] [--op NAME] [--seed N] check; exit status 1 if anything is out of its bound
 *   checkkernels --bench [--op NAME]                        time the operations instead
 *   ... [--level c|avx2|avx512|f32|bf16|bf16-89|bf16-80] [--threads N]               one level only; with one thread,
 * timings count its own CPU time
 *
 * Outputs start as NaN between guard bytes, gaps of strided operands hold NaN: what is not written, written too far or read
 * too far shows. A bound is a number of roundings relative to the magnitudes that went into a value (check_reference.h).
 */
#include "checkkernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ON(o)  ((o) ? &(o)->on : NULL)
#define VAL(o) ((o) ? (o)->values : NULL)

/* Float32 arithmetic on sums of some thousand terms; the plain C adds them one after the other. */
static const double linear_bound = 1e-6, conv_bound = 8e-7, norm_bound = 8e-7;

static double *doubles(int64_t count) {
    double *p = calloc((size_t)count + 1, sizeof *p);
    if (!p) exit(2);
    return p;
}

static const int32_t *group_data(const operand *o) {
    return o ? (const int32_t *)o->t.data : NULL;
}

/* ---- linear ---- */

typedef struct linear_case {
    int64_t rows, in, out;
    zoe_dtype weight;
    zoe_act act;
    bool bias, gate, grouped, residual;
    layout l;
    fill f;
} linear_case;

static void check_linear(checker *c, const linear_case *t) {
    zoe_dtype dtype = c->be->dtype;
    char what[96];
    snprintf(what, sizeof what, "%lld x %lld x %lld, %s, fill %d", (long long)t->rows, (long long)t->in, (long long)t->out,
             zoe_dtype_name(t->weight), (int)t->f);
    operand *x = INPUT(c, dtype, t->l, t->f, t->rows, t->in),
            *w = INPUT(c, check_weight(c, t->weight), DENSE, FILL_SMALL, t->out, t->in);
    operand *bias = t->bias ? INPUT(c, ZOE_F32, DENSE, t->f, t->out) : NULL;
    operand *gate = t->gate ? INPUT(c, ZOE_F32, t->l, FILL_SMALL, 3, t->out) : NULL;
    operand *group = t->grouped ? check_ids(c, t->rows, 3) : NULL;
    operand *y = t->residual ? INPUT(c, dtype, t->l, t->f, t->rows, t->out) : OUTPUT(c, dtype, t->l, t->rows, t->out);
    zoe_linear p = {.bias = ON(bias), .act = t->act, .gate = ON(gate), .row_group = ON(group)};
    if (t->residual) p.residual = &y->on;
    double *expected = doubles(t->rows * t->out), *size = doubles(t->rows * t->out);
    ref_run_linear(&(ref_linear){.rows = t->rows,
                                 .in = t->in,
                                 .out = t->out,
                                 .x = x->values,
                                 .w = w->values,
                                 .bias = VAL(bias),
                                 .gate = VAL(gate),
                                 .residual = t->residual ? y->values : NULL,
                                 .group = group_data(group),
                                 .act = t->act},
                   expected, size);
    check_status(c, zoe_op_linear(c->be, &y->on, &x->on, &w->on, &p), what);
    check_result(c, y, expected, size, linear_bound, what);
    free(expected), free(size);
    check_done(c);
}

static void linear(checker *c) {
    static const int64_t rows[] = {1, 2, 7, 32, 33, 50, 113, 1600}, ins[] = {1, 5, 16, 129, 400},
                         outs[] = {1, 3, 16, 33, 70};
    static const zoe_dtype weights[] = {ZOE_F32, ZOE_BF16, ZOE_F16, ZOE_F64, ZOE_F8_E4M3, ZOE_F8_E5M2};
    for (int r = 0; r < 8; r++)
        for (int i = 0; i < 5; i++)
            for (int o = 0; o < 5; o++) {
                int n = r * 25 + i * 5 + o;
                check_linear(c, &(linear_case){.rows = rows[r],
                                               .in = ins[i],
                                               .out = outs[o],
                                               .weight = weights[n % 6],
                                               .act = (zoe_act)(n % 4),
                                               .bias = n % 3,
                                               .gate = n % 5 < 2,
                                               .grouped = n % 5 == 1,
                                               .residual = n % 2,
                                               .l = (layout)(n / 2 % 2)});
            }
    for (int f = 0; f < FILL_COUNT; f++)
        for (int w = 0; w < 3; w++)
            for (int r = 0; r < 2; r++)
                check_linear(c, &(linear_case){.rows = r ? 40 : 3,
                                               .in = 1100,
                                               .out = 600,
                                               .weight = weights[w],
                                               .f = (fill)f,
                                               .bias = true,
                                               .l = STRIDED});
    for (int n = 0; n < 8; n++) /* one gate for more rows than there are inputs */
        check_linear(c, &(linear_case){.rows = 520,
                                       .in = 128,
                                       .out = 96,
                                       .weight = c->be->dtype,
                                       .gate = true,
                                       .bias = n & 1,
                                       .residual = n & 2,
                                       .l = n & 4 ? STRIDED : DENSE});
    for (int n = 0; n < 16; n++) /* whole vectors, as real networks have them */
        check_linear(c, &(linear_case){.rows = n % 4 == 3 ? 5 : 130,
                                       .in = 256,
                                       .out = 192,
                                       .weight = c->be->dtype,
                                       .act = (zoe_act)(n % 4),
                                       .bias = n & 1,
                                       .gate = n > 8,
                                       .grouped = n > 11,
                                       .residual = n & 4});
}

/* ---- norm, qk_prepare ---- */

typedef struct norm_case {
    int64_t rows, width;
    zoe_norm_kind kind;
    bool affine, modulate, grouped, in_place;
    zoe_act act;
    layout l;
    fill f;
} norm_case;

static void check_norm(checker *c, const norm_case *t) {
    zoe_dtype dtype = c->be->dtype;
    char what[96];
    snprintf(what, sizeof what, "%lld x %lld, kind %d, fill %d", (long long)t->rows, (long long)t->width, (int)t->kind,
             (int)t->f);
    operand *x = INPUT(c, dtype, t->l, t->f, t->rows, t->width);
    operand *weight = t->affine ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, t->width) : NULL;
    operand *bias = t->affine ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, t->width) : NULL;
    operand *scale = t->modulate ? INPUT(c, ZOE_F32, STRIDED, FILL_SMALL, 4, t->width) : NULL;
    operand *shift = t->modulate ? INPUT(c, ZOE_F32, STRIDED, FILL_SMALL, 4, t->width) : NULL;
    operand *group = t->grouped ? check_ids(c, t->rows, 4) : NULL;
    operand *y = t->in_place ? x : OUTPUT(c, dtype, t->l, t->rows, t->width);
    zoe_norm p = {.kind = t->kind,
                  .eps = 1e-6f,
                  .weight = ON(weight),
                  .bias = ON(bias),
                  .scale = ON(scale),
                  .shift = ON(shift),
                  .row_group = ON(group),
                  .act = t->act};
    double *expected = doubles(t->rows * t->width), *size = doubles(t->rows * t->width);
    ref_run_norm(&(ref_norm){.rows = t->rows,
                             .width = t->width,
                             .x = x->values,
                             .weight = VAL(weight),
                             .bias = VAL(bias),
                             .scale = VAL(scale),
                             .shift = VAL(shift),
                             .group = group_data(group),
                             .kind = t->kind,
                             .eps = (double)1e-6f,
                             .act = t->act},
                 expected, size);
    check_status(c, zoe_op_norm(c->be, &y->on, &x->on, &p), what);
    check_result(c, y, expected, size, norm_bound, what);
    free(expected), free(size);
    check_done(c);
}

static void norm_vectors(checker *c);

static void norm(checker *c) {
    static const int64_t widths[] = {2, 3, 15, 16, 17, 64, 131, 1541}, rows[] = {1, 2, 37};
    for (int w = 0; w < 8; w++)
        for (int r = 0; r < 3; r++)
            for (int k = 0; k < 12; k++)
                check_norm(c, &(norm_case){.rows = rows[r],
                                           .width = widths[w],
                                           .kind = (zoe_norm_kind)(k % 3),
                                           .affine = k / 3 % 2,
                                           .modulate = k > 5,
                                           .grouped = r && k > 8,
                                           .in_place = (w + k) % 2,
                                           .act = (zoe_act)(w % 4),
                                           .l = (layout)(r % 2)});
    for (int k = 0; k < 3; k++) {
        check_norm(c, &(norm_case){.rows = 5, .width = 777, .kind = (zoe_norm_kind)k, .f = FILL_HUGE});
        check_norm(c, &(norm_case){.rows = 5, .width = 777, .kind = (zoe_norm_kind)k, .f = FILL_WIDE});
        check_norm(c, &(norm_case){.rows = 5, .width = 777, .kind = (zoe_norm_kind)k, .f = FILL_TINY});
    }
    norm_vectors(c);
}

/* Rows of whole vectors of eight, from the narrowest to the widest that a kernel may hold in registers, and wider. */
static void norm_vectors(checker *c) {
    static const int64_t widths[] = {8, 96, 192, 384, 1024, 1536, 4096, 5120, 8192};
    for (int w = 0; w < 9; w++)
        for (int k = 0; k < 6; k++)
            check_norm(c, &(norm_case){.rows = 19,
                                       .width = widths[w],
                                       .kind = (zoe_norm_kind)(k % 3),
                                       .affine = k<3, .modulate = k> 2,
                                       .grouped = k == 4,
                                       .in_place = k % 2,
                                       .act = (zoe_act)(k % 4)});
}

static void check_qk(checker *c, int64_t tokens, int64_t heads, int64_t head, int n) {
    zoe_dtype dtype = c->be->dtype;
    int64_t width = heads * head, part = n & 1 ? head : width, pairs = n & 2 ? head / 2 : width / 2, count = tokens * width;
    bool rotate = head % 2 == 0 && n % 5, normalise = n % 7;
    char what[96];
    snprintf(what, sizeof what, "%lld x %lld x %lld, variant %d", (long long)tokens, (long long)heads, (long long)head, n);
    operand *x = INPUT(c, dtype, (layout)(n / 2 % 2), FILL_SMALL, tokens, width);
    operand *y = n % 3 ? OUTPUT(c, dtype, (layout)(n % 2), tokens, width) : x;
    operand *weight = n % 4 ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, part) : NULL;
    operand *bias = n % 4 == 2 ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, part) : NULL;
    operand *cosine = rotate ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, tokens, pairs) : NULL;
    operand *sine = rotate ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, tokens, pairs) : NULL;
    zoe_qk p = {.heads = heads,
                .normalise = normalise,
                .per_head = n & 1,
                .kind = (zoe_norm_kind)(n % 3),
                .eps = 1e-5f,
                .weight = ON(weight),
                .bias = ON(bias),
                .cos = ON(cosine),
                .sin = ON(sine)};
    double *expected = doubles(count), *size = doubles(count);
    if (normalise)
        for (int64_t i = 0; i < count; i += part)
            ref_run_norm(&(ref_norm){.rows = 1,
                                     .width = part,
                                     .x = x->values + i,
                                     .weight = VAL(weight),
                                     .bias = VAL(bias),
                                     .kind = p.kind,
                                     .eps = (double)1e-5f},
                         expected + i, size + i);
    else
        for (int64_t i = 0; i < count; i++) size[i] = fabs(expected[i] = x->values[i]);
    if (rotate) ref_rotate(expected, size, tokens, width, pairs, cosine->values, sine->values);
    check_status(c, zoe_op_qk_prepare(c->be, &y->on, &x->on, &p), what);
    check_result(c, y, expected, size, norm_bound, what);
    free(expected), free(size);
    check_done(c);
}

static void qk_prepare(checker *c) {
    static const int64_t heads[] = {1, 3, 5, 8}, sizes[] = {2, 3, 6, 16, 40, 64, 128}, tokens[] = {1, 9};
    int n = 0;
    for (int h = 0; h < 4; h++)
        for (int s = 0; s < 7; s++)
            for (int t = 0; t < 2; t++)
                for (int i = 0; i < 6; i++) check_qk(c, tokens[t], heads[h], sizes[s], n++);
    for (int i = 0; i < 24; i++) check_qk(c, 21, i < 12 ? 12 : 40, 128, i);
}

/* ---- conv ---- */

typedef struct conv_case {
    int64_t frames, height, width, in, out, history;
    zoe_conv p;
    zoe_dtype weight;
    bool bias, residual;
} conv_case;

/* Frames from the last to the first: those of a history may lie anywhere. */
static void turn_round(operand *history) {
    int64_t frames = history->t.shape[0], size = zoe_tensor_count(&history->t) / frames;
    double *values = doubles(frames * size);
    for (int64_t i = 0; i < frames; i++)
        memcpy(values + i * size, history->values + (frames - 1 - i) * size, (size_t)size * sizeof *values);
    memcpy(history->values, values, (size_t)(frames * size) * sizeof *values);
    free(values);
    history->on.data = (char *)history->on.data + (size_t)((frames - 1) * size) * zoe_dtype_size(history->on.dtype);
    history->on.stride[0] = -size;
}

/* [frames, height, width, channels] within frames that are two lines and three pixels larger. */
static operand *part_of_frames(checker *c, zoe_dtype dtype, const int64_t shape[4]) {
    int64_t height = shape[1] + 2, width = shape[2] + 3, channels = shape[3], at = 0;
    operand *o = INPUT(c, dtype, DENSE, FILL_SMALL, shape[0], height, width, channels);
    for (int64_t i = 0; i < shape[0]; i++)
        for (int64_t y = 0; y < shape[1]; y++, at += shape[2] * channels)
            memmove(o->values + at, o->values + ((i * height + y + 1) * width + 2) * channels,
                    (size_t)(shape[2] * channels) * sizeof *o->values);
    o->on = zoe_view_slice(&o->on, 1, 1, shape[1]);
    o->on = zoe_view_slice(&o->on, 2, 2, shape[2]);
    return o;
}

static void check_conv(checker *c, const conv_case *t) {
    zoe_dtype dtype = c->be->dtype;
    zoe_conv p = t->p;
    if (!p.upsample) p.upsample = 1;
    int64_t in[4] = {t->frames, t->height, t->width, t->in}, out[4] = {0, 0, 0, t->out};
    for (int i = 0; i < 3; i++) {
        if (!p.stride[i]) p.stride[i] = 1;
        int64_t span = i == 0 ? t->frames + t->history : in[i] * p.upsample;
        out[i] = (span + p.pad[i][0] + p.pad[i][1] - p.kernel[i]) / p.stride[i] + 1;
    }
    char what[128];
    snprintf(what, sizeof what, "%lldx%lldx%lld, %lld to %lld channels, kernel %d %d %d, history %lld, %s",
             (long long)t->frames, (long long)t->height, (long long)t->width, (long long)t->in, (long long)t->out,
             p.kernel[0], p.kernel[1], p.kernel[2], (long long)t->history, zoe_dtype_name(t->weight));
    operand *x = check_input(c, dtype, DENSE, FILL_SMALL, 4, in);
    operand *w =
        INPUT(c, check_weight(c, t->weight), DENSE, FILL_SMALL, t->out, p.kernel[0], p.kernel[1], p.kernel[2], t->in);
    operand *history = t->history ? INPUT(c, dtype, DENSE, FILL_SMALL, t->history, t->height, t->width, t->in) : NULL;
    if (t->history) turn_round(history);
    operand *bias = t->bias ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, t->out) : NULL;
    operand *residual = NULL;
    if (t->residual)
        residual = t->history ? part_of_frames(c, dtype, out) : check_input(c, dtype, DENSE, FILL_SMALL, 4, out);
    operand *y = check_output(c, dtype, DENSE, 4, out);
    p.history = ON(history), p.bias = ON(bias), p.residual = ON(residual);
    int64_t count = zoe_tensor_count(&y->t);
    double *expected = doubles(count), *size = doubles(count);
    ref_conv ref = {.p = &p,
                    .history_frames = t->history,
                    .x = x->values,
                    .w = w->values,
                    .bias = VAL(bias),
                    .residual = VAL(residual),
                    .history = VAL(history)};
    memcpy(ref.in_shape, in, sizeof in);
    memcpy(ref.out_shape, out, sizeof out);
    ref_run_conv(&ref, expected, size);
    check_status(c, zoe_op_conv(c->be, &y->on, &x->on, &w->on, &p), what);
    check_result(c, y, expected, size, conv_bound, what);
    free(expected), free(size);
    check_done(c);
}

#define SAME                                                                                                               \
    {                                                                                                                      \
        {2, 0}, {1, 1}, {                                                                                                  \
            1, 1                                                                                                           \
        }                                                                                                                  \
    }
#define CARRY                                                                                                              \
    {                                                                                                                      \
        {0, 0}, {1, 1}, {                                                                                                  \
            1, 1                                                                                                           \
        }                                                                                                                  \
    }

static void conv(checker *c) {
    static const int64_t channels[][2] = {{1, 1}, {3, 16}, {16, 3}, {20, 33}, {48, 96}};
    for (int i = 0; i < 5; i++) {
        int64_t in = channels[i][0], out = channels[i][1];
        zoe_dtype w = i % 2 ? ZOE_BF16 : ZOE_F32;
        check_conv(c, &(conv_case){.frames = 3,
                                   .height = 6,
                                   .width = 7,
                                   .in = in,
                                   .out = out,
                                   .weight = w,
                                   .bias = true,
                                   .p = {.kernel = {3, 3, 3}, .pad = SAME}});
        check_conv(c, &(conv_case){.frames = 1,
                                   .height = 5,
                                   .width = 33,
                                   .in = in,
                                   .out = out,
                                   .weight = w,
                                   .residual = true,
                                   .history = 2,
                                   .p = {.kernel = {3, 3, 3}, .pad = CARRY}});
        check_conv(c, &(conv_case){.frames = 2,
                                   .height = 4,
                                   .width = 5,
                                   .in = in,
                                   .out = out,
                                   .history = 1,
                                   .weight = w,
                                   .p = {.kernel = {3, 3, 3}, .pad = {{1, 0}, {1, 1}, {1, 1}}},
                                   .residual = true,
                                   .bias = true});
        check_conv(c, &(conv_case){.frames = 2,
                                   .height = 5,
                                   .width = 6,
                                   .in = in,
                                   .out = out,
                                   .weight = w,
                                   .bias = true,
                                   .p = {.kernel = {1, 3, 3}, .pad = CARRY, .upsample = 2}});
        check_conv(c, &(conv_case){.frames = 2,
                                   .height = 9,
                                   .width = 12,
                                   .in = in,
                                   .out = out,
                                   .weight = w,
                                   .bias = true,
                                   .p = {.kernel = {1, 3, 3}, .stride = {1, 2, 2}, .pad = {{0, 0}, {0, 1}, {0, 1}}}});
        check_conv(c, &(conv_case){.frames = 4,
                                   .height = 3,
                                   .width = 4,
                                   .in = in,
                                   .out = out,
                                   .history = 1,
                                   .weight = w,
                                   .p = {.kernel = {3, 1, 1}, .stride = {2, 1, 1}}});
        check_conv(c, &(conv_case){.frames = 2,
                                   .height = 3,
                                   .width = 17,
                                   .in = in,
                                   .out = out,
                                   .weight = w,
                                   .bias = true,
                                   .residual = true,
                                   .p = {.kernel = {1, 1, 1}}});
        check_conv(c, &(conv_case){.frames = 2,
                                   .height = 8,
                                   .width = 4,
                                   .in = in,
                                   .out = out,
                                   .weight = w,
                                   .p = {.kernel = {1, 2, 2}, .stride = {1, 2, 2}}});
    }
    for (int i = 0; i < 5; i++) /* channels in whole vectors */
        check_conv(c, &(conv_case){.frames = 2,
                                   .height = 13,
                                   .width = 22,
                                   .in = (int64_t[]){8, 16, 96, 40, 64}[i],
                                   .out = (int64_t[]){96, 24, 3, 192, 136}[i],
                                   .weight = c->be->dtype,
                                   .history = i % 3,
                                   .bias = i % 2,
                                   .residual = i > 1,
                                   .p = {.kernel = {3, 3, 3},
                                         .stride = {1, 1 + i / 4, 1 + i / 4},
                                         .pad = {{2 - i % 3, 0}, {1, 1}, {1, 1}},
                                         .upsample = 1 + i % 2}});
    for (int i = 0; i < 8; i++) /* channels by thirty-twos, also enlarged, and with edges behind which frames go on */
        check_conv(c, &(conv_case){.frames = 1 + i % 2,
                                   .height = 19,
                                   .width = 11,
                                   .in = (int64_t[]){32, 64, 96, 64, 32, 64, 128, 64}[i],
                                   .out = (int64_t[]){40, 192, 3, 136, 96, 48, 128, 192}[i],
                                   .weight = c->be->dtype,
                                   .history = i < 4 ? 2 : 0,
                                   .bias = i % 2,
                                   .residual = i % 3 > 0,
                                   .p = {.kernel = {i < 4 ? 3 : 1, 3, 3},
                                         .pad = {{0, 0}, {i % 2, 1}, {1, i / 2 % 2}},
                                         .upsample = 1 + i / 4}});
    check_conv(c, &(conv_case){.frames = 5, /* enough to fill a device with larger blocks */
                               .height = 64,
                               .width = 96,
                               .in = 32,
                               .out = 2,
                               .weight = c->be->dtype,
                               .history = 2,
                               .p = {.kernel = {3, 1, 3}, .pad = {{0, 0}, {0, 0}, {1, 1}}}});
    check_conv(c, &(conv_case){.frames = 1,
                               .height = 3,
                               .width = 150,
                               .in = 8,
                               .out = 24,
                               .weight = ZOE_F16,
                               .bias = true,
                               .p = {.kernel = {3, 3, 3}, .pad = SAME}});
    check_conv(c, &(conv_case){.frames = 1,
                               .height = 2,
                               .width = 3,
                               .in = 700,
                               .out = 40,
                               .weight = ZOE_F32,
                               .bias = true,
                               .p = {.kernel = {3, 3, 3}, .pad = SAME}});
    check_conv(c, &(conv_case){.frames = 1,
                               .height = 40,
                               .width = 40,
                               .in = 4,
                               .out = 200,
                               .weight = ZOE_F32,
                               .p = {.kernel = {1, 3, 3}, .pad = CARRY}});
}

/* ---- driving ---- */

static const struct {
    const char *name;
    void (*run)(checker *c);
} operations[] = {
    {"linear", linear},
    {"quantise", check_quantised_matrices},
    {"quantised", check_quantised_products},
    {"norm", norm},
    {"norm_rows", check_quantised_rows},
    {"qk_prepare", qk_prepare},
    {"attention", check_attention},
    {"conv", conv},
    {"group_norm", check_group_norm},
    {"embedding", check_embedding},
    {"copy", check_copy},
    {"zero", check_zero},
    {"activate", check_activate},
    {"scale_shift", check_scale_shift},
    {"lincomb", check_lincomb},
    {"finite", check_finite},
};

static void check_backend(checker *c) {
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        if (c->filter && strcmp(c->filter, operations[i].name)) continue;
        c->op = operations[i].name;
        c->op_cases = 0;
        c->worst = 0;
        int before = c->failures;
        operations[i].run(c);
        c->cases += c->op_cases;
        printf("%-8s %-12s %5d cases, worst error %4.0f %% of its bound%s\n", c->level, c->op, c->op_cases, 100 * c->worst,
               c->failures > before ? "  FAILED" : "");
    }
}

/* Each level that the processor has, from plain C up. */
static const struct {
    const char *name;
    uint32_t mask;
} levels[] = {{"c", 0},
              {"avx2", ZOE_CPU_AVX2},
              {"vnni", ZOE_CPU_AVX2 | ZOE_CPU_VNNI},
              {"avx512", ZOE_CPU_AVX2 | ZOE_CPU_AVX512},
              {"vnni512", ZOE_CPU_AVX2 | ZOE_CPU_AVX512 | ZOE_CPU_VNNI}};

static int open_cpu(const checker *c, uint32_t mask, zoe_context **ctx, zoe_backend **be) {
    zoe_context_settings settings;
    zoe_context_settings_init(&settings);
    settings.cpu_mask = mask;
    settings.threads = c->threads;
    int status = zoe_context_create(&settings, ctx);
    return status ? status : zoe_cpu_backend_create(*ctx, 0, be);
}

static int open_cuda(zoe_dtype dtype, int largest_level, zoe_context **ctx, zoe_backend **be) {
    const zoe_plugin *plugin;
    ZOE_TRY(zoe_context_create(NULL, ctx));
    ZOE_TRY(zoe_plugin_load(*ctx, "cuda", &plugin));
    return plugin->create(*ctx, &(zoe_plugin_settings){.dtype = dtype, .largest_level = largest_level}, be);
}

/* One level of a backend, which is closed behind it. */
static bool run_level(checker *c, int status, zoe_context *ctx, const char *level, bool bench) {
    c->level = level;
    if (status != ZOE_OK)
        fprintf(stderr, "checkkernels: cannot open the backend: %s\n", ctx ? zoe_context_error(ctx) : "out of memory");
    else if (bench)
        bench_backend(c);
    else
        check_backend(c);
    if (status == ZOE_OK) zoe_backend_close(c->be);
    zoe_context_free(ctx);
    return status == ZOE_OK;
}

static bool run_cpu(checker *c, const char *level, bool bench) {
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        zoe_context *ctx = NULL;
        if (levels[i].mask & ~zoe_cpu_levels() || (level && strcmp(level, levels[i].name))) continue;
        if (bench && i == 0 && !level) continue;
        int status = open_cpu(c, levels[i].mask, &ctx, &c->be); /* its own statement: it sets ctx */
        if (!run_level(c, status, ctx, levels[i].name, bench)) return false;
    }
    return true;
}

/* Paths of older devices are taken on newer ones as well, by masking what the device has. */
static bool run_cuda(checker *c, const char *level, bool bench) {
    static const struct {
        const char *name;
        zoe_dtype dtype;
        int largest_level;
    } kinds[] = {{"f32", ZOE_F32, 0}, {"bf16", ZOE_BF16, 0}, {"bf16-89", ZOE_BF16, 89}, {"bf16-80", ZOE_BF16, 80}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        zoe_context *ctx = NULL;
        if (level && strcmp(level, kinds[i].name)) continue;
        int status = open_cuda(kinds[i].dtype, kinds[i].largest_level, &ctx, &c->be);
        if (!run_level(c, status, ctx, kinds[i].name, bench)) return false;
    }
    return true;
}

int main(int argc, char **argv) {
    checker c = {.seed = 1};
    const char *backend = "cpu", *level = NULL;
    bool bench = false;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--bench")) {
            bench = true;
            continue;
        }
        if (!strcmp(argv[i], "--backend"))
            backend = value;
        else if (!strcmp(argv[i], "--level"))
            level = value;
        else if (!strcmp(argv[i], "--op"))
            c.filter = value;
        else if (!strcmp(argv[i], "--seed"))
            c.seed = strtoull(value, NULL, 10);
        else if (!strcmp(argv[i], "--threads"))
            c.threads = atoi(value);
        else
            return fprintf(stderr, "checkkernels: unknown option %s; see the top of tests/checkkernels.c\n", argv[i]), 2;
        i++;
    }
    bool cuda = !strcmp(backend, "cuda");
    if (!cuda && strcmp(backend, "cpu")) return fprintf(stderr, "checkkernels: no backend %s\n", backend), 2;
    if (!(cuda ? run_cuda(&c, level, bench) : run_cpu(&c, level, bench))) return 2;
    if (!bench) printf("%d cases, %d failures\n", c.cases, c.failures);
    return c.failures ? 1 : 0;
}
