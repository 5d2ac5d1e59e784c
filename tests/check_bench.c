/*
 * checkkernels --bench: how fast the operations are. Products stand beside OpenBLAS' sgemm of the same shape, measured in
 * turns in the same run. Rates are those of the best round; ratios are taken within each round, and their median counts, as
 * the machine's speed may drift from round to round.
 */
#include "backend/quantised.h"
#include "checkkernels.h"

#include <cblas.h>
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 7

/* The rounds of one thing: operations (or bytes) of a round and its seconds. */
typedef struct series {
    const char *name;
    double work, seconds[ROUNDS];
} series;

/* With one thread its own time, which a busy machine disturbs little. */
static double seconds(const checker *c) {
    struct timespec now;
    clock_gettime(c->threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#define TIME(c, times, round, call)                                                                                        \
    do {                                                                                                                   \
        double start_ = seconds(c);                                                                                        \
        check_status(c, call, "bench");                                                                                    \
        (times)->seconds[round] = seconds(c) - start_;                                                                     \
    } while (0)

/* GFLOP/s or GB/s of the best round. */
static double best_rate(const series *s) {
    double best = s->seconds[0];
    for (int i = 1; i < ROUNDS; i++)
        if (s->seconds[i] < best) best = s->seconds[i];
    return s->work / best * 1e-9;
}

static int ascending(const void *a, const void *b) {
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Median over the rounds of the rate of `s` by that of `base`. */
static double median_ratio(const series *s, const series *base) {
    double ratios[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) ratios[i] = s->work / s->seconds[i] / (base->work / base->seconds[i]);
    qsort(ratios, ROUNDS, sizeof *ratios, ascending);
    return ratios[ROUNDS / 2];
}

/* One line: the first series is the yardstick. */
static void report(const checker *c, int count, const series *s, const char *format, ...) {
    char what[128];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    printf("%-7s %-58s %s %6.1f", c->level, what, s->name, best_rate(s));
    for (int i = 1; i < count; i++) printf("; %s %6.1f (%.2f)", s[i].name, best_rate(s + i), median_ratio(s + i, s));
    printf("\n");
}

/* sgemm of a shape. */
typedef struct yardstick {
    operand *a, *b, *c;
    int64_t m, n, k;
} yardstick;

static yardstick yardstick_of(checker *c, int64_t m, int64_t n, int64_t k, series *s) {
    s->name = "sgemm";
    s->work = 2 * (double)m * (double)n * (double)k;
    return (yardstick){INPUT(c, ZOE_F32, DENSE, FILL_SMALL, m, k),
                       INPUT(c, ZOE_F32, DENSE, FILL_SMALL, n, k),
                       OUTPUT(c, ZOE_F32, DENSE, m, n),
                       m,
                       n,
                       k};
}

static int sgemm(const yardstick *y) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)y->m, (blasint)y->n, (blasint)y->k, 1, y->a->t.data,
                (blasint)y->k, y->b->t.data, (blasint)y->k, 0, y->c->t.data, (blasint)y->n);
    return ZOE_OK;
}

static bool wanted(const checker *c, const char *op) {
    return !c->filter || !strcmp(c->filter, op);
}

static void linear(checker *c, int64_t m, int64_t n, int64_t k) {
    double work = 2 * (double)m * (double)n * (double)k;
    series s[] = {{0}, {.name = "f32", .work = work}, {.name = "bf16", .work = work}, {.name = "f16", .work = work}};
    operand *x = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, m, k), *w = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, n, k);
    operand *bf16 = INPUT(c, ZOE_BF16, DENSE, FILL_SMALL, n, k), *f16 = INPUT(c, ZOE_F16, DENSE, FILL_SMALL, n, k);
    operand *y = OUTPUT(c, ZOE_F32, DENSE, m, n);
    yardstick stick = yardstick_of(c, m, n, k, s);
    for (int i = 0; i < ROUNDS; i++) {
        TIME(c, s, i, sgemm(&stick));
        TIME(c, s + 1, i, zoe_op_linear(c->be, &y->on, &x->on, &w->on, NULL));
        TIME(c, s + 2, i, zoe_op_linear(c->be, &y->on, &x->on, &bf16->on, NULL));
        TIME(c, s + 3, i, zoe_op_linear(c->be, &y->on, &x->on, &f16->on, NULL));
    }
    report(c, 4, s, "linear %lld x %lld x %lld", (long long)m, (long long)k, (long long)n);
    check_done(c);
}

