/*
 * What the families' denoisers share: the timestep's part of a forward, and the two halves of a transformer block,
 * attention among all tokens and the MLP.
 *
 * A step with guidance is a forward with two branches, one for each prompt. They go through the network one after the
 * other or, where the backend says `together`, both through each block before the next one: then weights that come and go
 * come once a step instead of twice, for one hidden state more. Each branch's operations are the same either way.
 */
#ifndef ZOE_NN_BLOCK_H
#define ZOE_NN_BLOCK_H

#include "nn/nn.h"

#define ZOE_BRANCHES 2

/* Layers that the timestep goes through. */
typedef struct zoe_time_layers {
    zoe_lin first, second, projection;
} zoe_time_layers;

/* What becomes of timesteps, one row a group of tokens. */
typedef struct zoe_modulation {
    zoe_tensor embedding; /* [groups, width] f32 */
    zoe_tensor six;       /* [groups, 6, width] f32: projected, before a block adds its table */
} zoe_modulation;

/* From sinusoids of `sinusoid` channels; on the arena. */
int zoe_nn_modulation(zoe_backend *be, const zoe_time_layers *layers, int64_t sinusoid, int64_t groups,
                      const double *timesteps, zoe_modulation *m);

/* rows [groups, n, width] = table [n, width] + base [groups, n or 1, width] */
int zoe_nn_add_table(zoe_backend *be, const zoe_tensor *table, const zoe_tensor *base, zoe_tensor *rows);

/* Row j of modulation rows [groups, n, width], as [groups, width]. */
zoe_tensor zoe_nn_chunk(const zoe_tensor *rows, int j);

/* Projections of attention, and the weights and biases of the norms of queries and keys (rank 0: none). */
typedef struct zoe_projections {
    zoe_lin q, k, v, o;
    zoe_lin norm_q, norm_k;
} zoe_projections;

/*
 * x [tokens, width] += gate * o(attention), queries, keys and values from norm(x); qk says how queries and keys are
 * prepared, its weight and bias excepted. gate [groups, width] by the norm's row groups.
 */
int zoe_nn_self_attention(zoe_backend *be, zoe_tensor *x, const zoe_norm *norm, const zoe_projections *p, const zoe_qk *qk,
                          const zoe_tensor *gate);

/* Row `layer` of keys and values [layers, rows, width]: norm(x k) and x v of the rows x that attention goes to. */
int zoe_nn_keys_values(zoe_backend *be, const zoe_tensor *x, const zoe_lin *k, const zoe_lin *v, const zoe_tensor *norm,
                       float eps, int layer, const zoe_tensor *keys, const zoe_tensor *values);

/* x [tokens, width] += gate * down(gelu(up(norm(x)))), some rows at a time. */
int zoe_nn_mlp(zoe_backend *be, zoe_tensor *x, const zoe_norm *norm, const zoe_lin *up, const zoe_lin *down,
               const zoe_tensor *gate);

#endif
