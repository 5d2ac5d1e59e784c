/* Layers that several families share, and the small tables that go with them. */
#ifndef ZOE_NN_NN_H
#define ZOE_NN_NN_H

#include "weights/weights.h"

/* A linear layer: w [out, in], b [out] (data NULL: none). */
typedef struct zoe_lin {
    zoe_tensor w, b;
} zoe_lin;

/* Slot rows of a linear layer `member` of `type`; `when` as in zoe_slot. */
#define ZOE_LIN_SLOTS_OF(kind, type, member, key, out, in, when_letter)                                                    \
    {key ".weight", offsetof(type, member.w), kind, out " " in, when_letter}, {                                            \
        key ".bias", offsetof(type, member.b), ZOE_SLOT_VECTOR, out, when_letter                                           \
    }
#define ZOE_LIN_SLOTS(type, member, key, out, in, when_letter)                                                             \
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_LINEAR, type, member, key, out, in, when_letter)

/*
 * The type in which rows are best written that go into layers with weights like lin's: quantised once for all of them where
 * the backend can, else that of the backend's activations. Known while the weights are loaded.
 */
zoe_dtype zoe_nn_rows_for(const zoe_backend *be, const zoe_lin *lin);

/* y = act(x w^T + b) */
int zoe_nn_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_lin *lin, zoe_act act);

/* y = residual + gate * (x w^T + b); gate [groups, out] or NULL. */
int zoe_nn_linear_add(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_lin *lin, const zoe_tensor *residual,
                      const zoe_tensor *gate, const zoe_tensor *row_group);

/* Norm with an affine weight and bias, either of which may have no data. */
int zoe_nn_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, zoe_norm_kind kind, float eps,
                const zoe_tensor *weight, const zoe_tensor *bias, zoe_act act);

/*
 * Sinusoidal embedding of timesteps (0..1000): row i is [cos(t_i f_0..), sin(t_i f_0..)], f_j = 10000^(-j / (dim / 2)).
 * rows [count, dim] on the host.
 */
void zoe_timestep_embedding(float *rows, const double *timesteps, int64_t count, int64_t dim);

/*
 * Rotary tables of a [frames, height, width] grid of tokens in that order: cos and sin [tokens, head_dim / 2] on the host.
 * The head's channels are split into time, height and width parts of dim[0..2] channels; frequencies theta^(-2i / dim).
 */
void zoe_rotary_grid(float *cos, float *sin, const int64_t grid[3], const int64_t dim[3], double theta);

/* A host array copied into a fresh tensor on the arena. */
int zoe_nn_from_host(zoe_backend *be, zoe_tensor *t, zoe_dtype dtype, int rank, const int64_t *shape, const void *host);

#endif