/* The matrix in a quantised form, of the same numbers; freed by zoe_backend_free(t.data). */
static zoe_tensor quantised(checker *c, const operand *w, zoe_dtype form) {
    void *memory = NULL;
    int64_t n = w->t.shape[0], k = w->t.shape[1];
    check_status(c, c->be->ops->alloc(c->be, (size_t)zoe_quantised_bytes(form, n, k, 0), &memory), "alloc");
    zoe_tensor q = zoe_quantised_of(memory, form, n, k, 0);
    check_status(c, zoe_op_quantise(c->be, &q, &w->on), "quantise");
    return q;
}

/* Against the product of floats of the same shape. */
static void quantised_linear(checker *c, int64_t m, int64_t n, int64_t k) {
    static const zoe_dtype forms[] = {ZOE_I8, ZOE_F8_E4M3, ZOE_I4, ZOE_F4_E2M1};
    double work = 2 * (double)m * (double)n * (double)k;
    series s[] = {{.name = "f32", .work = work},   {.name = "int8", .work = work},
                  {.name = "fp8", .work = work},   {.name = "int4", .work = work},
                  {.name = "nvfp4", .work = work}, {.name = "quantise GB/s of f32:", .work = 4 * (double)n * (double)k}};
    operand *x = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, m, k), *w = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, n, k);
    operand *y = OUTPUT(c, ZOE_F32, DENSE, m, n);
    zoe_tensor q[4];
    for (int f = 0; f < 4; f++) q[f] = quantised(c, w, forms[f]);
    for (int i = 0; i < ROUNDS; i++) {
        TIME(c, s, i, zoe_op_linear(c->be, &y->on, &x->on, &w->on, NULL));
        for (int f = 0; f < 4; f++) TIME(c, s + 1 + f, i, zoe_op_linear(c->be, &y->on, &x->on, &q[f], NULL));
        TIME(c, s + 5, i, zoe_op_quantise(c->be, &q[0], &w->on));
    }
    report(c, 6, s, "quantised %lld x %lld x %lld", (long long)m, (long long)k, (long long)n);
    for (int f = 0; f < 4; f++) zoe_backend_free(c->be, q[f].data);
    check_done(c);
}

static void attention(checker *c, int64_t heads, int64_t tokens, int64_t keys, int64_t depth) {
    operand *q = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, tokens, heads * depth);
    operand *k = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, keys, heads * depth);
    operand *v = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, keys, heads * depth);
    operand *y = OUTPUT(c, ZOE_F32, DENSE, tokens, heads * depth);
    zoe_tensor to = zoe_view_heads(&y->on, heads), qh = zoe_view_heads(&q->on, heads), kh = zoe_view_heads(&k->on, heads),
               vh = zoe_view_heads(&v->on, heads);
    series s[] = {{0}, {.name = "f32", .work = 4 * (double)heads * (double)tokens * (double)keys * (double)depth}};
    yardstick stick = yardstick_of(c, 768, 8960, 1536, s);
    for (int i = 0; i < ROUNDS; i++) {
        TIME(c, s, i, sgemm(&stick));
        TIME(c, s + 1, i, zoe_op_attention(c->be, &to, &qh, &kh, &vh, &(zoe_attention){.scale = 0.0884f}));
    }
    report(c, 2, s, "attention %lld x %lld, %lld queries, %lld keys", (long long)heads, (long long)depth, (long long)tokens,
           (long long)keys);
    check_done(c);
}

