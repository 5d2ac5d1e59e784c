/* The two halves of a transformer block that the families' denoisers share: attention among all tokens, and the MLP. */
#ifndef ZOE_NN_BLOCK_H
#define ZOE_NN_BLOCK_H

#include "nn/nn.h"

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

/* x [tokens, width] += gate * down(gelu(up(norm(x)))), some rows at a time. */
int zoe_nn_mlp(zoe_backend *be, zoe_tensor *x, const zoe_norm *norm, const zoe_lin *up, const zoe_lin *down,
               const zoe_tensor *gate);

#endif
