/*
 * The LTX-Video denoiser: a transformer over latent pixels with rotary positions in seconds and pixels, cross-attention to
 * text, and a modulation by the timestep that may differ from token to token.
 * Source: HaCohen et al., "LTX-Video: Realtime Video Latent Diffusion", 2024; diffusers' LTXVideoTransformer3DModel.
 */
#ifndef ZOE_MODELS_LTX_DENOISER_H
#define ZOE_MODELS_LTX_DENOISER_H

#include "formats/json.h"
#include "nn/nn.h"

typedef struct zoe_ltx_config {
    int64_t layers, heads, head_dim, in_channels, out_channels, text_dim;
    double eps;
} zoe_ltx_config;

/* From a diffusers config.json. */
int zoe_ltx_config_read(const zoe_config *config, zoe_ltx_config *out);

/* Of a file without a configuration: sizes as the tensors tell them, `heads` as the caller says. */
int zoe_ltx_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, int64_t heads, zoe_ltx_config *out);

typedef struct zoe_ltx_denoiser zoe_ltx_denoiser;

/* Binds and checks the weights. ckpt NULL: random weights. */
int zoe_ltx_denoiser_create(zoe_backend *be, const zoe_ltx_config *config, const zoe_checkpoint *ckpt, zoe_weight_form form,
                            zoe_ltx_denoiser **out);
void zoe_ltx_denoiser_free(zoe_ltx_denoiser *d);
zoe_weights *zoe_ltx_denoiser_weights(zoe_ltx_denoiser *d);
const zoe_ltx_config *zoe_ltx_denoiser_config(const zoe_ltx_denoiser *d);

/* Where the latent pixels are, for the rotary positions. */
typedef struct zoe_ltx_place {
    int64_t size[3]; /* latent frames, height, width */
    double fps;
    bool causal; /* latent frame 0 is one frame of the video, the others eight each; else all are eight each */
    /* Further latent frames in front of those: how many, and the frame of the video that each begins at. */
    int64_t fronts;
    const int64_t *front_pixels;
    /* Groups of tokens with timesteps of their own: how many, and [tokens] the group of each. Up to 1: one for all. */
    int levels;
    const int32_t *groups;
} zoe_ltx_place;

#define ZOE_LTX_LEVELS 18 /* most groups */

/* What stays the same from step to step, on the arena. Tokens: those of the frames in front, then the video's. */
typedef struct zoe_ltx_grid {
    int64_t front, video, tokens;
    int levels;
    zoe_tensor groups;   /* [tokens] i32, or rank 0 with one group */
    zoe_tensor cos, sin; /* [tokens, width / 2] */
} zoe_ltx_grid;

int zoe_ltx_grid_create(zoe_ltx_denoiser *d, const zoe_ltx_place *place, zoe_ltx_grid *grid);

/* One prompt for every block, on the arena. */
typedef struct zoe_ltx_context {
    zoe_tensor text;         /* [rows, width], embedded */
    zoe_tensor keys, values; /* [layers, rows, width], made when the first forward comes to a block */
    int done;                /* blocks that have them */
} zoe_ltx_context;

/* text [count, text_dim] float32 on the host: the prompt's rows without padding. */
int zoe_ltx_context_create(zoe_ltx_denoiser *d, const float *text, int64_t count, zoe_ltx_context *context);

/* One prompt's part of a step: v [video or tokens, out_channels] float32 receives the velocity of the last tokens. */
typedef struct zoe_ltx_branch {
    zoe_ltx_context *context;
    zoe_tensor *v;
} zoe_ltx_branch;

/*
 * A forward for each of `count` branches, up to ZOE_BRANCHES. latents [video, in_channels] float32; front [grid->front,
 * in_channels], or NULL without frames in front; timesteps[grid->levels].
 */
int zoe_ltx_denoiser_forward(zoe_ltx_denoiser *d, const zoe_ltx_grid *grid, const zoe_tensor *front,
                             const zoe_tensor *latents, const double *timesteps, int count, const zoe_ltx_branch *branches);

#endif
