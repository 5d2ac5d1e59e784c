/*
 * The published network that doubles the height and width of LTX-Video's latents, and what is done to the latents after it.
 * Source: diffusers' LTXLatentUpsamplerModel and LTXLatentUpsamplePipeline.
 */
#ifndef ZOE_MODELS_LTX_UPSAMPLER_H
#define ZOE_MODELS_LTX_UPSAMPLER_H

#include "nn/nn.h"

typedef struct zoe_ltx_upsampler_config {
    int64_t channels, width, blocks; /* blocks: of each of the two stages */
} zoe_ltx_upsampler_config;

/* The sizes as the tensors tell them, in the diffusers layout and in Lightricks' own file alike. */
int zoe_ltx_upsampler_config_read(zoe_context *ctx, const zoe_checkpoint *ckpt, zoe_ltx_upsampler_config *out);

typedef struct zoe_ltx_upsampler zoe_ltx_upsampler;

/* ckpt NULL: random weights. */
int zoe_ltx_upsampler_create(zoe_backend *be, const zoe_ltx_upsampler_config *config, const zoe_checkpoint *ckpt,
                             zoe_ltx_upsampler **out);
void zoe_ltx_upsampler_free(zoe_ltx_upsampler *u); /* NULL is fine */
zoe_weights *zoe_ltx_upsampler_weights(zoe_ltx_upsampler *u);
const zoe_ltx_upsampler_config *zoe_ltx_upsampler_configuration(const zoe_ltx_upsampler *u);

/*
 * latents [frames, height, width, channels] float32, not normalised, on the host; out [frames, 2 height, 2 width, channels]
 * receives the larger ones.
 */
int zoe_ltx_upsampler_run(zoe_ltx_upsampler *u, const float *latents, const int64_t size[3], float *out);

/*
 * Gives each channel of `latents` [count, channels] the mean and deviation that it has in `reference` [reference_count,
 * channels], by `factor`; 0 leaves them as they are.
 */
void zoe_ltx_match_statistics(float *latents, int64_t count, const float *reference, int64_t reference_count,
                              int64_t channels, double factor);

/* Draws large values in: ratio 0 leaves them as they are, 1 is the most. */
void zoe_ltx_tone_map(float *latents, int64_t count, double ratio);

#endif
