#include "check_reference.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

double ref_act(double x, zoe_act act) {
    switch (act) {
    case ZOE_ACT_SILU:
        return x / (1 + exp(-x));
    case ZOE_ACT_GELU_TANH:
        return x / (1 + exp(-2 * 0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case ZOE_ACT_GELU_ERF:
        return 0.5 * x * erfc(-x * 0.70710678118654752);
    default:
        return x;
    }
}

void ref_run_linear(const ref_linear *r, double *y, double *size) {
    for (int64_t row = 0; row < r->rows; row++)
        for (int64_t out = 0; out < r->out; out++) {
            const double *x = r->x + row * r->in, *w = r->w + out * r->in;
            double sum = r->bias ? r->bias[out] : 0, all = fabs(sum);
            for (int64_t i = 0; i < r->in; i++) {
                sum += x[i] * w[i];
                all += fabs(x[i] * w[i]);
            }
            double gate = r->gate ? r->gate[(r->group ? r->group[row] : 0) * r->out + out] : 1;
            double residual = r->residual ? r->residual[row * r->out + out] : 0;
            y[row * r->out + out] = residual + gate * ref_act(sum, r->act);
            size[row * r->out + out] = fabs(residual) + fabs(gate) * all;
        }
}

void ref_run_norm(const ref_norm *r, double *y, double *size) {
    for (int64_t row = 0; row < r->rows; row++) {
        const double *x = r->x + row * r->width;
        double mean = 0, squares = 0, magnitude = 0;
        for (int64_t i = 0; i < r->width; i++) {
            mean += r->kind == ZOE_NORM_LAYER ? x[i] / (double)r->width : 0;
            magnitude += fabs(x[i]) / (double)r->width;
        }
        for (int64_t i = 0; i < r->width; i++) squares += (x[i] - mean) * (x[i] - mean);
        double factor = r->kind == ZOE_NORM_L2 ? sqrt((double)r->width) / fmax(sqrt(squares), r->eps)
                                               : 1 / sqrt(squares / (double)r->width + r->eps);
        if (r->kind != ZOE_NORM_LAYER) magnitude = 0;
        for (int64_t i = 0; i < r->width; i++) {
            int64_t group = (r->group ? r->group[row] : 0) * r->width + i;
            double weight = r->weight ? r->weight[i] : 1, bias = r->bias ? r->bias[i] : 0;
            double scale = r->scale ? r->scale[group] : 0, shift = r->shift ? r->shift[group] : 0;
            double value = (x[i] - mean) * factor * weight;
            y[row * r->width + i] = ref_act((value + bias) * (1 + scale) + shift, r->act);
            double all = (fabs(x[i]) + magnitude) * factor * fabs(weight) + fabs(bias);
            size[row * r->width + i] = all * (1 + fabs(scale)) + fabs(shift);
        }
    }
}

void ref_rotate(double *y, double *size, int64_t rows, int64_t width, int64_t pairs, const double *cos, const double *sin) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < width / 2; i++) {
            double c = cos[row * pairs + i % pairs], s = sin[row * pairs + i % pairs];
            double *at = y + row * width + 2 * i, *all = size + row * width + 2 * i, x0 = at[0], x1 = at[1];
            at[0] = x0 * c - x1 * s;
            at[1] = x1 * c + x0 * s;
            all[0] = all[1] = (all[0] + all[1]) * (fabs(c) + fabs(s));
        }
}

/* One query: the softmax's weights, and how much rounding the scores may have seen. */
static double weights_of(const ref_attention *r, int64_t head, int64_t query, double *p) {
    const double *q = r->q + (head * r->queries + query) * r->depth;
    double top = -DBL_MAX, sum = 0, rounding = 0;
    for (int64_t i = 0; i < r->keys; i++) {
        const double *k = r->k + (head * r->keys + i) * r->depth;
        double all = 0;
        p[i] = r->bias ? r->bias[head * (r->queries + r->keys - 1) + i - query + r->queries - 1] : 0;
        for (int64_t j = 0; j < r->depth; j++) {
            p[i] += r->scale * q[j] * k[j];
            all += fabs(r->scale * q[j] * k[j]);
        }
        if (i == r->keys - 1 && r->last_key_repeats > 1) p[i] += log(r->last_key_repeats);
        top = fmax(top, p[i]);
        rounding = fmax(rounding, all);
    }
    for (int64_t i = 0; i < r->keys; i++) sum += p[i] = exp(p[i] - top);
    for (int64_t i = 0; i < r->keys; i++) p[i] /= sum;
    return rounding;
}

void ref_run_attention(const ref_attention *r, double *y, double *size) {
    double *p = malloc((size_t)r->keys * sizeof *p);
    if (!p) abort();
    for (int64_t head = 0; head < r->heads; head++)
        for (int64_t query = 0; query < r->queries; query++) {
            double rounding = weights_of(r, head, query, p);
            for (int64_t out = 0; out < r->width; out++) {
                double sum = 0, all = 0;
                for (int64_t i = 0; i < r->keys; i++) {
                    double v = r->v[(head * r->keys + i) * r->width + out];
                    sum += p[i] * v;
                    all += p[i] * fabs(v);
                }
                y[(head * r->queries + query) * r->width + out] = sum;
                size[(head * r->queries + query) * r->width + out] = all * (1 + rounding);
            }
        }
    free(p);
}

/* The input pixel that output pixel (t, y, x) sees under a tap; NULL for padding. */
static const double *pixel(const ref_conv *r, int64_t t, int64_t y, int64_t x) {
    const int64_t *in = r->in_shape;
    int up = r->p->upsample;
    if (t < 0 || t >= r->history_frames + in[0] || y < 0 || y >= in[1] * up || x < 0 || x >= in[2] * up) return NULL;
    int64_t place = (y / up * in[2] + x / up) * in[3], frame = in[1] * in[2] * in[3];
    return t < r->history_frames ? r->history + t * frame + place : r->x + (t - r->history_frames) * frame + place;
}

static void conv_pixel(const ref_conv *r, int64_t t, int64_t y, int64_t x, double *to, double *size) {
    const zoe_conv *p = r->p;
    int64_t in = r->in_shape[3];
    for (int64_t out = 0; out < r->out_shape[3]; out++) {
        const double *w = r->w + out * p->kernel[0] * p->kernel[1] * p->kernel[2] * in;
        double bias = r->bias ? r->bias[out] : 0, residual = r->residual ? to[out] : 0;
        double sum = bias + residual, all = fabs(bias) + fabs(residual);
        for (int i = 0; i < p->kernel[0]; i++)
            for (int j = 0; j < p->kernel[1]; j++)
                for (int k = 0; k < p->kernel[2]; k++, w += in) {
                    const double *from = pixel(r, t * p->stride[0] + i - p->pad[0][0], y * p->stride[1] + j - p->pad[1][0],
                                               x * p->stride[2] + k - p->pad[2][0]);
                    for (int64_t c = 0; from && c < in; c++) {
                        sum += from[c] * w[c];
                        all += fabs(from[c] * w[c]);
                    }
                }
        to[out] = sum;
        size[out] = all;
    }
}

void ref_run_conv(const ref_conv *r, double *y, double *size) {
    int64_t at = 0;
    for (int64_t t = 0; t < r->out_shape[0]; t++)
        for (int64_t i = 0; i < r->out_shape[1]; i++)
            for (int64_t j = 0; j < r->out_shape[2]; j++, at += r->out_shape[3]) {
                for (int64_t c = 0; r->residual && c < r->out_shape[3]; c++) y[at + c] = r->residual[at + c];
                conv_pixel(r, t, i, j, y + at, size + at);
            }
}
