/*
 * Pieces of the Wan autoencoders; every activation is one frame [1, height, width, channels].
 *
 * What goes into a resnet's convolution is written to a room, a frame's memory that belongs to the level. It then stays in
 * the convolution's past, and what that lets go is the new room: nothing is copied.
 */
#ifndef ZOE_MODELS_WAN_VAE_BLOCKS_H
#define ZOE_MODELS_WAN_VAE_BLOCKS_H

#include "models/wan/vae.h"
#include "nn/conv.h"

#define ZOE_WAN_VAE_RESNETS 8 /* most that a level can have */

typedef struct wan_rooms {
    void *data[2];
    int64_t values; /* that each can hold, and every frame of a past that it is swapped with */
} wan_rooms;

typedef struct wan_resnet {
    zoe_tensor norm_1, norm_2; /* [channels] */
    zoe_carrier conv_1, conv_2;
    zoe_carrier shortcut; /* 1x1x1; w.rank 0 where the channels stay */
} wan_resnet;

typedef struct wan_attention {
    zoe_tensor norm;
    zoe_lin qkv, proj;
} wan_attention;

typedef struct wan_level {
    int64_t in, out; /* channels before the level and after its resnets */
    int resnet_count;
    wan_resnet resnets[ZOE_WAN_VAE_RESNETS];
    wan_rooms rooms;
    bool resample, temporal;
    int64_t resampled; /* channels after resampling */
    zoe_carrier space, time;
    zoe_tensor window; /* encoder: [3, h, w, out], the frames that the time convolution sees */
    zoe_tensor kept;   /* encoder with shortcuts: the level's input of the frame before */
    int waiting;       /* encoder: frames in the window that were not yet used */
} wan_level;

typedef struct wan_coder {
    zoe_carrier conv_in, conv_out;
    wan_resnet mid[2];
    wan_rooms mid_rooms;
    wan_attention attention;
    zoe_tensor norm_out;
    wan_level levels[ZOE_WAN_VAE_LEVELS];
} wan_coder;

struct zoe_wan_vae {
    zoe_backend *be;
    zoe_wan_vae_config config;
    zoe_weights *weights;
    wan_coder encoder, decoder;
    zoe_carrier quant, post_quant;
};

#define ZOE_WAN_VAE_ENCODER_UNIT 0
#define ZOE_WAN_VAE_DECODER_UNIT 1

/* Binding. Prefixes end in a dot. */
int zoe_wan_bind_resnet(zoe_weights *weights, wan_resnet *resnet, int64_t in, int64_t out, const char *prefix);
int zoe_wan_bind_mid(zoe_weights *weights, wan_coder *coder, int64_t channels, const char *prefix);

/* Takes rooms and an empty past for a chain from the arena; size: height and width, then those of what the chain makes. */
int zoe_wan_begin_resnets(zoe_backend *be, wan_resnet *resnets, int count, wan_rooms *rooms, const zoe_edges *edges,
                          int64_t size[2]);
int zoe_wan_begin_mid(zoe_backend *be, wan_coder *coder, int64_t height, int64_t width);

/*
 * All of a chain of x + conv(silu(norm(conv(silu(norm(x)))))). *y lies in x's memory, or fresh on the arena where the
 * channels or the width change or x is to be kept.
 */
int zoe_wan_resnets(zoe_backend *be, wan_resnet *resnets, int count, wan_rooms *rooms, const zoe_edges *edges, bool keep,
                    const zoe_tensor *x, zoe_tensor *y);
/* x = resnet, attention within the frame, resnet of x */
int zoe_wan_mid(zoe_backend *be, wan_coder *coder, zoe_tensor *x);
/* y = conv_out(silu(norm_out(x))); rooms as those of conv_out's past */
int zoe_wan_head(zoe_backend *be, wan_coder *coder, wan_rooms *rooms, const zoe_edges *edges, const zoe_tensor *x,
                 zoe_tensor *y);

#endif
