/* Attention: exact against the rounding of its sums, quantised against what its operands lose. */
#include <stdio.h>
#include <stdlib.h>

#include "checkkernels.h"

#define ON(o)  ((o) ? &(o)->on : NULL)
#define VAL(o) ((o) ? (o)->values : NULL)

/* Float32 arithmetic on sums of some thousand terms; the plain C adds them one after the other. */
static const double bound = 8e-7;

typedef struct attention_case {
    int64_t heads, queries, keys, depth, width;
    double scale;
    bool bias, masked;
    int64_t repeats;
    int64_t more; /* keys of a second set, whose attention is added */
    layout l;
} attention_case;

/* An operand [tokens, heads * channels] seen as [heads, tokens, channels]. */
static operand *heads_of(operand *o, int64_t heads) {
    o->t = zoe_view_heads(&o->t, heads);
    o->on = zoe_view_heads(&o->on, heads);
    free(o->values);
    o->values = check_values(&o->t);
    return o;
}

static double *doubles(int64_t count) {
    double *p = calloc((size_t)count + 1, sizeof *p);
    if (!p) exit(2);
    return p;
}

/* Adds attention to more keys and values to the expected result. */
static void expect_more(const attention_case *t, const operand *q, const operand *k, const operand *v, double *expected,
                        double *size) {
    int64_t count = t->heads * t->queries * t->width;
    double *more = doubles(count), *more_size = doubles(count);
    ref_run_attention(&(ref_attention){.heads = t->heads,
                                       .queries = t->queries,
                                       .keys = t->more,
                                       .depth = t->depth,
                                       .width = t->width,
                                       .q = q->values,
                                       .k = k->values,
                                       .v = v->values,
                                       .scale = (double)(float)t->scale},
                      more, more_size);
    for (int64_t i = 0; i < count; i++) expected[i] += more[i], size[i] += more_size[i];
    free(more), free(more_size);
}

static void run(checker *c, const attention_case *t) {
    zoe_dtype dtype = c->be->dtype;
    char what[128];
    snprintf(what, sizeof what, "%lld heads, %lld queries, %lld + %lld keys, %lld and %lld channels, scale %g",
             (long long)t->heads, (long long)t->queries, (long long)t->keys, (long long)t->more, (long long)t->depth,
             (long long)t->width, t->scale);
    operand *q = heads_of(INPUT(c, dtype, t->l, FILL_SMALL, t->queries, t->heads * t->depth), t->heads);
    operand *k = heads_of(INPUT(c, dtype, t->l, FILL_SMALL, t->keys, t->heads * t->depth), t->heads);
    operand *v = heads_of(INPUT(c, dtype, t->l, FILL_SMALL, t->keys, t->heads * t->width), t->heads);
    operand *y = heads_of(OUTPUT(c, dtype, t->l, t->queries, t->heads * t->width), t->heads);
    operand *more_k = NULL, *more_v = NULL;
    if (t->more) {
        more_k = heads_of(INPUT(c, dtype, t->l, FILL_SMALL, t->more, t->heads * t->depth), t->heads);
        more_v = heads_of(INPUT(c, dtype, t->l, FILL_SMALL, t->more, t->heads * t->width), t->heads);
    }
    operand *bias = t->bias ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, t->heads, t->queries + t->keys - 1) : NULL;
    if (t->masked) { /* the first keys are as good as absent, for the first queries most of them */
        float *at = bias->t.data;
        for (int64_t i = 0; i < t->keys - 1; i++) at[i + t->queries - 1] = -1e30f;
        check_upload(c, bias);
    }
    int64_t count = t->heads * t->queries * t->width;
    double *expected = doubles(count), *size = doubles(count);
    zoe_attention p = {.scale = (float)t->scale,
                       .relative_bias = ON(bias),
                       .last_key_repeats = t->repeats,
                       .more_k = ON(more_k),
                       .more_v = ON(more_v)};
    ref_run_attention(&(ref_attention){.heads = t->heads,
                                       .queries = t->queries,
                                       .keys = t->keys,
                                       .depth = t->depth,
                                       .width = t->width,
                                       .q = q->values,
                                       .k = k->values,
                                       .v = v->values,
                                       .bias = VAL(bias),
                                       .scale = (double)p.scale,
                                       .last_key_repeats = (double)t->repeats},
                      expected, size);
    if (t->more) expect_more(t, q, more_k, more_v, expected, size);
    check_status(c, zoe_op_attention(c->be, &y->on, &q->on, &k->on, &v->on, &p), what);
    check_result(c, y, expected, size, bound, what);
    free(expected), free(size);
    check_done(c);
}

