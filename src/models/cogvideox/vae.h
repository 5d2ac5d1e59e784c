/*
 * The CogVideoX video autoencoder: 4x8x8, causal convolutions over time, group norms over whole chunks of frames, and in
 * the decoder norms whose scale and shift are maps made from the latents.
 *
 * Chunks (two latent frames, the first three if the number is odd) are part of the model: the norms' statistics depend on
 * them. What a causal convolution needs of the past is carried from chunk to chunk, so that memory does not grow with the
 * clip.
 */
#ifndef ZOE_MODELS_COGVIDEOX_VAE_H
#define ZOE_MODELS_COGVIDEOX_VAE_H

#include "formats/json.h"
#include "nn/film.h"
#include "nn/nn.h"

#define ZOE_COGVIDEOX_VAE_LEVELS 4

typedef struct zoe_cogvideox_vae_config {
    int64_t channels; /* of the latent */
    int64_t widths[ZOE_COGVIDEOX_VAE_LEVELS];
    int64_t resnets; /* of an encoder level; decoder levels have one more */
    int64_t groups;
    double eps;
    double scale;      /* latents are the encoder's numbers times this */
    bool invert_scale; /* pictures are divided by it instead */
    int64_t sample[2]; /* height and width that the reference's tiles are half of */
} zoe_cogvideox_vae_config;

/* From a diffusers config.json. */
int zoe_cogvideox_vae_config_read(const zoe_config *config, zoe_cogvideox_vae_config *out);

/* Of the authors' own file, but for its scale: as its tensors tell. */
int zoe_cogvideox_vae_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, zoe_cogvideox_vae_config *out);

#define ZOE_COGVIDEOX_VAE_TIME  4 /* frames per latent frame */
#define ZOE_COGVIDEOX_VAE_SPACE 8 /* pixels per latent */

typedef struct zoe_cogvideox_vae zoe_cogvideox_vae;

/* ckpt NULL: random weights. */
int zoe_cogvideox_vae_create(zoe_backend *be, const zoe_cogvideox_vae_config *config, const zoe_checkpoint *ckpt,
                             zoe_cogvideox_vae **out);
void zoe_cogvideox_vae_free(zoe_cogvideox_vae *vae);
const zoe_cogvideox_vae_config *zoe_cogvideox_vae_configuration(const zoe_cogvideox_vae *vae);
zoe_weights *zoe_cogvideox_vae_weights(zoe_cogvideox_vae *vae);

/*
 * latents [frames, channels, height, width] float32, scaled as the denoiser has them. An odd number of latent frames n
 * gives 4 (n - 1) + 1 frames, an even one 4 n.
 */
int zoe_cogvideox_vae_decode(zoe_cogvideox_vae *vae, const zoe_tensor *latents, const zoe_tiling *tiling,
                             zoe_frame_sink sink, void *user);

/*
 * One picture [height, width, 3] float32 in -1..1 on the host: mean and logarithm of the variance of its posterior,
 * unscaled, moments [2, channels, height / 8, width / 8] float32 on the host.
 */
int zoe_cogvideox_vae_encode(zoe_cogvideox_vae *vae, const float *picture, int64_t height, int64_t width, float *moments);

#endif
