/*
 * One video file in the making: frames of RGB go in, a file of some kind comes out. Runs wholly on one thread, which is
 * not the context's: failures go into a text of its own.
 */
#ifndef ZOE_MEDIA_ENCODER_H
#define ZOE_MEDIA_ENCODER_H

#include "base/context.h"

typedef struct zoe_encoder_kind zoe_encoder_kind;
typedef struct zoe_encoder zoe_encoder;

typedef struct zoe_encoder_error {
    int status;
    char text[1024];
} zoe_encoder_error;

/* The kind of file by the ending of `path`, NULL if there is none; "-" is Y4M. */
const zoe_encoder_kind *zoe_encoder_find(const char *path);
const char *zoe_encoder_endings(void); /* for error texts */

/* Host memory that writing so many frames takes, an estimate. */
int64_t zoe_encoder_memory(const zoe_encoder_kind *kind, int width, int height, int frames);

/* Sizes must be even: pictures are padded before they come here. */
bool zoe_encoder_wants_even(const zoe_encoder_kind *kind);
/* The path is a pattern such as "frames/%05d.png", of which one file a frame is made. */
bool zoe_encoder_is_numbered(const zoe_encoder_kind *kind);
bool zoe_encoder_pattern_ok(const char *path);

typedef struct zoe_encoder_settings {
    zoe_context *ctx;     /* for the log only */
    const char *path;     /* what to write: "-", a temporary file, or the pattern of numbered files */
    const char *shown;    /* the name for messages */
    const char *metadata; /* JSON text or NULL */
    int width, height;
    double fps;
} zoe_encoder_settings;

int zoe_encoder_open(const zoe_encoder_kind *kind, const zoe_encoder_settings *settings, zoe_encoder **out,
                     zoe_encoder_error *error);
/* rgb is [height, width, 3]. */
int zoe_encoder_frame(zoe_encoder *encoder, const uint8_t *rgb, zoe_encoder_error *error);
/* Frees the encoder; with `complete` it writes what is still held back first. */
int zoe_encoder_close(zoe_encoder *encoder, bool complete, zoe_encoder_error *error);

#endif
