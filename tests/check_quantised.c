/*
 * Quantised matrices and products with them. What a matrix becomes is compared bit by bit with the definition in
 * backend/quantised.h; products are compared with float64 on exactly the numbers that the codes stand for.
 */
#include "backend/quantised.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkkernels.h"

typedef struct form {
    zoe_dtype dtype;
    int group;
    const char *name;
} form;

static const form forms[] = {{ZOE_I8, 0, "int8"},        {ZOE_F8_E4M3, 0, "fp8"},      {ZOE_I4, 32, "int4 by 32"},
                             {ZOE_I4, 64, "int4 by 64"}, {ZOE_I4, 128, "int4 by 128"}, {ZOE_F4_E2M1, 16, "nvfp4"}};
#define FORMS ((int)(sizeof forms / sizeof *forms))

static void *must(void *ptr) {
    if (!ptr) exit(2);
    return ptr;
}

/* ---- the definition ---- */

/* The nearest number with `bits` bits behind the leading one and no steps finer than those from 2^least on. */
static float nearest(float x, int bits, int least) {
    int exponent;
    frexpf(x, &exponent);
    exponent = x == 0 || exponent - 1 < least ? least : exponent - 1;
    float step = ldexpf(1, exponent - bits);
    return rintf(x / step) * step;
}

static float e4m3(float x) {
    return nearest(fmaxf(-448, fminf(448, x)), 3, -6);
}

static uint8_t e4m3_code(float x) {
    int exponent;
    float a = fabsf(x), mantissa = frexpf(a, &exponent);
    int code = a < 0x1p-6f ? (int)(a * 512) : (exponent + 6) << 3 | ((int)(mantissa * 16) & 7);
    return (uint8_t)(code | (signbit(x) ? 0x80 : 0));
}

static uint8_t e2m1_code(float x) {
    static const float values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    int code = 0;
    while (values[code] != fabsf(x)) code++;
    return (uint8_t)(code | (signbit(x) ? 8 : 0));
}

/* A quantised matrix on the host, and the numbers that its codes stand for. */
typedef struct reference {
    zoe_tensor t; /* over `memory` */
    char *memory;
    size_t bytes;
    double *values;
} reference;

static float largest(const double *x, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(x[i]));
    return (float)most;
}

static void put_four_bits(const reference *r, int64_t i, int code) {
    uint8_t *byte = (uint8_t *)r->t.data + i / 2;
    *byte = (uint8_t)(i % 2 ? (*byte & 15) | (code & 15) << 4 : (*byte & 240) | (code & 15));
}

static float divided(double x, float scale) {
    return scale == 0 ? 0 : (float)x / scale;
}

static void quantise_one(const reference *r, int64_t i, double x, float scale) {
    float code, value = divided(x, scale);
    switch (r->t.dtype) {
    case ZOE_I8:
        code = rintf(fmaxf(-127, fminf(127, value)));
        ((int8_t *)r->t.data)[i] = (int8_t)code;
        break;
    case ZOE_F8_E4M3:
        code = e4m3(value);
        ((uint8_t *)r->t.data)[i] = e4m3_code(code);
        break;
    case ZOE_I4:
        code = rintf(fmaxf(-7, fminf(7, value)));
        put_four_bits(r, i, (int)code);
        break;
    default:
        code = nearest(fmaxf(-6, fminf(6, value)), 1, 0);
        put_four_bits(r, i, e2m1_code(code));
        break;
    }
    r->values[i] = (double)code * (double)scale;
}

