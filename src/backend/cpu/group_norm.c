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

/* factor and shift [channels] of norm(x) * weight + bias, from sums [PARTS, 2, channels] */
static void fold(const double *sums, int64_t rows, int64_t channels, const zoe_group_norm *p, float *factor, float *shift) {
    int64_t size = channels / p->groups;
    for (int64_t group = 0; group < p->groups; group++) {
        double sum = 0, squares = 0, count = (double)rows * (double)size;
        for (int64_t part = 0; part < PARTS; part++)
            for (int64_t i = group * size; i < (group + 1) * size; i++) {
                sum += sums[2 * part * channels + i];
                squares += sums[(2 * part + 1) * channels + i];
            }
        double mean = sum / count, variance = fmax(squares / count - mean * mean, 0), scale = 1 / sqrt(variance + p->eps);
        for (int64_t i = group * size; i < (group + 1) * size; i++) {
            double weight = p->weight ? ((const float *)p->weight->data)[i] : 1;
            double bias = p->bias ? ((const float *)p->bias->data)[i] : 0;
            factor[i] = (float)(scale * weight);
            shift[i] = (float)(bias - mean * scale * weight);
        }
    }
}

/* The frame of a map that frame `frame` of `frames` takes. */
static int64_t map_frame(const zoe_tensor *map, int64_t frame, int64_t frames, bool first_apart) {
    if (!first_apart) return frame * map->shape[0] / frames;
    return frame == 0 ? 0 : 1 + (frame - 1) * (map->shape[0] - 1) / (frames - 1);
}

int zoe_cpu_group_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_group_norm *p) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    const zoe_tensor *all[] = {y, x, p->scale, p->shift};
    for (int i = 0; i < 4; i++) ZOE_TRY(zoe_cpu_need_f32(be, "group_norm", all[i]));
    const zoe_cpu_kernels *k = &cpu->kernels;
    int64_t channels = x->shape[3], width = x->shape[2], lines = x->shape[0] * x->shape[1], rows = lines * width;
    if ((size_t)channels * (2 * PARTS * sizeof(double) + 2 * sizeof(float)) > ZOE_CPU_SHARED)
        return zoe_fail(be->ctx, ZOE_ERR_UNSUPPORTED, "group_norm: %lld channels are too many for the CPU's scratch memory",
                        (long long)channels);
    double *sums = (double *)(void *)cpu->shared;
    float *factor = (float *)(void *)(sums + 2 * PARTS * channels), *shift = factor + channels;
    const float *from = x->data, *scale_map = p->scale ? p->scale->data : NULL,
                *shift_map = p->scale ? p->shift->data : NULL;
    float *to = y->data;
    int team = zoe_cpu_team(cpu, (double)rows * (double)channels);
#pragma omp parallel for num_threads(team)
    for (int64_t i = 0; i < PARTS; i++)
        add_rows(sums + 2 * i * channels, from, rows * i / PARTS, rows * (i + 1) / PARTS, channels);
    fold(sums, rows, channels, p, factor, shift);
#pragma omp parallel for num_threads(team)
    for (int64_t line = 0; line < lines; line++) {
        const zoe_tensor *map = p->scale;
        int64_t at = 0, cell = 1;
        if (map) {
            int64_t frame = map_frame(map, line / x->shape[1], x->shape[0], p->first_apart);
            int64_t above = line % x->shape[1] * map->shape[1] / x->shape[1];
            at = (frame * map->shape[1] + above) * map->shape[2] * channels;
            cell = width / map->shape[2];
        }
        for (int64_t i = 0; i < width; i++) {
            float *out = to + (line * width + i) * channels;
            int64_t offset = at + i / cell * channels;
            k->scale_shift(out, from + (line * width + i) * channels, factor, shift, channels);
            if (map) k->scale_shift(out, out, scale_map + offset, shift_map + offset, channels);
            if (p->act != ZOE_ACT_NONE) k->activate(out, out, NULL, channels, p->act);
        }
    }
    return ZOE_OK;
}
