/* checkkernels: elementwise operations, embeddings and the search for what is not finite. */
#include "checkkernels.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const zoe_dtype floats[] = {ZOE_F32, ZOE_BF16, ZOE_F16};
static const int64_t lengths[] = {1, 3, 16, 31, 100, 5000};

static double *doubles(int64_t count) {
    double *p = calloc((size_t)count + 1, sizeof *p);
    if (!p) exit(2);
    return p;
}

void check_embedding(checker *c) {
    static const zoe_dtype types[] = {ZOE_F32, ZOE_BF16, ZOE_F16, ZOE_F64, ZOE_F8_E4M3, ZOE_F8_E5M2};
    for (int i = 0; i < 12; i++) {
        int64_t width = i % 2 ? 37 : 16, count = i < 6 ? 1 : 9;
        operand *table = INPUT(c, check_weight(c, types[i % 6]), DENSE, FILL_SMALL, 50, width),
                *ids = check_ids(c, count, 50);
        operand *y = OUTPUT(c, c->be->dtype, i % 3 ? DENSE : STRIDED, count, width);
        double *expected = doubles(count * width), *size = doubles(count * width);
        for (int64_t row = 0; row < count; row++)
            memcpy(expected + row * width, table->values + ((const int32_t *)ids->t.data)[row] * width,
                   (size_t)width * sizeof *expected);
        check_status(c, zoe_op_embedding(c->be, &y->on, &table->on, &ids->on), "embedding");
        for (int64_t j = 0; j < count * width; j++) size[j] = fabs(expected[j]);
        check_result(c, y, expected, size, table->t.dtype == ZOE_F64 ? 0x1p-24 : 0, zoe_dtype_name(types[i % 6]));
        free(expected), free(size);
        check_done(c);
    }
}

/* Special values at the front of an operand: what conversions get wrong first. */
static void put_specials(checker *c, operand *o) {
    static const float special[] = {0,           -0.0f,       INFINITY,       -INFINITY, NAN,   FLT_MAX,
                                    -FLT_MAX,    1e-40f,      6e-8f,          2.9e-8f,   65504, 65520,
                                    1.00390625f, 1.01171875f, 1.00048828125f, 3.3895e38f};
    if (o->t.dtype != ZOE_F32 || !zoe_tensor_dense(&o->t)) return;
    int64_t count = zoe_tensor_count(&o->t);
    memcpy(o->t.data, special, sizeof *special * (size_t)(count < 16 ? count : 16));
    check_upload(c, o);
}

static double rounded(double x, zoe_dtype dtype) {
    if (dtype == ZOE_BF16) return zoe_bf16_to_f32(zoe_f32_to_bf16((float)x));
    if (dtype == ZOE_F16) return zoe_f16_to_f32(zoe_f32_to_f16((float)x));
    return x;
}

static void copy_case(checker *c, operand *x, operand *y, const char *what) {
    double *expected = check_values(&x->t);
    int64_t count = zoe_tensor_count(&x->t);
    double *none = doubles(count);
    for (int64_t i = 0; i < count; i++) expected[i] = rounded(expected[i], y->t.dtype);
    check_status(c, zoe_op_copy(c->be, &y->on, &x->on), what);
    check_result(c, y, expected, none, 0, what);
    free(expected), free(none);
    check_done(c);
}

/* x, laid out in the order of `axes`, is copied to a dense y and the other way round. */
static void copy_permuted(checker *c, const int64_t *shape, const int *axes, bool inverse) {
    operand *x = check_input(c, c->be->dtype, STRIDED, FILL_SMALL, 4, shape);
    int64_t permuted[4];
    for (int i = 0; i < 4; i++) permuted[i] = shape[axes[i]];
    operand *y = check_output(c, c->be->dtype, STRIDED, 4, permuted);
    if (inverse) {
        int back[4];
        for (int i = 0; i < 4; i++) back[axes[i]] = i;
        y->t = zoe_view_permute(&y->t, back);
        y->on = zoe_view_permute(&y->on, back);
    } else {
        x->t = zoe_view_permute(&x->t, axes);
        x->on = zoe_view_permute(&x->on, axes);
    }
    copy_case(c, x, y, "permuted");
}

