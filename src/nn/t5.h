/*
 * T5 v1.1 and UMT5 text encoders: pre-norm blocks with unscaled attention, relative position buckets and a gated GELU.
 * Source: Raffel et al. 2020 (T5), Chung et al. 2023 (UMT5: a position table in every block).
 */
#ifndef ZOE_NN_T5_H
#define ZOE_NN_T5_H

#include "formats/json.h"
#include "nn/nn.h"

typedef struct zoe_t5_config {
    int64_t width, head_dim, heads, ffn, layers, vocabulary, buckets, max_distance;
    double eps;
    bool table_in_every_block; /* UMT5 */
} zoe_t5_config;

typedef struct zoe_t5 zoe_t5;

/* From a transformers config.json of model_type "t5" or "umt5". */
int zoe_t5_config_read(const zoe_config *config, zoe_t5_config *out);

/* For checkpoints without a configuration: the sizes as the tensors' shapes tell them. */
int zoe_t5_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, const zoe_alias *aliases,
                                  zoe_t5_config *out);

/* Binds and checks the weights. aliases may be NULL; ckpt NULL: random weights. */
int zoe_t5_create(zoe_backend *be, const zoe_t5_config *config, const zoe_checkpoint *ckpt, const zoe_alias *aliases,
                  zoe_weight_form form, zoe_t5 **out);
void zoe_t5_free(zoe_t5 *t5);
zoe_weights *zoe_t5_weights(zoe_t5 *t5);
const zoe_t5_config *zoe_t5_configuration(const zoe_t5 *t5);

/* Hidden states after the final norm, states [count, width] float32 on the host, of `count` token ids (no padding among
 * them). */
int zoe_t5_encode(zoe_t5 *t5, const int32_t *ids, int64_t count, float *states);

/* The same where only the first `attended` rows are attended to, as with a mask over padding. */
int zoe_t5_encode_masked(zoe_t5 *t5, const int32_t *ids, int64_t count, int64_t attended, float *states);

/* As zoe_t5_encode_masked(); the states of the last few prompts are kept, so that they need no encoder when they come
 * again. */
int zoe_t5_states(zoe_t5 *t5, const int32_t *ids, int64_t count, int64_t attended, float *states);

/* Bucket of a relative position key - query (bidirectional). */
int zoe_t5_bucket(int64_t relative, int64_t buckets, int64_t max_distance);

#endif