static void conv(checker *c, int64_t frames, int64_t height, int64_t width, int64_t in, int64_t out, int up) {
    operand *x = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, frames, height, width, in);
    operand *w = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, out, up == 2 ? 1 : 3, 3, 3, in);
    operand *y = OUTPUT(c, ZOE_F32, DENSE, frames, height * up, width * up, out);
    zoe_conv p = {.kernel = {up == 2 ? 1 : 3, 3, 3},
                  .stride = {1, 1, 1},
                  .pad = {{up == 2 ? 0 : 2, 0}, {1, 1}, {1, 1}},
                  .upsample = up};
    series s[] = {{0}, {.name = "f32", .work = 2 * (double)zoe_tensor_count(&y->t) * (double)(p.kernel[0] * 9 * in)}};
    yardstick stick = yardstick_of(c, 768, 8960, 1536, s);
    for (int i = 0; i < ROUNDS; i++) {
        TIME(c, s, i, sgemm(&stick));
        TIME(c, s + 1, i, zoe_op_conv(c->be, &y->on, &x->on, &w->on, &p));
    }
    report(c, 2, s, "conv %d %d %d on %lldx%lldx%lld, %lld to %lld%s", p.kernel[0], p.kernel[1], p.kernel[2],
           (long long)frames, (long long)height, (long long)width, (long long)in, (long long)out,
           up == 2 ? ", upsampled" : "");
    check_done(c);
}

/* ---- a denoiser's block as a whole ---- */

typedef struct block {
    zoe_tensor q, k, v, mixed, hidden, normed, text_k, text_v;
    const zoe_tensor *channel, *inner, *cos, *square, *up, *down;
} block;

static zoe_tensor heads(const zoe_tensor *t) {
    return zoe_view_heads(t, 12);
}

static int attend(zoe_backend *be, const block *b, const zoe_tensor *k, const zoe_tensor *v) {
    zoe_tensor y = heads(&b->mixed), q = heads(&b->q), kh = heads(k), vh = heads(v);
    return zoe_op_attention(be, &y, &q, &kh, &vh, &(zoe_attention){.scale = 0.0884f});
}

/* Self-attention, attention to a text, feed-forward: shapes and fusions of Wan 2.1 1.3B. x [tokens, 1536] */
static int run_block(zoe_backend *be, zoe_tensor *x, const zoe_tensor *text, block *b) {
    zoe_norm modulated = {.eps = 1e-6f, .scale = b->channel, .shift = b->channel}, plain = {.eps = 1e-6f};
    zoe_linear biased = {.bias = b->channel}, inner = {.bias = b->inner, .act = ZOE_ACT_GELU_TANH};
    zoe_linear gated = {.bias = b->channel, .gate = b->channel, .residual = x}, added = {.bias = b->channel, .residual = x};
    zoe_qk rotated =
        {.heads = 12, .normalise = true, .kind = ZOE_NORM_RMS, .weight = b->channel, .cos = b->cos, .sin = b->cos};
    zoe_qk unrotated = {.heads = 12, .normalise = true, .kind = ZOE_NORM_RMS, .weight = b->channel};
    ZOE_TRY(zoe_op_norm(be, &b->normed, x, &modulated));
    ZOE_TRY(zoe_op_linear(be, &b->q, &b->normed, b->square, &biased));
    ZOE_TRY(zoe_op_linear(be, &b->k, &b->normed, b->square, &biased));
    ZOE_TRY(zoe_op_linear(be, &b->v, &b->normed, b->square, &biased));
    ZOE_TRY(zoe_op_qk_prepare(be, &b->q, &b->q, &rotated));
    ZOE_TRY(zoe_op_qk_prepare(be, &b->k, &b->k, &rotated));
    ZOE_TRY(attend(be, b, &b->k, &b->v));
    ZOE_TRY(zoe_op_linear(be, x, &b->mixed, b->square, &gated));
    ZOE_TRY(zoe_op_norm(be, &b->normed, x, &plain));
    ZOE_TRY(zoe_op_linear(be, &b->q, &b->normed, b->square, &biased));
    ZOE_TRY(zoe_op_linear(be, &b->text_k, text, b->square, &biased));
    ZOE_TRY(zoe_op_linear(be, &b->text_v, text, b->square, &biased));
    ZOE_TRY(zoe_op_qk_prepare(be, &b->q, &b->q, &unrotated));
    ZOE_TRY(zoe_op_qk_prepare(be, &b->text_k, &b->text_k, &unrotated));
    ZOE_TRY(attend(be, b, &b->text_k, &b->text_v));
    ZOE_TRY(zoe_op_linear(be, x, &b->mixed, b->square, &added));
    ZOE_TRY(zoe_op_norm(be, &b->normed, x, &modulated));
    ZOE_TRY(zoe_op_linear(be, &b->hidden, &b->normed, b->up, &inner));
    return zoe_op_linear(be, x, &b->hidden, b->down, &gated);
}