/* The scale of group number `group` of x, which is written down as well. */
static float write_scale(const reference *r, const double *x, int64_t group, int64_t n, float global) {
    float most = largest(x + group * n, n), scale;
    if (r->t.dtype == ZOE_I4) {
        uint16_t half = zoe_f32_to_f16(most / 7);
        ((uint16_t *)r->t.scales)[group] = half;
        return zoe_f16_to_f32(half);
    }
    if (r->t.dtype == ZOE_F4_E2M1) {
        float value = e4m3(divided((double)most, 6 * global));
        ((uint8_t *)r->t.scales)[group] = e4m3_code(value);
        return value * global;
    }
    scale = most / (r->t.dtype == ZOE_I8 ? 127.0f : 448.0f);
    ((float *)r->t.scales)[group] = scale;
    return scale;
}

/* One for nearly all matrices, else the least power of two under which the largest number has a scale. */
static float global_scale(float most) {
    float global = 0x1p-126f;
    if (most == 0 || (most >= 0x1p-7f && most <= 5.25f)) return 0x1p-9f;
    while (most > 448 * 6 * global) global *= 2;
    return global;
}

static reference quantised(const form *f, int64_t rows, int64_t width, const double *x) {
    reference r = {.bytes = (size_t)zoe_quantised_bytes(f->dtype, rows, width, f->group)};
    int64_t count = rows * width, n = f->group ? f->group : width;
    r.memory = must(calloc(1, r.bytes));
    r.values = must(calloc((size_t)count, sizeof *r.values));
    r.t = zoe_quantised_of(r.memory, f->dtype, rows, width, f->group);
    float global = global_scale(largest(x, count));
    if (f->dtype == ZOE_F4_E2M1) memcpy(r.memory + r.bytes - 4, &global, 4);
    for (int64_t group = 0; group < count / n; group++) {
        float scale = write_scale(&r, x, group, n, global);
        for (int64_t i = group * n; i < (group + 1) * n; i++) quantise_one(&r, i, x[i], scale);
    }
    return r;
}

static void free_reference(reference *r) {
    free(r->memory);
    free(r->values);
}

/* ---- on the backend ---- */

/* Memory for such a matrix, zeroed; freed by zoe_backend_free(t.data). */
static zoe_tensor on_backend(checker *c, const form *f, int64_t rows, int64_t width, const void *bytes) {
    size_t size = (size_t)zoe_quantised_bytes(f->dtype, rows, width, f->group);
    void *memory = NULL, *zeros = must(calloc(1, size));
    check_status(c, c->be->ops->alloc(c->be, size, &memory), "alloc");
    if (!memory) exit(2);
    check_status(c, c->be->ops->upload(c->be, memory, bytes ? bytes : zeros, size), "upload");
    free(zeros);
    return zoe_quantised_of(memory, f->dtype, rows, width, f->group);
}

static char *fetched(checker *c, const form *f, const zoe_tensor *t) {
    size_t size = (size_t)zoe_quantised_bytes(f->dtype, t->shape[0], t->shape[1], f->group);
    char *bytes = must(malloc(size));
    check_status(c, c->be->ops->download(c->be, bytes, t->data, size), "download");
    return bytes;
}

static void compare_quantised(checker *c, const form *f, operand *x, const char *what) {
    int64_t rows = x->t.shape[0], width = x->t.shape[1];
    reference expected = quantised(f, rows, width, x->values);
    zoe_tensor y = on_backend(c, f, rows, width, NULL);
    check_status(c, zoe_op_quantise(c->be, &y, &x->on), what);
    char *got = fetched(c, f, &y);
    for (size_t i = 0; i < expected.bytes; i++)
        if (got[i] != expected.memory[i]) {
            check_fail(c, what, "byte %zu of %zu is %02x, expected %02x", i, expected.bytes, got[i] & 0xff,
                       expected.memory[i] & 0xff);
            break;
        }
    c->op_cases++;
    free(got);
    zoe_backend_free(c->be, y.data);
    free_reference(&expected);
    check_done(c);
}

