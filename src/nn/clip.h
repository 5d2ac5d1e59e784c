/*
 * The vision tower of CLIP: a ViT with a class token and pre-norm blocks (Radford et al. 2021).
 * Only what conditions video models is computed: the hidden states before the last block.
 */
#ifndef ZOE_NN_CLIP_H
#define ZOE_NN_CLIP_H

#include "formats/json.h"
#include "nn/nn.h"

typedef struct zoe_clip_config {
    int64_t width, ffn, layers, heads, image, patch; /* image: side of the square picture in pixels */
    double eps;
} zoe_clip_config;

/* From a transformers config.json, a clip_vision_model's or that of a whole clip model. */
int zoe_clip_config_read(const zoe_config *config, zoe_clip_config *out);

typedef struct zoe_clip zoe_clip;

/* Names are those of transformers ("vision_model...."), or of `aliases`. ckpt NULL: random weights. */
int zoe_clip_create(zoe_backend *be, const zoe_clip_config *config, const zoe_checkpoint *ckpt, const zoe_alias *aliases,
                    zoe_weight_form form, zoe_clip **out);
void zoe_clip_free(zoe_clip *clip);
zoe_weights *zoe_clip_weights(zoe_clip *clip);
const zoe_clip_config *zoe_clip_configuration(const zoe_clip *clip);

/* Rows of the result: one for each patch and the class token. */
int64_t zoe_clip_rows(const zoe_clip_config *config);

/* states [rows, width] on the host from pixels [image, image, 3] on the host, normalised; the class token comes first. */
int zoe_clip_encode(zoe_clip *clip, const float *pixels, float *states);

#endif
