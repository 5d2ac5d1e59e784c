/* Pieces of the CogVideoX autoencoder; every activation is a chunk [frames, height, width, channels]. */
#ifndef ZOE_MODELS_COGVIDEOX_VAE_BLOCKS_H
#define ZOE_MODELS_COGVIDEOX_VAE_BLOCKS_H

#include "models/cogvideox/vae.h"
#include "nn/conv.h"

#define ZOE_COGVIDEOX_VAE_RESNETS 8 /* most that a level can have */

/* A group norm, in the decoder with convolutions of the latents that make its maps. */
typedef struct cogvideox_norm {
    zoe_tensor w, b;          /* [channels] */
    zoe_carrier scale, shift; /* 1x1x1; w.rank 0 in the encoder */
} cogvideox_norm;

typedef struct cogvideox_resnet {
    cogvideox_norm norm_1, norm_2;
    zoe_carrier conv_1, conv_2;
    zoe_carrier shortcut; /* 1x1x1; w.rank 0 where the channels stay */
} cogvideox_resnet;

typedef struct cogvideox_level {
    int64_t in, out;
    int resnet_count;
    cogvideox_resnet resnets[ZOE_COGVIDEOX_VAE_RESNETS];
    bool resample, temporal;
    zoe_carrier space;
} cogvideox_level;

typedef struct cogvideox_coder {
    zoe_carrier conv_in, conv_out;
    cogvideox_resnet mid[2];
    cogvideox_norm norm_out;
    cogvideox_level levels[ZOE_COGVIDEOX_VAE_LEVELS];
} cogvideox_coder;

struct zoe_cogvideox_vae {
    zoe_backend *be;
    zoe_cogvideox_vae_config config;
    zoe_weights *weights;
    cogvideox_coder encoder, decoder;
};

#define ZOE_COGVIDEOX_VAE_ENCODER_UNIT 0
#define ZOE_COGVIDEOX_VAE_DECODER_UNIT 1

/* Binding. Prefixes end in a dot. `latent`: channels of the latents that make a norm's maps; 0: none. */
int zoe_cogvideox_bind_norm(zoe_weights *weights, cogvideox_norm *norm, int64_t channels, int64_t latent,
                            const char *prefix);
int zoe_cogvideox_bind_resnet(zoe_weights *weights, cogvideox_resnet *resnet, int64_t in, int64_t out, int64_t latent,
                              const char *prefix);

/* The reference's tiles: half of the published size, overlapping by a sixth of the height and a fifth of the width. */
int zoe_cogvideox_vae_tiles(const zoe_cogvideox_vae *vae, zoe_tiles *out);

/* An empty past for chunks of this size, on the arena. */
int zoe_cogvideox_begin_resnets(zoe_backend *be, cogvideox_resnet *resnets, int count, int64_t height, int64_t width);

/* y = conv(past, x) + residual, then the last frames of x are the past. */
int zoe_cogvideox_conv(zoe_backend *be, zoe_carrier *conv, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *residual);

/* y = silu(norm(x)); latents: the chunk [frames, height, width, channels] that makes the maps, or NULL. y may be x. */
int zoe_cogvideox_norm_silu(const zoe_cogvideox_vae *vae, const cogvideox_norm *norm, zoe_tensor *y, const zoe_tensor *x,
                            const zoe_tensor *latents);

/* All of a chain, of which only the first may change the channels. x is used up: *y may lie in its memory. */
int zoe_cogvideox_resnets(const zoe_cogvideox_vae *vae, cogvideox_resnet *resnets, int count, const zoe_tensor *latents,
                          const zoe_tensor *x, zoe_tensor *y);

#endif