static void check_quantise(checker *c, const form *f, zoe_dtype from, fill how, int64_t rows, int64_t width) {
    char what[96];
    snprintf(what, sizeof what, "%s from %s, %lld x %lld, fill %d", f->name, zoe_dtype_name(from), (long long)rows,
             (long long)width, (int)how);
    operand *x = INPUT(c, from, DENSE, how, rows, width);
    if (rows > 2) { /* a row of zeros */
        memset((char *)x->t.data + (size_t)width * zoe_dtype_size(from), 0, (size_t)width * zoe_dtype_size(from));
        check_upload(c, x);
    }
    compare_quantised(c, f, x, what);
}

/*
 * All mantissas of bf16 under all scales that they make: quotients that lie in the middle of two codes are among them. The
 * largest exponent is `top`: nvfp4 has other scales for all of a matrix of larger or smaller numbers.
 */
static void check_mantissas(checker *c, const form *f, int top) {
    enum { MANTISSAS = 128, EXPONENTS = 16 };
    operand *x = INPUT(c, ZOE_BF16, DENSE, FILL_SMALL, MANTISSAS, MANTISSAS * EXPONENTS);
    uint16_t *bits = x->t.data;
    for (int row = 0; row < MANTISSAS; row++)
        for (int i = 0; i < MANTISSAS * EXPONENTS; i++) {
            int mantissa = i % MANTISSAS, exponent = top - i / MANTISSAS - (mantissa > row), sign = mantissa * 7 % 3 == 1;
            *bits++ = (uint16_t)(sign << 15 | exponent << 7 | mantissa);
        }
    check_upload(c, x);
    compare_quantised(c, f, x, f->name);
}

void check_quantised_matrices(checker *c) {
    static const int64_t widths[] = {128, 256, 1200, 1536, 2144, 5120, 13824, 16384};
    static const zoe_dtype types[] = {ZOE_F32, ZOE_BF16, ZOE_F16};
    if (!c->be->ops->quantise) return;
    for (int f = 0; f < FORMS; f++)
        for (int top = 118; top <= 136; top += 9)
            if (top == 127 || forms[f].dtype == ZOE_F4_E2M1) check_mantissas(c, &forms[f], top);
    for (int f = 0; f < FORMS; f++)
        for (int w = 0; w < 8; w++)
            for (int t = 0; t < 3; t++) {
                if (forms[f].group && widths[w] % forms[f].group) continue;
                check_quantise(c, &forms[f], types[t], FILL_SMALL, w < 2 ? 37 : 5, widths[w]);
                if (types[t] != ZOE_F16 && w == 1) check_quantise(c, &forms[f], types[t], FILL_WIDE, 16, widths[w]);
            }
}

/* ---- products ---- */

typedef struct product_case {
    int64_t rows, in, out;
    zoe_act act;
    bool bias, gate, grouped, residual;
    bool narrow_x, narrow_y; /* rows quantised before, and written quantised */
    layout l;
} product_case;

static double *doubles(int64_t count) {
    return must(calloc((size_t)count + 1, sizeof(double)));
}

/* The number that code number i of rows of int8 or fp8 stands for. */
static double row_value(const zoe_tensor *t, int64_t i) {
    double scale = (double)((float *)t->scales)[i / t->shape[1]];
    if (t->dtype == ZOE_I8) return ((int8_t *)t->data)[i] * scale;
    int code = ((uint8_t *)t->data)[i], e = code >> 3 & 15, m = code & 7;
    return (e ? ldexp(8 + m, e - 10) : ldexp(m, -9)) * (code & 0x80 ? -scale : scale);
}

