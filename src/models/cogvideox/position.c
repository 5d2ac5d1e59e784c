/* Tables of positions: added to tokens (sines and cosines), or rotating queries and keys. */
#include <math.h>

#include "models/cogvideox/denoiser.h"

/* row [width]: sines, then cosines of position * 10000^(-i / (width / 2)) */
static void encode(float *row, double position, int64_t width) {
    int64_t half = width / 2;
    for (int64_t i = 0; i < half; i++) {
        double angle = position * pow(10000, -(double)i / (double)half);
        row[i] = (float)sin(angle);
        row[half + i] = (float)cos(angle);
    }
}

void zoe_cogvideox_sincos(float *rows, const int64_t grid[3], int64_t width, double time_scale, double space_scale) {
    int64_t time = width / 4, space = width * 3 / 8, count = grid[0] * grid[1] * grid[2];
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < count; token++) {
        float *row = rows + token * width;
        encode(row, (double)(token / (grid[1] * grid[2])) / time_scale, time);
        encode(row + time, (double)(token % grid[2]) / space_scale, space);
        encode(row + time + space, (double)(token / grid[2] % grid[1]) / space_scale, space);
    }
}

/* The region of the sample's grid that the grid's shape fills, centred: first position and length of each axis. */
static void fit(const zoe_cogvideox_config *c, int64_t height, int64_t width, double first[2], double length[2]) {
    double sample[2] = {(double)(c->sample_size[0] / c->patch), (double)(c->sample_size[1] / c->patch)};
    length[0] = sample[0], length[1] = sample[1];
    if ((double)height / (double)width > sample[0] / sample[1])
        length[1] = nearbyint(sample[0] / (double)height * (double)width);
    else
        length[0] = nearbyint(sample[1] / (double)width * (double)height);
    for (int i = 0; i < 2; i++) first[i] = nearbyint((sample[i] - length[i]) / 2);
}

/* Position number `i` of `count` even ones from `first` to the last but one of `length` (positions of one step each). */
static double spread(double first, double length, int64_t i, int64_t count) {
    double last = (first + length) * (double)(count - 1) / (double)count;
    return count > 1 ? first + (last - first) * (double)i / (double)(count - 1) : first;
}

void zoe_cogvideox_rotary(const zoe_cogvideox_config *config, const int64_t grid[3], float *cos_table, float *sin_table) {
    int64_t dim[3] = {config->head_dim / 4, config->head_dim / 8 * 3, config->head_dim / 8 * 3},
            half = config->head_dim / 2;
    double first[2], length[2];
    fit(config, grid[1], grid[2], first, length);
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < grid[0] * grid[1] * grid[2]; token++) {
        int64_t index[3] = {token / (grid[1] * grid[2]), token / grid[2] % grid[1], token % grid[2]}, at = token * half;
        for (int axis = 0; axis < 3; axis++) {
            bool fitted = axis > 0 && !config->patch_time;
            double position =
                fitted ? spread(first[axis - 1], length[axis - 1], index[axis], grid[axis]) : (double)index[axis];
            for (int64_t i = 0; i < dim[axis] / 2; i++, at++) {
                double angle = (float)position * pow(10000, -2.0 * (double)i / (double)dim[axis]);
                cos_table[at] = (float)cos(angle);
                sin_table[at] = (float)sin(angle);
            }
        }
    }
}
