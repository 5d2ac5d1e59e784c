/* checkkernels: group norm over frames and pixels, with maps of scale and shift. */
#include "checkkernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct group_case {
    int64_t shape[4], groups, map[3]; /* map[0] 0: none */
    bool affine, first_apart, in_place;
    zoe_act act;
    fill f;
} group_case;

/* Mean, factor, and mean magnitude of a group of channels. */
static void statistics(const double *x, const group_case *t, int64_t group, double *out) {
    int64_t channels = t->shape[3], rows = t->shape[0] * t->shape[1] * t->shape[2], size = channels / t->groups;
    double sum = 0, magnitude = 0, squares = 0, count = (double)(rows * size);
    for (int pass = 0; pass < 2; pass++)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t i = group * size; i < (group + 1) * size; i++) {
                double value = x[row * channels + i];
                sum += pass ? 0 : value;
                magnitude += pass ? 0 : fabs(value);
                squares += pass ? (value - sum / count) * (value - sum / count) : 0;
            }
    out[0] = sum / count;
    out[1] = 1 / sqrt(squares / count + (double)1e-6f);
    out[2] = magnitude / count;
}

/* The cell of the maps that a pixel takes: the nearest one below, the first frame for itself where it stands apart. */
static int64_t cell_of(const group_case *t, int64_t frame, int64_t y, int64_t x) {
    int64_t from = frame * t->map[0] / t->shape[0];
    if (t->first_apart) from = frame ? 1 + (frame - 1) * (t->map[0] - 1) / (t->shape[0] - 1) : 0;
    return (from * t->map[1] + y * t->map[1] / t->shape[1]) * t->map[2] + x * t->map[2] / t->shape[2];
}

static void reference(const group_case *t, const operand *x, const operand *weight, const operand *bias,
                      const operand *scale, const operand *shift, double *expected, double *size) {
    int64_t channels = t->shape[3], count = zoe_tensor_count(&x->t);
    for (int64_t group = 0; group < t->groups; group++) {
        double s[3];
        statistics(x->values, t, group, s);
        for (int64_t i = 0; i < count; i++) {
            int64_t channel = i % channels, pixel = i / channels, line = pixel / t->shape[2];
            if (channel / (channels / t->groups) != group) continue;
            double w = weight ? weight->values[channel] : 1, b = bias ? bias->values[channel] : 0, factor = 1, add = 0;
            if (scale) {
                int64_t cell = cell_of(t, line / t->shape[1], line % t->shape[1], pixel % t->shape[2]) * channels + channel;
                factor = scale->values[cell];
                add = shift->values[cell];
            }
            expected[i] = ref_act(((x->values[i] - s[0]) * s[1] * w + b) * factor + add, t->act);
            size[i] = ((fabs(x->values[i]) + s[2]) * s[1] * fabs(w) + fabs(b)) * fabs(factor) + fabs(add);
        }
    }
}

static void check_case(checker *c, const group_case *t) {
    zoe_dtype dtype = c->be->dtype;
    int64_t channels = t->shape[3];
    char what[96];
    snprintf(what, sizeof what, "%lldx%lldx%lldx%lld, %lld groups, fill %d", (long long)t->shape[0], (long long)t->shape[1],
             (long long)t->shape[2], (long long)channels, (long long)t->groups, (int)t->f);
    operand *x = check_input(c, dtype, DENSE, t->f, 4, t->shape);
    operand *weight = t->affine ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, channels) : NULL;
    operand *bias = t->affine ? INPUT(c, ZOE_F32, DENSE, FILL_SMALL, channels) : NULL;
    operand *scale = NULL, *shift = NULL, *y = t->in_place ? x : check_output(c, dtype, DENSE, 4, t->shape);
    if (t->map[0]) scale = INPUT(c, dtype, DENSE, FILL_SMALL, t->map[0], t->map[1], t->map[2], channels);
    if (t->map[0]) shift = INPUT(c, dtype, DENSE, FILL_SMALL, t->map[0], t->map[1], t->map[2], channels);
    int64_t count = zoe_tensor_count(&x->t);
    double *expected = calloc((size_t)count, sizeof *expected), *size = calloc((size_t)count, sizeof *size);
    if (!expected || !size) exit(2);
    reference(t, x, weight, bias, scale, shift, expected, size);
    zoe_group_norm p = {.groups = t->groups,
                        .eps = 1e-6f,
                        .weight = weight ? &weight->on : NULL,
                        .bias = bias ? &bias->on : NULL,
                        .scale = scale ? &scale->on : NULL,
                        .shift = shift ? &shift->on : NULL,
                        .first_apart = t->first_apart,
                        .act = t->act};
    check_status(c, zoe_op_group_norm(c->be, &y->on, &x->on, &p), what);
    check_result(c, y, expected, size, 8e-7, what);
    free(expected), free(size);
    check_done(c);
}

void check_group_norm(checker *c) {
    if (!c->be->ops->group_norm) return;
    static const int64_t shapes[][4] = {{1, 1, 1, 4}, {2, 3, 5, 6}, {3, 4, 6, 32}, {5, 8, 4, 66}};
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < 8; i++) {
            group_case t = {.groups = i & 1 ? 2 : 1, .affine = i & 2, .in_place = i & 4, .act = (zoe_act)((s + i) % 4)};
            for (int j = 0; j < 4; j++) t.shape[j] = shapes[s][j];
            check_case(c, &t);
        }
    check_case(c, &(group_case){.shape = {1, 6, 9, 48}, .groups = 48, .affine = true});
    check_case(c,
               &(group_case){.shape = {4, 6, 8, 20}, .groups = 5, .map = {2, 3, 2}, .affine = true, .act = ZOE_ACT_SILU});
    check_case(c, &(group_case){.shape = {5, 6, 8, 20}, .groups = 5, .map = {3, 6, 8}, .first_apart = true});
    check_case(c, &(group_case){.shape = {1, 4, 4, 8}, .groups = 2, .map = {1, 2, 2}, .in_place = true});
    for (int f = 1; f < FILL_COUNT; f++) check_case(c, &(group_case){.shape = {2, 9, 11, 24}, .groups = 3, .f = (fill)f});
}
