/*
 * Convolutions over clips that are computed piece by piece: in time by the frames that they carry, in space by edges
 * behind which the picture goes on.
 */
#ifndef ZOE_NN_CONV_H
#define ZOE_NN_CONV_H

#include "weights/weights.h"

/* A convolution with what it carries of the past, two frames, while a clip runs. */
typedef struct zoe_carrier {
    zoe_tensor w, b;  /* w [out, time, height, width, in] */
    zoe_tensor frame; /* [1, height, width, in]: the shape of what is carried */
    void *slots[2];   /* the frame before the last one, and the last one */
    int64_t carried;  /* frames so far; the first one stands for those in front of it */
} zoe_carrier;

/* Which edges of a part of a frame are not the frame's: a convolution needs what lies behind them and makes less. */
typedef struct zoe_edges {
    bool inner[2][2]; /* height, width: before, after */
} zoe_edges;

/* "<prefix>weight" and "<prefix>bias"; kernel: time (0: the weights are stored without that axis), height, width. */
int zoe_carrier_bind(zoe_weights *weights, zoe_carrier *conv, int64_t in, int64_t out, const int kernel[3],
                     const char *prefix);

/*
 * Takes room for the past from the arena, unless the kernel is of one frame: at least `room` values a frame, for memory
 * that is swapped among convolutions of different sizes. Nothing is carried yet.
 */
int zoe_carrier_begin(zoe_backend *be, zoe_carrier *conv, int64_t height, int64_t width, int64_t room);
/* The same with two frames of zeros carried. */
int zoe_carrier_begin_zero(zoe_backend *be, zoe_carrier *conv, int64_t height, int64_t width, int64_t room);

/*
 * y = conv(past, x) + residual; the past stays as it is. residual: NULL, or as y with any strides but that of channels, or
 * y itself. At each inner edge (edges NULL: none) y is less than x by one row or column if the kernel is three of them
 * wide.
 */
int zoe_carrier_run(zoe_backend *be, const zoe_carrier *conv, const zoe_edges *edges, zoe_tensor *y, const zoe_tensor *x,
                    const zoe_tensor *residual);
/* x is read with every pixel repeated 2 x 2; the kernel is of one frame. */
int zoe_carrier_enlarge(zoe_backend *be, const zoe_carrier *conv, const zoe_edges *edges, zoe_tensor *y,
                        const zoe_tensor *x);

/* x, one frame, becomes the last one of the past with its memory; x gets what the past lets go, to be written anew. */
void zoe_carrier_swap(zoe_carrier *conv, zoe_tensor *x);
/* The last frames of x become the past as copies. */
int zoe_carrier_copy(zoe_backend *be, zoe_carrier *conv, const zoe_tensor *x);
/* The last frame carried. */
zoe_tensor zoe_carrier_last(const zoe_carrier *conv);

/* x [frames, height, width, channels] without `depth` rows or columns at each inner edge. */
zoe_tensor zoe_edges_cut(const zoe_edges *edges, const zoe_tensor *x, int64_t depth);
/* size: height and width, without `depth` of them at each inner edge. */
void zoe_edges_shrink(const zoe_edges *edges, int64_t size[2], int64_t depth);

#endif
