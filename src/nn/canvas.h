/*
 * Decoding a clip in parts of its frames: where the decoded parts are put together, and where is kept on the host what one
 * part of a network leaves for another.
 */
#ifndef ZOE_NN_CANVAS_H
#define ZOE_NN_CANVAS_H

#include "backend/backend.h"

/* How a video autoencoder divides frames. */
typedef enum zoe_tiling_kind {
    ZOE_TILING_NONE,
    ZOE_TILING_EXACT,     /* parts that overlap as far as the network sees: the numbers of whole frames */
    ZOE_TILING_REFERENCE, /* the reference's tiles, blended as it does: its numbers */
} zoe_tiling_kind;

typedef struct zoe_tiling {
    zoe_tiling_kind kind;
    int parts;  /* of a frame for ZOE_TILING_EXACT, 2 or more */
    int frames; /* latent frames at a time, where the network leaves that open; 0: as many as suit the backend */
    int whole;  /* levels that are not divided for ZOE_TILING_EXACT, 1 or 2; 0: as many as suit the backend */
} zoe_tiling;

/* The reference's tiles, in pixels (or what the network makes of them); axis 0: height, 1: width. */
typedef struct zoe_tiles {
    int64_t size[2], stride[2]; /* of a tile, and from tile to tile */
    int64_t blend[2];           /* rows and columns in which a tile fades into the one before */
    int64_t step;               /* rows and columns that fade alike */
} zoe_tiles;

/* Frames [frames, height, width, channels] on the host; in tiles float32. */
typedef struct zoe_canvas {
    zoe_backend *be;
    zoe_dtype dtype;
    int64_t frames, height, width, channels;
    char *values;
    zoe_tiles tiles;
    int64_t columns; /* of tiles */
    float *above;    /* [columns, frames, blend, size, channels]: the last rows of the tile above */
    float *left;     /* [frames, size, blend, channels]: the last columns of the tile to the left */
} zoe_canvas;

/* tiles NULL: parts are not blended. Host memory; free with zoe_canvas_free() after success and failure. */
int zoe_canvas_create(zoe_backend *be, zoe_dtype dtype, int64_t frames, int64_t height, int64_t width, int64_t channels,
                      const zoe_tiles *tiles, zoe_canvas *out);
void zoe_canvas_free(zoe_canvas *canvas);

/* A part [size[0], size[1], channels] of a frame, from row at[0] and column at[1] on. */
void zoe_canvas_put(zoe_canvas *canvas, int64_t frame, const int64_t at[2], const int64_t size[2], const void *values);

/*
 * Tile `tile` (row, column) of a frame, [size[0], size[1], channels]; every tile of a row of tiles after the one to its
 * left and every row after the one above. `values` is changed.
 */
void zoe_canvas_put_tile(zoe_canvas *canvas, int64_t frame, const int64_t tile[2], const int64_t size[2], float *values);

/* A frame, complete once all parts were put. */
void *zoe_canvas_frame(const zoe_canvas *canvas, int64_t frame);

#endif
