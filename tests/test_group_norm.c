/* Group norm against the plain sums of its definition. */
#include <math.h>

#include "backend/backend.h"
#include "support.h"

typedef struct shapes {
    int64_t frames, height, width, channels, groups;
    int64_t map[3]; /* frames, height, width; 0: no maps */
    bool apart;
    zoe_act act;
} shapes;

static float *random_floats(uint32_t *state, int64_t count, float middle) {
    float *x = malloc((size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++) {
        *state = *state * 1664525u + 1013904223u;
        x[i] = middle + (float)(*state >> 8) * 0x1p-23f - 1;
    }
    return x;
}

/* The map's cell for an element of x. */
static int64_t cell(const shapes *s, int64_t frame, int64_t line, int64_t column) {
    int64_t t =
        s->apart ? (frame ? 1 + (frame - 1) / ((s->frames - 1) / (s->map[0] - 1)) : 0) : frame / (s->frames / s->map[0]);
    return (t * s->map[1] + line / (s->height / s->map[1])) * s->map[2] + column / (s->width / s->map[2]);
}

static double group_value(const shapes *s, const float *x, int64_t channel, double *variance) {
    int64_t size = s->channels / s->groups, first = channel / size * size, pixels = s->frames * s->height * s->width;
    double sum = 0;
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t c = first; c < first + size; c++) sum += x[i * s->channels + c];
    double mean = sum / (double)(pixels * size);
    *variance = 0;
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t c = first; c < first + size; c++)
            *variance += (x[i * s->channels + c] - mean) * (x[i * s->channels + c] - mean);
    *variance /= (double)(pixels * size);
    return mean;
}

static void check(const shapes *s) {
    zoe_context *ctx;
    zoe_backend *be;
    uint32_t seed = 7;
    assert_int_equal(zoe_context_create(NULL, &ctx), ZOE_OK);
    assert_ok(ctx, zoe_cpu_backend_create(ctx, 0, &be));
    int64_t count = s->frames * s->height * s->width * s->channels, cells = s->map[0] * s->map[1] * s->map[2];
    /* Far from zero, where sums of squares lose digits. */
    float *x = random_floats(&seed, count, 30), *y = malloc((size_t)count * sizeof *y);
    float *weight = random_floats(&seed, s->channels, 1), *bias = random_floats(&seed, s->channels, 0);
    float *scale = random_floats(&seed, cells * s->channels + 1, 1),
          *shift = random_floats(&seed, cells * s->channels + 1, 0);
    zoe_tensor tx = ZOE_TENSOR(x, ZOE_F32, s->frames, s->height, s->width, s->channels), ty = tx;
    zoe_tensor tw = ZOE_TENSOR(weight, ZOE_F32, s->channels), tb = ZOE_TENSOR(bias, ZOE_F32, s->channels);
    zoe_tensor ts = ZOE_TENSOR(scale, ZOE_F32, s->map[0], s->map[1], s->map[2], s->channels), th = ts;
    ty.data = y, th.data = shift;
    zoe_group_norm p = {.groups = s->groups,
                        .eps = 1e-6f,
                        .weight = &tw,
                        .bias = &tb,
                        .scale = cells ? &ts : NULL,
                        .shift = cells ? &th : NULL,
                        .first_apart = s->apart,
                        .act = s->act};
    assert_ok(ctx, zoe_op_group_norm(be, &ty, &tx, &p));
    for (int64_t c = 0; c < s->channels; c++) {
        double variance, mean = group_value(s, x, c, &variance), factor = 1 / sqrt(variance + 1e-6);
        for (int64_t i = 0; i < count / s->channels; i++) {
            double expected = (x[i * s->channels + c] - mean) * factor * weight[c] + bias[c];
            int64_t frame = i / (s->height * s->width), line = i / s->width % s->height;
            int64_t at = cells ? cell(s, frame, line, i % s->width) * s->channels + c : 0;
            if (cells) expected = expected * scale[at] + shift[at];
            if (s->act == ZOE_ACT_SILU) expected /= 1 + exp(-expected);
            assert_true(fabs(y[i * s->channels + c] - expected) < 2e-5 * fmax(1, factor));
        }
    }
    free(x), free(y), free(weight), free(bias), free(scale), free(shift);
    zoe_backend_close(be);
    zoe_context_free(ctx);
}

static void plain(void **state) {
    (void)state;
    check(&(shapes){.frames = 1, .height = 3, .width = 5, .channels = 8, .groups = 2});
    check(&(shapes){.frames = 2, .height = 31, .width = 17, .channels = 36, .groups = 3, .act = ZOE_ACT_SILU});
    check(&(shapes){.frames = 1, .height = 1, .width = 1, .channels = 64, .groups = 32});
}

static void with_maps(void **state) {
    (void)state;
    check(&(shapes){.frames = 4, .height = 6, .width = 8, .channels = 12, .groups = 4, .map = {2, 3, 2}});
    check(&(shapes){.frames = 9, .height = 4, .width = 4, .channels = 8, .groups = 2, .map = {3, 2, 4}, .apart = true});
    check(
        &(shapes){.frames = 1, .height = 8, .width = 8, .channels = 8, .groups = 8, .map = {1, 1, 1}, .act = ZOE_ACT_SILU});
}

/* Maps whose cells do not cover whole pixels or frames are refused. */
static void refuses_maps(void **state) {
    (void)state;
    zoe_context *ctx;
    zoe_backend *be;
    assert_int_equal(zoe_context_create(NULL, &ctx), ZOE_OK);
    assert_ok(ctx, zoe_plan_backend_create(ctx, ZOE_F32, false, &be));
    zoe_tensor x = ZOE_TENSOR(NULL, ZOE_F32, 4, 6, 6, 8), map = ZOE_TENSOR(NULL, ZOE_F32, 2, 4, 3, 8);
    zoe_group_norm p = {.groups = 2, .scale = &map, .shift = &map};
    assert_fails(ctx, zoe_op_group_norm(be, &x, &x, &p), ZOE_ERR_INTERNAL, "group_norm");
    map = ZOE_TENSOR(NULL, ZOE_F32, 3, 3, 3, 8);
    assert_fails(ctx, zoe_op_group_norm(be, &x, &x, &p), ZOE_ERR_INTERNAL, "group_norm");
    map = ZOE_TENSOR(NULL, ZOE_F32, 2, 3, 3, 8);
    assert_ok(ctx, zoe_op_group_norm(be, &x, &x, &p));
    p.groups = 3;
    assert_fails(ctx, zoe_op_group_norm(be, &x, &x, &p), ZOE_ERR_INTERNAL, "group_norm");
    zoe_backend_close(be);
    zoe_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain),
        cmocka_unit_test(with_maps),
        cmocka_unit_test(refuses_maps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
