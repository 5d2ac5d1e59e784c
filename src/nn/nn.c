#include "nn/nn.h"

#include <math.h>

static const zoe_tensor *present(const zoe_tensor *t) {
    return t && t->rank ? t : NULL;
}

zoe_dtype zoe_nn_rows_for(const zoe_backend *be, const zoe_lin *lin) {
    zoe_dtype form = lin->w.dtype;
    return be->ops->quantised_rows && (form == ZOE_I8 || form == ZOE_F8_E4M3) ? form : be->dtype;
}

int zoe_nn_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_lin *lin, zoe_act act) {
    return zoe_op_linear(be, y, x, &lin->w, &(zoe_linear){.bias = present(&lin->b), .act = act});
}

int zoe_nn_linear_add(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_lin *lin, const zoe_tensor *residual,
                      const zoe_tensor *gate, const zoe_tensor *row_group) {
    return zoe_op_linear(
        be, y, x, &lin->w,
        &(zoe_linear){.bias = present(&lin->b), .gate = gate, .row_group = row_group, .residual = residual});
}

int zoe_nn_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, zoe_norm_kind kind, float eps,
                const zoe_tensor *weight, const zoe_tensor *bias, zoe_act act) {
    return zoe_op_norm(be, y, x,
                       &(zoe_norm){.kind = kind, .eps = eps, .weight = present(weight), .bias = present(bias), .act = act});
}

void zoe_timestep_embedding(float *rows, const double *timesteps, int64_t count, int64_t dim) {
    int64_t half = dim / 2;
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < half; j++) {
            /* The reference computes frequency and angle in float32. */
            float frequency = expf((float)(-log(10000.0)) * (float)j / (float)half);
            float angle = (float)timesteps[i] * frequency;
            rows[i * dim + j] = cosf(angle);
            rows[i * dim + half + j] = sinf(angle);
        }
}

void zoe_rotary_grid(float *cos_table, float *sin_table, const int64_t grid[3], const int64_t dim[3], double theta) {
    const int64_t half = (dim[0] + dim[1] + dim[2]) / 2;
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < grid[0] * grid[1] * grid[2]; token++) {
        int64_t position[3] = {token / (grid[1] * grid[2]), token / grid[2] % grid[1], token % grid[2]};
        int64_t at = token * half;
        for (int axis = 0; axis < 3; axis++)
            for (int64_t i = 0; i < dim[axis] / 2; i++, at++) {
                double angle = (double)position[axis] * pow(theta, -2.0 * (double)i / (double)dim[axis]);
                cos_table[at] = (float)cos(angle);
                sin_table[at] = (float)sin(angle);
            }
    }
}

int zoe_nn_from_host(zoe_backend *be, zoe_tensor *t, zoe_dtype dtype, int rank, const int64_t *shape, const void *host) {
    ZOE_TRY(zoe_new_tensor(be, t, dtype, rank, shape));
    return zoe_upload(be, t, host);
}