/* Keys stand around an offset that would eat up all digits of int8, had it not been taken away. */
static void run_quantised(checker *c, int64_t heads, int64_t queries, int64_t keys, int64_t depth, double scale,
                          double value_offset, double most) {
    char what[128];
    snprintf(what, sizeof what, "quantised, %lld heads, %lld queries, %lld keys, %lld channels, scale %g", (long long)heads,
             (long long)queries, (long long)keys, (long long)depth, scale);
    operand *q = INPUT(c, ZOE_BF16, DENSE, FILL_SMALL, queries, heads * depth);
    operand *k = INPUT(c, ZOE_BF16, DENSE, FILL_SMALL, keys, heads * depth);
    operand *v = INPUT(c, ZOE_BF16, DENSE, FILL_SMALL, keys, heads * depth);
    operand *y = heads_of(OUTPUT(c, ZOE_BF16, DENSE, queries, heads * depth), heads);
    operand *again = heads_of(OUTPUT(c, ZOE_BF16, DENSE, queries, heads * depth), heads);
    check_shift(c, k, 30), check_shift(c, v, value_offset);
    heads_of(q, heads), heads_of(k, heads), heads_of(v, heads);
    double *expected = doubles(heads * queries * depth), *size = doubles(heads * queries * depth);
    zoe_attention p = {.scale = (float)scale};
    ref_run_attention(&(ref_attention){.heads = heads,
                                       .queries = queries,
                                       .keys = keys,
                                       .depth = depth,
                                       .width = depth,
                                       .q = q->values,
                                       .k = k->values,
                                       .v = v->values,
                                       .scale = (double)p.scale},
                      expected, size);
    c->be->sage = true;
    check_status(c, zoe_op_attention(c->be, &y->on, &q->on, &k->on, &v->on, &p), what);
    check_status(c, zoe_op_attention(c->be, &again->on, &q->on, &k->on, &v->on, &p), what);
    c->be->sage = false;
    check_same(c, y, again, what);
    check_near(c, y, expected, most, what);
    free(expected), free(size);
    check_done(c);
}

static void quantised(checker *c) {
    run_quantised(c, 3, 150, 1025, 128, 0.3, 0, 0.05);
    run_quantised(c, 2, 333, 1301, 64, 0.3, 0, 0.05);
    run_quantised(c, 1, 193, 2100, 128, 2, 0, 0.05);
    run_quantised(c, 16, 5, 1152, 64, 1, 0, 0.05); /* over many numbers, or chance would be in it */
    /* What the matrix unit drops of long sums in few digits goes one way when all values do. */
    run_quantised(c, 1, 66, 8200, 128, 0.3, 2, 0.01);
    run_quantised(c, 1, 66, 8200, 64, 0.3, 2, 0.01);
}

void check_attention(checker *c) {
    static const int64_t queries[] = {1, 13, 57, 600}, keys[] = {1, 31, 257, 530}, depths[] = {1, 16, 24, 40, 65};
    for (int q = 0; q < 4; q++)
        for (int k = 0; k < 4; k++)
            for (int d = 0; d < 5; d++) {
                int n = q * 20 + k * 5 + d;
                run(c, &(attention_case){.heads = 1 + n % 3,
                                         .queries = queries[q],
                                         .keys = keys[k],
                                         .depth = depths[d],
                                         .width = depths[(d + n % 2) % 5],
                                         .scale = n % 4 ? 0.3 : 40,
                                         .bias = n % 3 == 0,
                                         .l = (layout)(n / 3 % 2),
                                         .repeats = c->be->ops->key_repeats && n % 5 == 0 ? 7 : 0});
            }
    run(c, &(attention_case){.heads = 2,
                             .queries = 30,
                             .keys = 300,
                             .depth = 16,
                             .width = 16,
                             .scale = 1,
                             .bias = true,
                             .masked = true});
    run(c, &(attention_case){.heads = 1, .queries = 70, .keys = 90, .depth = 384, .width = 384, .scale = 0.05});
    run(c, &(attention_case){.heads = 1, .queries = 20, .keys = 70, .depth = 1024, .width = 1024, .scale = 0.03});
    run(c, &(attention_case){.heads = 2, .queries = 70, .keys = 300, .depth = 64, .width = 64, .scale = 1e4});
    for (int i = 0; i < 6; i++) /* as real networks have them: few keys, of which the last is repeated, and many */
        run(c, &(attention_case){.heads = 3,
                                 .queries = 150,
                                 .keys = (int64_t[]){1, 31, 64, 300, 1300, 2048}[i],
                                 .depth = i == 3 ? 64 : 128,
                                 .width = i == 3 ? 64 : 128,
                                 .scale = 0.3,
                                 .repeats = c->be->ops->key_repeats && i < 4 ? 480 : 0});
    for (int i = 0; i < 3; i++)
        run(c, &(attention_case){.heads = 2,
                                 .queries = (int64_t[]){140, 385, 192}[i],
                                 .keys = (int64_t[]){1025, 1280, 1500}[i],
                                 .depth = 64,
                                 .width = 64,
                                 .scale = i == 2 ? 4 : 0.3});
    /* A text and a picture: both kept close to the processors, one of them, none; other heads; none repeated. */
    static const int64_t texts[] = {41, 130, 400, 41, 7, 513}, pictures[] = {257, 257, 257, 700, 49, 1};
    for (int i = 0; i < 12; i++)
        run(c, &(attention_case){.heads = 3,
                                 .queries = i % 2 ? 150 : 64,
                                 .keys = texts[i % 6],
                                 .more = pictures[i % 6],
                                 .depth = i < 6   ? 128
                                          : i < 9 ? 64
                                                  : 40,
                                 .width = i < 6   ? 128
                                          : i < 9 ? 64
                                                  : 40,
                                 .scale = 0.3,
                                 .repeats = c->be->ops->key_repeats && i % 3 < 2 ? 470 : 0,
                                 .l = (layout)(i / 3 % 2)});
    if (c->be->ops->sage && c->be->dtype == ZOE_BF16) quantised(c);
}
