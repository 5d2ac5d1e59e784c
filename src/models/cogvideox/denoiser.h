/*
 * The CogVideoX denoiser: a transformer over text and video patches in one sequence, whose two kinds of tokens have
 * modulations of their own, with additive or rotary positions.
 * Source: Yang et al., "CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer", 2024; diffusers'
 * CogVideoXTransformer3DModel.
 */
#ifndef ZOE_MODELS_COGVIDEOX_DENOISER_H
#define ZOE_MODELS_COGVIDEOX_DENOISER_H

#include "formats/json.h"
#include "nn/nn.h"

typedef struct zoe_cogvideox_config {
    int64_t layers, heads, head_dim, in_channels, out_channels, time_dim;
    int64_t text_dim, text_rows;    /* rows of text in the sequence, padding included */
    int64_t ofs_dim;                /* width of the motion embedding of 1.5 I2V; 0: none */
    int64_t patch, patch_time;      /* pixels of the latent, frames; patch_time 0: of version 1.0, one frame */
    int64_t sample_frames;          /* in frames of the video */
    int64_t sample_size[2];         /* height and width in latents */
    int64_t time_ratio;             /* frames per latent frame */
    double space_scale, time_scale; /* additive positions are divided by these */
    bool rotary, learned;           /* rotary positions; a learned table of positions */
    double eps;
} zoe_cogvideox_config;

/* From a diffusers config.json. */
int zoe_cogvideox_config_read(const zoe_config *config, zoe_cogvideox_config *out);

/* Of a checkpoint of the authors' own layout, which has no configuration: as its tensors tell. */
int zoe_cogvideox_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, zoe_cogvideox_config *out);

/* Latent frames and video tokens of `sample_frames` frames of the sample size. */
int64_t zoe_cogvideox_sample_latents(const zoe_cogvideox_config *config);
int64_t zoe_cogvideox_sample_tokens(const zoe_cogvideox_config *config);

typedef struct zoe_cogvideox_denoiser zoe_cogvideox_denoiser;

/* Binds and checks the weights. ckpt NULL: random weights. */
int zoe_cogvideox_denoiser_create(zoe_backend *be, const zoe_cogvideox_config *config, const zoe_checkpoint *ckpt,
                                  zoe_weight_form form, zoe_cogvideox_denoiser **out);
void zoe_cogvideox_denoiser_free(zoe_cogvideox_denoiser *d);
zoe_weights *zoe_cogvideox_denoiser_weights(zoe_cogvideox_denoiser *d);
const zoe_cogvideox_config *zoe_cogvideox_denoiser_config(const zoe_cogvideox_denoiser *d);

/* What stays the same from step to step, on the arena. Tokens: text first, then the video's. */
typedef struct zoe_cogvideox_grid {
    int64_t size[3];       /* video tokens along time, height, width */
    int64_t video, tokens; /* video tokens; all tokens */
    zoe_tensor kind;       /* [tokens] i32: 0 video, 1 text */
    zoe_tensor cos, sin;   /* [tokens, head_dim / 2], no rotation for text; rank 0 without rotary positions */
    zoe_tensor positions;  /* [video, width] that is added to the video's tokens; rank 0: none, or the learned table */
    bool learned;          /* the learned table is added to all tokens */
} zoe_cogvideox_grid;

/* For latents [frames, channels, height, width]; a size that the model has no positions for is an error. */
int zoe_cogvideox_grid_create(zoe_cogvideox_denoiser *d, int64_t frames, int64_t height, int64_t width,
                              zoe_cogvideox_grid *grid);

/* text [text_rows, text_dim] float32 on the host, projected to tokens [text_rows, width] on the arena. */
int zoe_cogvideox_text_create(zoe_cogvideox_denoiser *d, const float *text, zoe_tensor *tokens);

/* One prompt's part of a step: v [frames, out_channels, height, width] float32 receives the prediction. */
typedef struct zoe_cogvideox_branch {
    const zoe_tensor *text;
    zoe_tensor *v;
} zoe_cogvideox_branch;

/*
 * A forward for each of `count` branches, up to ZOE_BRANCHES. parts: 1 or 2 latents [frames, channels_i, height, width]
 * float32 that are joined over channels to in_channels.
 */
int zoe_cogvideox_denoiser_forward(zoe_cogvideox_denoiser *d, const zoe_cogvideox_grid *grid, int parts,
                                   const zoe_tensor *const *latents, double timestep, int count,
                                   const zoe_cogvideox_branch *branches);

/* ---- tables of positions on the host (position.c) ---- */

/* rows [tokens, width]: sines and cosines of time, width and height, in this order of channels. */
void zoe_cogvideox_sincos(float *rows, const int64_t grid[3], int64_t width, double time_scale, double space_scale);

/* cos and sin [tokens, head_dim / 2]; version 1.0 spreads the sizes that differ from the sample over its positions. */
void zoe_cogvideox_rotary(const zoe_cogvideox_config *config, const int64_t grid[3], float *cos, float *sin);

#endif