static void denoiser_block(checker *c, int64_t tokens) {
    zoe_backend *be = c->be;
    block b = {.channel = &INPUT(c, ZOE_F32, DENSE, FILL_SMALL, 1536)->on,
               .inner = &INPUT(c, ZOE_F32, DENSE, FILL_SMALL, 8960)->on,
               .cos = &INPUT(c, ZOE_F32, DENSE, FILL_SMALL, tokens, 64)->on,
               .square = &INPUT(c, ZOE_BF16, DENSE, FILL_SMALL, 1536, 1536)->on,
               .up = &INPUT(c, ZOE_BF16, DENSE, FILL_SMALL, 8960, 1536)->on,
               .down = &INPUT(c, ZOE_BF16, DENSE, FILL_SMALL, 1536, 8960)->on};
    zoe_tensor *activations[] = {&b.q, &b.k, &b.v, &b.mixed, &b.normed};
    size_t mark = zoe_arena_mark(be);
    for (int i = 0; i < 5; i++) check_status(c, ZOE_NEW(be, activations[i], ZOE_F32, tokens, 1536), "bench");
    check_status(c, ZOE_NEW(be, &b.hidden, ZOE_F32, tokens, 8960), "bench");
    check_status(c, ZOE_NEW(be, &b.text_k, ZOE_F32, 512, 1536), "bench");
    check_status(c, ZOE_NEW(be, &b.text_v, ZOE_F32, 512, 1536), "bench");
    operand *x = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, tokens, 1536),
            *text = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, 512, 1536);
    series s[] = {{0}, {.name = "bf16"}};
    yardstick stick = yardstick_of(c, 768, 8960, 1536, s);
    for (int i = 0; i < ROUNDS; i++) {
        zoe_work before = be->work;
        TIME(c, s, i, sgemm(&stick));
        TIME(c, s + 1, i, run_block(be, &x->on, &text->on, &b));
        s[1].work = be->work.linear_flops - before.linear_flops + be->work.attention_flops - before.attention_flops;
    }
    report(c, 2, s, "block of Wan 2.1 1.3B, %lld tokens", (long long)tokens);
    zoe_arena_release(be, mark);
    check_done(c);
}

/* ---- memory ---- */