/* Quantised rows against float64: each within half a step of its value, and what the sums before may round off. */
static void check_rows(checker *c, const form *f, const zoe_tensor *y, const double *expected, const double *size,
                       double bound, const char *what) {
    char *bytes = fetched(c, f, y);
    int64_t width = y->shape[1], bad = 0;
    zoe_tensor t = zoe_quantised_of(bytes, f->dtype, y->shape[0], width, 0);
    for (int64_t row = 0; row < y->shape[0] && !bad; row++) {
        double top = 0, room = 0, limit = f->dtype == ZOE_I8 ? 127 : 448, scale = (double)((float *)t.scales)[row];
        for (int64_t i = row * width; i < (row + 1) * width; i++)
            top = fmax(top, fabs(expected[i])), room = fmax(room, size[i]);
        if (fabs(scale - top / limit) > bound * room / limit + 1e-6 * top / limit)
            check_fail(c, what, "row %lld has scale %g, expected %g", (long long)row, scale, top / limit), bad++;
        for (int64_t i = row * width; i < (row + 1) * width && !bad; i++) {
            double step = f->dtype == ZOE_I8 ? top / limit / 2 : fmax(fabs(expected[i]) / 16, top / limit / 1024);
            double allowed = 1.02 * step + 1.1 * bound * (size[i] + room / 16),
                   error = fabs(row_value(&t, i) - expected[i]);
            c->worst = fmax(c->worst, error / allowed);
            if (error <= allowed) continue;
            check_fail(c, what, "element %lld is %g, expected %g within %g", (long long)i, row_value(&t, i), expected[i],
                       allowed);
            bad++;
        }
    }
    c->op_cases++;
    free(bytes);
}

static void check_product(checker *c, const form *f, const product_case *t) {
    zoe_dtype dtype = c->be->dtype;
    bool rows_too = f->group == 0;
    char what[96];
    snprintf(what, sizeof what, "%s, %lld x %lld x %lld, act %d%s%s", f->name, (long long)t->rows, (long long)t->in,
             (long long)t->out, (int)t->act, t->narrow_x ? ", rows given" : "", t->narrow_y ? ", rows written" : "");
    operand *x = INPUT(c, dtype, t->narrow_x ? DENSE : t->l, FILL_SMALL, t->rows, t->in);
    operand *drawn = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, t->out, t->in);
    operand *bias = t->bias ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, t->out) : NULL;
    operand *gate = t->gate ? INPUT(c, ZOE_F32, t->l, FILL_SMALL, 3, t->out) : NULL;
    operand *group = t->grouped ? check_ids(c, t->rows, 3) : NULL;
    operand *y = t->residual ? INPUT(c, dtype, t->l, FILL_SMALL, t->rows, t->out) : OUTPUT(c, dtype, t->l, t->rows, t->out);
    reference w = quantised(f, t->out, t->in, drawn->values), rows = {0};
    zoe_tensor w_on = on_backend(c, f, t->out, t->in, w.memory), x_on = x->on, y_on = y->on;
    if (rows_too) rows = quantised(f, t->rows, t->in, x->values);
    if (t->narrow_x) x_on = on_backend(c, f, t->rows, t->in, rows.memory);
    if (t->narrow_y) y_on = on_backend(c, f, t->rows, t->out, NULL);
    zoe_linear p = {.bias = bias ? &bias->on : NULL,
                    .act = t->act,
                    .gate = gate ? &gate->on : NULL,
                    .row_group = group ? &group->on : NULL,
                    .residual = t->residual ? &y->on : NULL};
    double *expected = doubles(t->rows * t->out), *size = doubles(t->rows * t->out);
    ref_run_linear(&(ref_linear){.rows = t->rows,
                                 .in = t->in,
                                 .out = t->out,
                                 .x = rows_too ? rows.values : x->values,
                                 .w = w.values,
                                 .bias = bias ? bias->values : NULL,
                                 .gate = gate ? gate->values : NULL,
                                 .residual = t->residual ? y->values : NULL,
                                 .group = group ? (const int32_t *)group->t.data : NULL,
                                 .act = t->act},
                   expected, size);
    check_status(c, zoe_op_linear(c->be, &y_on, &x_on, &w_on, &p), what);
    if (t->narrow_y)
        check_rows(c, f, &y_on, expected, size, dtype == ZOE_BF16 ? 0x1p-8 : 1e-6, what);
    else
        check_result(c, y, expected, size, 1e-6, what);
    if (t->narrow_x) zoe_backend_free(c->be, x_on.data);
    if (t->narrow_y) zoe_backend_free(c->be, y_on.data);
    zoe_backend_free(c->be, w_on.data);
    free(expected), free(size);
    free_reference(&w), free_reference(&rows);
    check_done(c);
}