void check_copy(checker *c) {
    for (int from = 0; from < 3; from++)
        for (int to = 0; to < 3; to++)
            for (int n = 0; n < 6; n++)
                for (int l = 0; l < 4; l++) {
                    operand *x = INPUT(c, floats[from], (layout)(l & 1), FILL_SMALL, 3, lengths[n]);
                    put_specials(c, x);
                    operand *y = OUTPUT(c, floats[to], (layout)(l >> 1), 3, lengths[n]);
                    copy_case(c, x, y, zoe_dtype_name(floats[to]));
                }
    static const int axes[][4] = {{0, 1, 3, 2}, {3, 2, 1, 0}, {1, 0, 2, 3}, {2, 0, 3, 1}};
    static const int64_t shapes[][4] = {{2, 3, 4, 5}, {1, 17, 2, 33}, {3, 1, 19, 1}};
    for (int i = 0; i < 24; i++) copy_permuted(c, shapes[i % 3], axes[i / 3 % 4], i >= 12);
}

void check_zero(checker *c) {
    for (int i = 0; i < 18; i++) {
        int64_t shape[2] = {2, lengths[i % 6]};
        operand *y = check_output(c, floats[i / 6], (layout)(i % 2), 2, shape);
        double *none = doubles(2 * lengths[i % 6]);
        check_status(c, zoe_op_zero(c->be, &y->on), "zero");
        check_result(c, y, none, none, 0, zoe_dtype_name(floats[i / 6]));
        free(none);
        check_done(c);
    }
}

/* ---- activations ---- */

/* Every 16411th float, of both signs, from zero to infinity. */
static void sweep(checker *c, zoe_act act, double bound) {
    const uint32_t step = 16411;
    int64_t count = 0x7f800000 / step * 2 + 2;
    operand *x = INPUT(c, ZOE_F32, DENSE, FILL_SMALL, count), *y = OUTPUT(c, ZOE_F32, DENSE, count);
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)(i / 2) * step | (i % 2 ? 0x80000000u : 0);
        memcpy((char *)x->t.data + 4 * i, &bits, sizeof bits);
    }
    check_upload(c, x);
    double *expected = doubles(count), *size = doubles(count);
    for (int64_t i = 0; i < count; i++) {
        expected[i] = ref_act(x->values[i], act);
        size[i] = fabs(x->values[i]);
    }
    check_status(c, zoe_op_activate(c->be, &y->on, &x->on, NULL, act), "sweep");
    check_result(c, y, expected, size, bound, "sweep over the floats");
    free(expected), free(size);
    check_done(c);
}

void check_activate(checker *c) {
    for (int i = 0; i < 48; i++) {
        int64_t n = lengths[i % 6], count = 3 * n;
        zoe_act act = (zoe_act)(i / 6 % 4);
        layout l = (layout)(i % 2);
        operand *x = INPUT(c, c->be->dtype, l, FILL_SMALL, 3, n);
        operand *times = i >= 24 ? INPUT(c, c->be->dtype, l, FILL_SMALL, 3, n) : NULL;
        operand *y = i % 5 ? OUTPUT(c, c->be->dtype, (layout)(i / 2 % 2), 3, n) : x;
        double *expected = doubles(count), *size = doubles(count);
        for (int64_t j = 0; j < count; j++) {
            expected[j] = ref_act(x->values[j], act) * (times ? times->values[j] : 1);
            size[j] = fabs(x->values[j]) * (times ? fabs(times->values[j]) : 1);
        }
        check_status(c, zoe_op_activate(c->be, &y->on, &x->on, times ? &times->on : NULL, act), "activate");
        check_result(c, y, expected, size, 2.5e-7, "random");
        free(expected), free(size);
        check_done(c);
    }
    for (int act = 0; act < 4; act++) sweep(c, (zoe_act)act, 2e-7);
}

