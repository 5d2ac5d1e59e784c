/*
 * The operations in float64, as plainly as they can be written: what checkkernels compares every backend with.
 *
 * Beside each value stands its `size`: the sum of the magnitudes that went into it, so that an error can be judged against
 * what rounding alone may do.
 */
#ifndef CHECK_REFERENCE_H
#define CHECK_REFERENCE_H

#include "backend/backend.h"

/* Dense float64 copies of operands; NULL where absent. */
typedef struct ref_linear {
    int64_t rows, in, out;
    const double *x, *w, *bias, *gate, *residual;
    const int32_t *group;
    zoe_act act;
} ref_linear;

typedef struct ref_norm {
    int64_t rows, width;
    const double *x, *weight, *bias, *scale, *shift;
    const int32_t *group;
    zoe_norm_kind kind;
    double eps;
    zoe_act act;
} ref_norm;

typedef struct ref_attention {
    int64_t heads, queries, keys, depth, width;
    const double *q, *k, *v, *bias; /* [heads, tokens, channels]; [heads, queries + keys - 1] */
    double scale, last_key_repeats;
} ref_attention;

typedef struct ref_conv {
    const zoe_conv *p;
    int64_t in_shape[4], out_shape[4], history_frames;
    const double *x, *w, *bias, *residual, *history;
} ref_conv;

double ref_act(double x, zoe_act act);
void ref_run_linear(const ref_linear *r, double *y, double *size);
void ref_run_norm(const ref_norm *r, double *y, double *size);
void ref_run_attention(const ref_attention *r, double *y, double *size);
void ref_run_conv(const ref_conv *r, double *y, double *size);

/* Rotates pairs of y in place; cos and sin [rows, pairs], repeated over the width. */
void ref_rotate(double *y, double *size, int64_t rows, int64_t width, int64_t pairs, const double *cos, const double *sin);

#endif
