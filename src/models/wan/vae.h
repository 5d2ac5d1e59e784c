/*
 * The Wan video autoencoders (2.1: 4x8x8 with 16 channels; 2.2: 4x16x16 with 48): causal convolutions over time.
 *
 * Both directions run frame by frame, each frame through all levels before the next one starts. What a causal convolution
 * needs of the past is carried in two frames of history, so memory does not grow with the clip and frames come out as they
 * are ready. This gives the numbers of the reference's chunked run: there, too, the first frame takes no part in
 * temporal resampling and histories start as zeros.
 */
#ifndef ZOE_MODELS_WAN_VAE_H
#define ZOE_MODELS_WAN_VAE_H

#include "formats/json.h"
#include "nn/film.h"
#include "nn/nn.h"

#define ZOE_WAN_VAE_LEVELS 4

typedef struct zoe_wan_vae_config {
    int64_t base, decoder_base, channels; /* channels: of the latent */
    int64_t multiples[ZOE_WAN_VAE_LEVELS];
    int64_t resnets;                          /* of an encoder level; decoder levels have one more */
    int64_t temporal[ZOE_WAN_VAE_LEVELS - 1]; /* encoder level halves the frames too */
    bool residual;                            /* 2.2: shortcuts around whole levels */
    int64_t patch;                            /* pixels packed into channels: 1 or 2 */
    double *mean, *std;                       /* [channels], owned */
} zoe_wan_vae_config;

/* From a diffusers config.json. Free with zoe_wan_vae_config_free(). */
int zoe_wan_vae_config_read(const zoe_config *config, zoe_wan_vae_config *out);
/* Of a checkpoint in Wan-AI's own layout, which has no configuration: its kind and widths; the rest is as published. */
int zoe_wan_vae_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, zoe_wan_vae_config *out);
void zoe_wan_vae_config_free(zoe_context *ctx, zoe_wan_vae_config *config);

int64_t zoe_wan_vae_time_factor(const zoe_wan_vae_config *config);  /* frames per latent frame: 4 */
int64_t zoe_wan_vae_space_factor(const zoe_wan_vae_config *config); /* pixels per latent: 8 or 16 */

typedef struct zoe_wan_vae zoe_wan_vae;

/* Takes over the configuration, also on failure. ckpt NULL: random weights. */
int zoe_wan_vae_create(zoe_backend *be, zoe_wan_vae_config *config, const zoe_checkpoint *ckpt, zoe_wan_vae **out);
void zoe_wan_vae_free(zoe_wan_vae *vae);
const zoe_wan_vae_config *zoe_wan_vae_configuration(const zoe_wan_vae *vae);
zoe_weights *zoe_wan_vae_weights(zoe_wan_vae *vae);

/* latents [channels, frames, height, width] float32, normalised as the denoiser has them. Frames are in -1..1. */
int zoe_wan_vae_decode(zoe_wan_vae *vae, const zoe_tensor *latents, const zoe_tiling *tiling, zoe_frame_sink sink,
                       void *user);

/* Fills frame number `index` [height, width, 3] float32 in -1..1 on the host. */
typedef int (*zoe_wan_frame_source)(void *user, int64_t index, float *frame);

/*
 * Mode of the posterior, normalised, of `frames` (4 n + 1) frames: latents [channels, n + 1, height / s, width / s]
 * float32 on the backend.
 */
int zoe_wan_vae_encode(zoe_wan_vae *vae, int64_t frames, zoe_wan_frame_source source, void *user, zoe_tensor *latents);

#endif
