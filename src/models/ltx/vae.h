/*
 * The LTX-Video autoencoder: 8x32x32 with 128 channels. The encoder is causal; the decoder looks both ways in time and,
 * from version 0.9.1 on, takes the last denoising step itself, told the noise level by a timestep.
 *
 * The decoder runs frame by frame: every convolution waits for the frame after the one that it computes, and carries the
 * one before. This gives the numbers of the whole clip at once, in memory that does not grow with the clip.
 */
#ifndef ZOE_MODELS_LTX_VAE_H
#define ZOE_MODELS_LTX_VAE_H

#include "formats/json.h"
#include "nn/film.h"
#include "nn/nn.h"
#include "sample/noise.h"

#define ZOE_LTX_VAE_LEVELS 5 /* most that either direction can have */

typedef struct zoe_ltx_vae_config {
    int64_t channels, patch; /* channels of the latent; pixels packed into channels along each axis */
    /* encoder */
    int levels;
    bool shuffles; /* 0.9.5: levels end by packing pixels into channels, beside a shortcut; else by a convolution of stride
                      2 */
    int64_t widths[ZOE_LTX_VAE_LEVELS];     /* before each level */
    int64_t out_widths[ZOE_LTX_VAE_LEVELS]; /* after each level */
    int64_t layers[ZOE_LTX_VAE_LEVELS + 1]; /* resnets of each level and of the middle */
    int64_t stride[ZOE_LTX_VAE_LEVELS][2];  /* of each level's end, in time and space; 1, 1: none */
    /* decoder, from the latents on */
    int up_levels;
    int64_t up_widths[ZOE_LTX_VAE_LEVELS + 1]; /* of the middle and of each level */
    int64_t up_layers[ZOE_LTX_VAE_LEVELS + 1]; /* of the middle and of each level */
    bool up_scales[ZOE_LTX_VAE_LEVELS];
    bool up_residual[ZOE_LTX_VAE_LEVELS];  /* a shortcut around the enlarging convolution */
    int64_t up_factor[ZOE_LTX_VAE_LEVELS]; /* by how much enlarging narrows */
    bool up_noise[ZOE_LTX_VAE_LEVELS + 1]; /* 0.9.1: noise is added after each convolution; of the middle and each level */
    bool timestep;
    double eps;
} zoe_ltx_vae_config;

/* From a diffusers config.json. */
int zoe_ltx_vae_config_read(const zoe_config *config, zoe_ltx_vae_config *out);

/* Of a file without a configuration: as its tensors tell. */
int zoe_ltx_vae_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, zoe_ltx_vae_config *out);

int64_t zoe_ltx_vae_time_factor(const zoe_ltx_vae_config *config);  /* frames per latent frame: 8 */
int64_t zoe_ltx_vae_space_factor(const zoe_ltx_vae_config *config); /* pixels per latent: 32 */

typedef struct zoe_ltx_vae zoe_ltx_vae;

/* ckpt NULL: random weights. */
int zoe_ltx_vae_create(zoe_backend *be, const zoe_ltx_vae_config *config, const zoe_checkpoint *ckpt, zoe_ltx_vae **out);
void zoe_ltx_vae_free(zoe_ltx_vae *vae);
const zoe_ltx_vae_config *zoe_ltx_vae_configuration(const zoe_ltx_vae *vae);
zoe_weights *zoe_ltx_vae_weights(zoe_ltx_vae *vae);

/* Noise level of the latents that a timestep-conditioned decoder is given, as its authors recommend. */
#define ZOE_LTX_DECODE_NOISE    0.025
#define ZOE_LTX_DECODE_TIMESTEP 0.05

/*
 * latents [frames, height, width, channels] float32, normalised as the denoiser has them: 8 (frames - 1) + 1 frames of the
 * video. Timestep-conditioned decoders get noise mixed in; it and that of 0.9.1 is drawn from `generator`.
 */
int zoe_ltx_vae_decode(zoe_ltx_vae *vae, const zoe_tensor *latents, zoe_generator *generator, const zoe_tiling *tiling,
                       zoe_frame_sink sink, void *user);

/*
 * A clip of 8n + 1 frames [frames, height, width, 3] float32 in -1..1 on the host: a sample of its posterior, normalised,
 * latents [n + 1, height / 32, width / 32, channels] on the host.
 */
int zoe_ltx_vae_encode(zoe_ltx_vae *vae, const float *clip, int64_t frames, int64_t height, int64_t width,
                       zoe_generator *generator, float *latents);

#endif
