/*
 * The Wan 2.1 / 2.2 denoiser: a transformer over video patches with rotary self-attention, cross-attention to text (and
 * image features), and a modulation by the timestep that may differ from token to token.
 * Source: Wan-AI, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025; diffusers' WanTransformer3DModel.
 */
#ifndef ZOE_MODELS_WAN_DENOISER_H
#define ZOE_MODELS_WAN_DENOISER_H

#include "formats/json.h"
#include "nn/nn.h"

#define ZOE_WAN_TEXT_ROWS 512 /* rows of text that cross-attention sees, padding included */

typedef struct zoe_wan_config {
    int64_t layers, heads, head_dim, ffn, in_channels, out_channels, text_dim, freq_dim;
    int64_t patch[3];        /* time, height, width; time 1 */
    int64_t image_dim;       /* width of image features; 0: none */
    int64_t image_positions; /* rows of the learned positions of image features; 0: none */
    double eps;
} zoe_wan_config;

/* From a diffusers config.json, or (no _class_name) from one in Wan-AI's own layout. */
int zoe_wan_config_read(const zoe_config *config, zoe_wan_config *out);

/* Wan-AI's own config.json does not say whether there is an image branch: the tensors do. */
void zoe_wan_config_complete(zoe_wan_config *config, const zoe_checkpoint *ckpt);

typedef struct zoe_wan_denoiser zoe_wan_denoiser;

/* Binds and checks the weights; names of Wan-AI's own files are understood too. ckpt NULL: random weights. */
int zoe_wan_denoiser_create(zoe_backend *be, const zoe_wan_config *config, const zoe_checkpoint *ckpt, zoe_weight_form form,
                            zoe_wan_denoiser **out);
void zoe_wan_denoiser_free(zoe_wan_denoiser *d);
zoe_weights *zoe_wan_denoiser_weights(zoe_wan_denoiser *d);
const zoe_wan_config *zoe_wan_denoiser_config(const zoe_wan_denoiser *d);

/* What stays the same from step to step, on the arena: rotary tables of the grid. */
typedef struct zoe_wan_grid {
    int64_t size[3]; /* tokens along time, height, width */
    int64_t tokens;
    zoe_tensor cos, sin; /* [tokens, head_dim / 2] */
} zoe_wan_grid;

/* For latents [in_channels, frames, height, width]. */
int zoe_wan_grid_create(zoe_wan_denoiser *d, int64_t frames, int64_t height, int64_t width, zoe_wan_grid *grid);

/*
 * Keys and values of one prompt (and the image) in every block, on the arena: computed once a request, by the first forward
 * as it comes to each block, so that weights which do not stay need not come twice.
 */
typedef struct zoe_wan_context {
    zoe_tensor text, image;              /* embedded: [rows, width], [image rows, width] */
    int done;                            /* blocks whose keys and values are there */
    zoe_tensor keys, values;             /* [layers, rows, width] of the text */
    zoe_tensor image_keys, image_values; /* [layers, image rows, width]; rank 0 without image */
    int64_t last_repeats;                /* equal rows that the last text row stands for */
} zoe_wan_context;

/*
 * text [count, text_dim] float32 on the host: the prompt's rows without padding, of ZOE_WAN_TEXT_ROWS in all.
 * image [image_rows, image_dim] float32 on the host, or NULL.
 */
int zoe_wan_context_create(zoe_wan_denoiser *d, const float *text, int64_t count, const float *image, int64_t image_rows,
                           zoe_wan_context *context);

/*
 * What a step begins with. parts: up to 3 latents [channels_i, frames, height, width] float32 that are joined over channels
 * to in_channels; timesteps [groups] with groups 1 or 2: group 1 covers all tokens from `start` on, group 0 those before
 * it.
 */
typedef struct zoe_wan_step {
    int parts;
    const zoe_tensor *const *latents;
    int groups;
    const double *timesteps;
    int64_t start;
} zoe_wan_step;

/* One prompt's part of a step: v [out_channels, frames, height, width] float32 receives the predicted velocity. */
typedef struct zoe_wan_branch {
    zoe_wan_context *context;
    zoe_tensor *v;
} zoe_wan_branch;

/* A forward for each of `count` branches, up to ZOE_BRANCHES. */
int zoe_wan_denoiser_forward(zoe_wan_denoiser *d, const zoe_wan_grid *grid, const zoe_wan_step *step, int count,
                             const zoe_wan_branch *branches);

#endif