void check_scale_shift(checker *c) {
    for (int i = 0; i < 24; i++) {
        int64_t n = lengths[i % 6], count = 3 * n;
        operand *x = INPUT(c, c->be->dtype, (layout)(i % 2), FILL_SMALL, 3, n);
        operand *scale = i / 6 & 1 ? INPUT(c, ZOE_F32, DENSE, FILL_WIDE, n) : NULL;
        operand *shift = i / 6 & 2 ? INPUT(c, ZOE_F32, DENSE, FILL_WIDE, n) : NULL;
        operand *y = i % 3 ? OUTPUT(c, c->be->dtype, (layout)(i / 2 % 2), 3, n) : x;
        double *expected = doubles(count), *size = doubles(count);
        for (int64_t j = 0; j < count; j++) {
            double factor = scale ? scale->values[j % n] : 1, add = shift ? shift->values[j % n] : 0;
            expected[j] = x->values[j] * factor + add;
            size[j] = fabs(x->values[j] * factor) + fabs(add);
        }
        check_status(c, zoe_op_scale_shift(c->be, &y->on, &x->on, scale ? &scale->on : NULL, shift ? &shift->on : NULL),
                     "");
        check_result(c, y, expected, size, 2e-7, "scale_shift");
        free(expected), free(size);
        check_done(c);
    }
}

void check_lincomb(checker *c) {
    for (int i = 0; i < 6 * ZOE_LINCOMB_MAX; i++) {
        int64_t n = lengths[i % 6], count = 2 * n;
        int terms = i / 6 + 1;
        float coefficients[ZOE_LINCOMB_MAX];
        const zoe_tensor *on[ZOE_LINCOMB_MAX];
        double *expected = doubles(count), *size = doubles(count);
        operand *x = NULL;
        for (int j = 0; j < terms; j++) {
            x = INPUT(c, j == 1 ? ZOE_F32 : c->be->dtype, (layout)((i + j) % 2), FILL_WIDE, 2, n);
            on[j] = &x->on;
            coefficients[j] = (float)check_random(c);
            for (int64_t k = 0; k < count; k++) {
                expected[k] += (double)coefficients[j] * x->values[k];
                size[k] += fabs((double)coefficients[j] * x->values[k]);
            }
        }
        operand *y = i % 3 ? OUTPUT(c, c->be->dtype, (layout)(i / 2 % 2), 2, n) : x;
        check_status(c, zoe_op_lincomb(c->be, &y->on, terms, on, coefficients), "lincomb");
        check_result(c, y, expected, size, 6e-7, "lincomb");
        free(expected), free(size);
        check_done(c);
    }
}

/* ---- finite ---- */

static void finite_case(checker *c, zoe_dtype dtype, int64_t n, int64_t place, float bad) {
    operand *x = INPUT(c, dtype, DENSE, FILL_SMALL, n);
    bool expected = place < 0 || (bad >= -FLT_MAX && bad <= FLT_MAX), found = !expected;
    if (place >= 0) {
        char *at = (char *)x->t.data + (size_t)place * zoe_dtype_size(dtype);
        uint16_t half = dtype == ZOE_F16 ? zoe_f32_to_f16(bad) : zoe_f32_to_bf16(bad);
        memcpy(at, dtype == ZOE_F32 ? (const void *)&bad : &half, zoe_dtype_size(dtype));
        check_upload(c, x);
    }
    c->op_cases++;
    check_status(c, zoe_op_finite(c->be, &x->on, &found), "finite");
    if (found != expected)
        check_fail(c, zoe_dtype_name(dtype), "%g at %lld of %lld: said %d", bad, (long long)place, (long long)n, found);
    check_done(c);
}

void check_finite(checker *c) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int d = 0; d < 3; d++)
        for (int n = 0; n < 6; n++) {
            finite_case(c, floats[d], lengths[n], -1, 0);
            for (int b = 0; b < 3; b++)
                for (int place = 0; place < 3; place++)
                    finite_case(c, floats[d], lengths[n], (lengths[n] - 1) * place / 2, bad[b]);
        }
    finite_case(c, ZOE_F32, 100, 50, FLT_MAX);
    finite_case(c, ZOE_F32, 100, 50, 1e-42f);
    finite_case(c, ZOE_F32, 1000000, 999999, NAN);
}
