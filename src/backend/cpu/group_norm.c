/*
 * Group norm over [frames, height, width, channels]: sums over fixed parts of the pixels, so that the result does not
 * depend on the number of threads, then one affine pass.
 */
#include "backend/cpu/cpu.h"

#include <math.h>
#include <string.h>

#define PARTS 64

/* sums [2, channels]: of x and of its square over rows `first` up to `end`. Double: the two are subtracted in the end. */
static void add_rows(double *sums, const float *x, int64_t first, int64_t end, int64_t channels) {
    memset(sums, 0, (size_t)(2 * channels) * sizeof *sums);
    for (int64_t row = first; row < end; row++)
        for (int64_t i = 0; i < channels; i++) {
            double value = x[row * channels + i];
            sums[i] += value;
            sums[channels + i] += value * value;
        }
}

/* norm(x) * weight + bias as (x - mean) * factor + shift, each [channels]; sums [PARTS, 2, channels] */
static void fold(const double *sums, int64_t rows, int64_t channels, const zoe_group_norm *p, float *mean, float *factor,
                 float *shift) {
    int64_t size = channels / p->groups;
    for (int64_t group = 0; group < p->groups; group++) {
        double sum = 0, squares = 0, count = (double)rows * (double)size;
        for (int64_t part = 0; part < PARTS; part++)
            for (int64_t i = group * size; i < (group + 1) * size; i++) {
                sum += sums[2 * part * channels + i];
                squares += sums[(2 * part + 1) * channels + i];
            }
        double middle = sum / count, variance = fmax(squares / count - middle * middle, 0);
        for (int64_t i = group * size; i < (group + 1) * size; i++) {
            mean[i] = (float)middle;
            factor[i] = (float)((p->weight ? ((const float *)p->weight->data)[i] : 1) / sqrt(variance + p->eps));
            shift[i] = p->bias ? ((const float *)p->bias->data)[i] : 0;
        }
    }
}

/* The frame of a map that frame `frame` of `frames` takes. */
static int64_t map_frame(const zoe_tensor *map, int64_t frame, int64_t frames, bool first_apart) {
    if (!first_apart) return frame * map->shape[0] / frames;
    return frame == 0 ? 0 : 1 + (frame - 1) * (map->shape[0] - 1) / (frames - 1);
}

/* What all lines share. */
typedef struct norm {
    const zoe_cpu_kernels *kernels;
    const zoe_group_norm *p;
    const zoe_tensor *x, *y;
    const float *mean, *factor, *shift;
} norm;

static void norm_line(const norm *n, int64_t line) {
    const zoe_group_norm *p = n->p;
    int64_t frames = n->x->shape[0], height = n->x->shape[1], width = n->x->shape[2], channels = n->x->shape[3];
    const float *from = (const float *)n->x->data + line * width * channels, *scale = NULL, *shift = NULL;
    float *to = (float *)n->y->data + line * width * channels;
    int64_t cell = width;
    if (p->scale) {
        const zoe_tensor *map = p->scale;
        int64_t frame = map_frame(map, line / height, frames, p->first_apart);
        int64_t at = (frame * map->shape[1] + line % height * map->shape[1] / height) * map->shape[2] * channels;
        scale = (const float *)map->data + at, shift = (const float *)p->shift->data + at;
        cell = width / map->shape[2];
    }
    for (int64_t i = 0; i < width; i++, from += channels, to += channels) {
        for (int64_t c = 0; c < channels; c++) to[c] = (from[c] - n->mean[c]) * n->factor[c] + n->shift[c];
        int64_t at = i / cell * channels;
        if (scale) n->kernels->scale_shift(to, to, scale + at, shift + at, channels);
        if (p->act != ZOE_ACT_NONE) n->kernels->activate(to, to, NULL, channels, p->act);
    }
}

int zoe_cpu_group_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_group_norm *p) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    const zoe_tensor *all[] = {y, x, p->scale, p->shift};
    for (int i = 0; i < 4; i++) ZOE_TRY(zoe_cpu_need_f32(be, "group_norm", all[i]));
    int64_t channels = x->shape[3], lines = x->shape[0] * x->shape[1], rows = lines * x->shape[2];
    if ((size_t)channels * (2 * PARTS * sizeof(double) + 3 * sizeof(float)) > ZOE_CPU_SHARED)
        return zoe_fail(be->ctx, ZOE_ERR_UNSUPPORTED, "group_norm: %lld channels are too many for the CPU's scratch memory",
                        (long long)channels);
    double *sums = (double *)(void *)cpu->shared;
    float *mean = (float *)(void *)(sums + 2 * PARTS * channels), *factor = mean + channels, *shift = factor + channels;
    int team = zoe_cpu_team(cpu, (double)rows * (double)channels);
#pragma omp parallel for num_threads(team)
    for (int64_t i = 0; i < PARTS; i++)
        add_rows(sums + 2 * i * channels, x->data, rows * i / PARTS, rows * (i + 1) / PARTS, channels);
    fold(sums, rows, channels, p, mean, factor, shift);
    norm n = {.kernels = &cpu->kernels, .p = p, .x = x, .y = y, .mean = mean, .factor = factor, .shift = shift};
#pragma omp parallel for num_threads(team)
    for (int64_t line = 0; line < lines; line++) norm_line(&n, line);
    return ZOE_OK;
}