/* Rows and columns beyond whole tiles of 128 and 256, depths beyond whole steps of 128. */
void check_quantised_products(checker *c) {
    static const int64_t rows[] = {1, 9, 130, 300}, ins[] = {128, 384, 1152}, outs[] = {16, 272, 528};
    if (!c->be->ops->quantise) return;
    for (int f = 0; f < FORMS; f++)
        for (int n = 0; n < 36; n++) {
            bool narrow = c->be->ops->quantised_rows && forms[f].group == 0;
            product_case t = {.rows = rows[n % 4],
                              .in = ins[n / 4 % 3],
                              .out = outs[n / 12],
                              .act = (zoe_act)(n % 4),
                              .bias = n % 3,
                              .gate = n % 5 < 2,
                              .grouped = n % 5 == 1,
                              .residual = n % 2,
                              .narrow_x = narrow && n % 7 < 3,
                              .l = (layout)(n / 2 % 2)};
            t.narrow_y = narrow && !t.residual && n % 4 == 2;
            check_product(c, &forms[f], &t);
        }
}

/* ---- norm into quantised rows ---- */

static void check_norm_rows(checker *c, const form *f, int64_t rows, int64_t width, int n) {
    char what[96];
    snprintf(what, sizeof what, "%s rows, %lld x %lld, variant %d", f->name, (long long)rows, (long long)width, n);
    operand *x = INPUT(c, c->be->dtype, (layout)(n % 2), FILL_SMALL, rows, width);
    operand *scale = n & 1 ? INPUT(c, ZOE_F32, STRIDED, FILL_SMALL, 4, width) : NULL;
    operand *shift = n & 1 ? INPUT(c, ZOE_F32, STRIDED, FILL_SMALL, 4, width) : NULL;
    operand *weight = n & 2 ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, width) : NULL;
    operand *group = n == 3 ? check_ids(c, rows, 4) : NULL;
    zoe_tensor y = on_backend(c, f, rows, width, NULL);
    zoe_norm p = {.kind = (zoe_norm_kind)(n % 3),
                  .eps = 1e-6f,
                  .weight = weight ? &weight->on : NULL,
                  .scale = scale ? &scale->on : NULL,
                  .shift = shift ? &shift->on : NULL,
                  .row_group = group ? &group->on : NULL};
    double *expected = doubles(rows * width), *size = doubles(rows * width);
    ref_run_norm(&(ref_norm){.rows = rows,
                             .width = width,
                             .x = x->values,
                             .weight = weight ? weight->values : NULL,
                             .scale = scale ? scale->values : NULL,
                             .shift = shift ? shift->values : NULL,
                             .group = group ? (const int32_t *)group->t.data : NULL,
                             .kind = p.kind,
                             .eps = (double)1e-6f},
                 expected, size);
    check_status(c, zoe_op_norm(c->be, &y, &x->on, &p), what);
    check_rows(c, f, &y, expected, size, 1e-6, what);
    free(expected), free(size);
    zoe_backend_free(c->be, y.data);
    check_done(c);
}

void check_quantised_rows(checker *c) {
    static const int64_t widths[] = {17, 96, 256, 1024, 1536, 5120, 8192, 8960, 13824};
    if (!c->be->ops->quantised_rows) return;
    for (int f = 0; f < 2; f++)
        for (int w = 0; w < 8; w++)
            for (int n = 0; n < 4; n++) check_norm_rows(c, &forms[f], n ? 19 : 3, widths[w], n);
}
