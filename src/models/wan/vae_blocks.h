/* Pieces of the Wan autoencoders; every activation is one frame [1, height, width, channels]. */
#ifndef ZOE_MODELS_WAN_VAE_BLOCKS_H
#define ZOE_MODELS_WAN_VAE_BLOCKS_H

#include "models/wan/vae.h"

#define ZOE_WAN_VAE_RESNETS 8 /* most that a level can have */

/* A convolution with what it carries from frame to frame. */
typedef struct wan_conv {
    zoe_tensor w, b;
    zoe_tensor history; /* [2, height, width, in] while a clip runs; rank 0 for kernels of one frame */
} wan_conv;

typedef struct wan_resnet {
    zoe_tensor norm_1, norm_2; /* [channels] */
    wan_conv conv_1, conv_2;
    wan_conv shortcut; /* 1x1x1; w.rank 0 where the channels stay */
} wan_resnet;

typedef struct wan_attention {
    zoe_tensor norm;
    zoe_lin qkv, proj;
} wan_attention;

typedef struct wan_level {
    int64_t in, out; /* channels before the level and after its resnets */
    int resnet_count;
    wan_resnet resnets[ZOE_WAN_VAE_RESNETS];
    bool resample, temporal;
    int64_t resampled; /* channels after resampling */
    wan_conv space, time;
    zoe_tensor window; /* encoder: [3, h, w, out], the frames that the time convolution sees */
    zoe_tensor kept;   /* encoder with shortcuts: the level's input of the frame before */
    int waiting;       /* encoder: frames in the window that were not yet used */
} wan_level;

typedef struct wan_coder {
    wan_conv conv_in, conv_out;
    wan_resnet mid[2];
    wan_attention attention;
    zoe_tensor norm_out;
    wan_level levels[ZOE_WAN_VAE_LEVELS];
} wan_coder;

struct zoe_wan_vae {
    zoe_backend *be;
    zoe_wan_vae_config config;
    zoe_weights *weights;
    wan_coder encoder, decoder;
    wan_conv quant, post_quant;
};

#define ZOE_WAN_VAE_ENCODER_UNIT 0
#define ZOE_WAN_VAE_DECODER_UNIT 1

/* Binding. Prefixes end in a dot. */
int zoe_wan_bind_conv(zoe_weights *weights, wan_conv *conv, int64_t in, int64_t out, const int kernel[3],
                      const char *prefix);
int zoe_wan_bind_resnet(zoe_weights *weights, wan_resnet *resnet, int64_t in, int64_t out, const char *prefix);
int zoe_wan_bind_mid(zoe_weights *weights, wan_coder *coder, int64_t channels, const char *prefix);

/* Zeroed history on the arena for frames of this size. */
int zoe_wan_begin_conv(zoe_backend *be, wan_conv *conv, int64_t height, int64_t width);
int zoe_wan_begin_resnets(zoe_backend *be, wan_resnet *resnets, int count, int64_t height, int64_t width);

/* y = conv(history, x) + residual, then x becomes history. */
int zoe_wan_conv(zoe_backend *be, wan_conv *conv, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *residual);
/* y = x + conv(silu(norm(conv(silu(norm(x)))))) */
int zoe_wan_resnet(zoe_backend *be, wan_resnet *resnet, zoe_tensor *y, const zoe_tensor *x);
/* All of a chain; *y is fresh on the arena. */
int zoe_wan_resnets(zoe_backend *be, wan_resnet *resnets, int count, const zoe_tensor *x, zoe_tensor *y);
/* resnet, attention within the frame, resnet; *y is fresh on the arena. */
int zoe_wan_mid(zoe_backend *be, wan_coder *coder, const zoe_tensor *x, zoe_tensor *y);
/* y = conv_out(silu(norm_out(x))) */
int zoe_wan_head(zoe_backend *be, wan_coder *coder, const zoe_tensor *x, zoe_tensor *y);
/* y = silu?(x / |x| * sqrt(channels) * gamma) */
int zoe_wan_vae_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *gamma, zoe_act act);

#endif