/* Operations that move memory, on activations of 3072 tokens of 1536 channels; memcpy of as many bytes beside them. */
static void rows(checker *c) {
    const int64_t n = 3072, width = 1536;
    operand *x = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, n, width), *z = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, n, width);
    operand *y = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, n, width), *half = INPUT(c, ZOE_BF16, DENSE, FILL_SMALL, n, width);
    operand *cosine = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, n, 64), *channel = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, width);
    double bytes = (double)zoe_tensor_bytes(&x->t);
    series s[] = {{"copy", 2 * bytes, {0}},
                  {"layer norm, modulated", 2 * bytes, {0}},
                  {"rms norm and rotation", 2 * bytes, {0}},
                  {"silu", 2 * bytes, {0}},
                  {"gelu (tanh)", 2 * bytes, {0}},
                  {"gelu (erf)", 2 * bytes, {0}},
                  {"lincomb of 2", 3 * bytes, {0}},
                  {"scale_shift", 2 * bytes, {0}},
                  {"copy to bf16", 1.5 * bytes, {0}},
                  {"finite", bytes, {0}}};
    const zoe_tensor *two[] = {&x->on, &z->on}, *ch = &channel->on;
    bool finite;
    for (int i = 0; i < ROUNDS; i++) {
        TIME(c, s + 0, i, zoe_op_copy(c->be, &y->on, &x->on));
        TIME(c, s + 1, i, zoe_op_norm(c->be, &y->on, &x->on, &(zoe_norm){.eps = 1e-6f, .scale = ch, .shift = ch}));
        zoe_qk qk =
            {.heads = 12, .normalise = true, .kind = ZOE_NORM_RMS, .weight = ch, .cos = &cosine->on, .sin = &cosine->on};
        TIME(c, s + 2, i, zoe_op_qk_prepare(c->be, &y->on, &x->on, &qk));
        TIME(c, s + 3, i, zoe_op_activate(c->be, &y->on, &x->on, NULL, ZOE_ACT_SILU));
        TIME(c, s + 4, i, zoe_op_activate(c->be, &y->on, &x->on, NULL, ZOE_ACT_GELU_TANH));
        TIME(c, s + 5, i, zoe_op_activate(c->be, &y->on, &x->on, NULL, ZOE_ACT_GELU_ERF));
        TIME(c, s + 6, i, zoe_op_lincomb(c->be, &y->on, 2, two, (const float[]){0.5f, 2}));
        TIME(c, s + 7, i, zoe_op_scale_shift(c->be, &y->on, &x->on, ch, ch));
        TIME(c, s + 8, i, zoe_op_copy(c->be, &half->on, &x->on));
        TIME(c, s + 9, i, zoe_op_finite(c->be, &x->on, &finite));
    }
    for (int i = 1; i < 10; i++) report(c, 2, (const series[]){s[0], s[i]}, "rows, GB/s");
    check_done(c);
}

void bench_backend(checker *c) {
    c->op = "bench";
    if (c->threads > 0) omp_set_num_threads(c->threads); /* OpenBLAS asks for no number of its own */
    if (wanted(c, "linear")) {
        linear(c, 768, 8960, 1536);
        linear(c, 768, 1536, 8960);
        linear(c, 768, 1536, 1536);
        linear(c, 3072, 1536, 1536);
        for (int64_t m = 1; m <= 64; m *= 4) linear(c, m, 8960, 1536);
    }
    if (wanted(c, "quantised")) {
        quantised_linear(c, 768, 8960, 1536);
        quantised_linear(c, 768, 1536, 8960);
        quantised_linear(c, 3072, 1536, 1536);
        quantised_linear(c, 16, 8960, 1536);
    }
    if (wanted(c, "attention")) {
        attention(c, 12, 3072, 3072, 128);
        attention(c, 12, 3072, 512, 128);
        attention(c, 4, 1024, 1024, 32);
        attention(c, 1, 1560, 1560, 384);
    }
    if (wanted(c, "block")) {
        denoiser_block(c, 768);
        denoiser_block(c, 3072);
    }
    if (wanted(c, "conv")) {
        conv(c, 1, 60, 104, 384, 384, 1);
        conv(c, 2, 120, 208, 192, 192, 1);
        conv(c, 2, 240, 416, 96, 96, 1);
        conv(c, 2, 60, 104, 384, 192, 2);
        conv(c, 2, 240, 416, 96, 3, 1);
        conv(c, 4, 64, 64, 32, 32, 1);
        conv(c, 4, 128, 128, 16, 16, 1);
    }
    if (wanted(c, "rows")) rows(c);
}
