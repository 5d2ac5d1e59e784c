/*
 * The way of decoded frames to the host: while those of one step travel, the next ones are computed. Frames that are
 * decoded in parts are put together here.
 */
#ifndef ZOE_NN_FILM_H
#define ZOE_NN_FILM_H

#include "nn/canvas.h"

/*
 * Receives one frame [height, width, 3] float32 on the host, NULL where nothing is computed; a negative status ends the
 * decoding with it.
 */
typedef int (*zoe_frame_sink)(void *user, const float *frame);

typedef struct zoe_film {
    zoe_backend *be;
    zoe_dtype dtype;       /* in which frames travel */
    int64_t height, width; /* of whole frames */
    bool clamp;            /* to -1..1 */
    zoe_frame_sink sink;
    void *user;
    float *frame;      /* [height, width, 3], as the sink gets it */
    char *arrived;     /* what is on its way to the host, or there: frames of a part */
    size_t capacity;   /* bytes that it can hold */
    int64_t size[2];   /* rows and columns of the part */
    int64_t pending;   /* frames in `arrived` that were not passed on */
    int64_t done;      /* frames of this part that were */
    zoe_canvas canvas; /* values NULL: frames are whole */
    int64_t at[2];     /* where the part lies, or which tile it is */
    bool tiled, last;  /* last: no other part comes after this one */
} zoe_film;

/* Whole frames of this size go to `sink`. */
void zoe_film_open(zoe_backend *be, int64_t height, int64_t width, bool clamp, zoe_frame_sink sink, void *user,
                   zoe_film *out);
/* Frames, `frames` in all, come in parts: tiles, or any others if NULL. */
int zoe_film_divide(zoe_film *film, int64_t frames, const zoe_tiles *tiles);
void zoe_film_close(zoe_film *film);

/* From now on come all frames of another part, which starts at this row and column, or is tile (row, column). */
int zoe_film_next_part(zoe_film *film, const int64_t at[2], bool last);

/* The next frames of the part, [frames, rows, patch, columns, patch, 3]: sent on their way, and those before passed on. */
int zoe_film_add(zoe_film *film, const zoe_tensor *pixels);
/* Waits for what is on its way and passes it on. */
int zoe_film_flush(zoe_film *film);

#endif
