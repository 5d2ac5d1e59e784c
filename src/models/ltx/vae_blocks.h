/* Parts of the LTX-Video autoencoder. */
#ifndef ZOE_MODELS_LTX_VAE_BLOCKS_H
#define ZOE_MODELS_LTX_VAE_BLOCKS_H

#include "models/ltx/vae.h"
#include "nn/conv.h"

#define ZOE_LTX_VAE_RESNETS 16    /* most that a level can have */
#define ZOE_LTX_VAE_EPS     1e-8f /* of the norms without weights */

typedef struct ltx_resnet {
    zoe_carrier conv_1, conv_2;
    zoe_carrier shortcut;        /* 1x1x1; w.rank 0 where the channels stay */
    zoe_tensor norm_w, norm_b;   /* before the shortcut */
    zoe_tensor table;            /* [4, channels] of timestep-conditioned decoders */
    zoe_tensor noise_1, noise_2; /* [channels, 1, 1]: how much noise each channel takes */
    zoe_tensor rows;             /* [4, channels]: table and timestep, while a clip runs */
    zoe_tensor drawn_1, drawn_2; /* [height * width, 1]: noise, while a clip runs */
    zoe_tensor kept;             /* [2, height, width, in]: inputs whose outputs are still to come */
    int64_t taken, made;         /* frames in and out */
} ltx_resnet;

/* MLP of the timestep. */
typedef struct ltx_time {
    zoe_lin first, second;
} ltx_time;

typedef struct ltx_level {
    ltx_resnet change; /* 0.9.0: from one width to the next, at the encoder's level's end or the decoder's start */
    ltx_resnet resnets[ZOE_LTX_VAE_RESNETS];
    int resnet_count;
    zoe_carrier resample;
    ltx_time time;
    zoe_tensor kept;     /* decoder: [1, height, width, in], the frame whose enlarging waits for the next one */
    int64_t taken, made; /* decoder: frames in and out of the enlarging convolution */
} ltx_level;

typedef struct ltx_coder {
    zoe_carrier conv_in, conv_out;
    ltx_level mid;
    ltx_level levels[ZOE_LTX_VAE_LEVELS];
    ltx_time time;         /* before conv_out */
    zoe_tensor table;      /* [2, channels] */
    zoe_tensor rows;       /* [2, channels]: table and timestep, while a clip runs */
    zoe_tensor multiplier; /* of the timestep */
} ltx_coder;

struct zoe_ltx_vae {
    zoe_backend *be;
    zoe_ltx_vae_config config;
    zoe_weights *weights;
    ltx_coder encoder, decoder;
    zoe_tensor mean, std; /* [channels] of the latents */
};

#define ZOE_LTX_VAE_ENCODER_UNIT 0
#define ZOE_LTX_VAE_DECODER_UNIT 1
#define ZOE_LTX_VAE_SHARED_UNIT  2

/* One direction's unit together with what both share. */
int zoe_ltx_vae_acquire(zoe_ltx_vae *vae, int unit);
int zoe_ltx_vae_release(zoe_ltx_vae *vae, int unit, int status); /* as zoe_weights_release() */

#endif
