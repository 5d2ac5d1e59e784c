/* What single kinds of files need besides an encoder and a muxer. Results are 0 or an FFmpeg error code. */
#ifndef ZOE_MEDIA_ENCODER_PARTS_H
#define ZOE_MEDIA_ENCODER_PARTS_H

#include "media/encoder.h"
#include "media/lazy.h"

/* Fills `error` from an FFmpeg error code; returns its status. */
int zoe_encoder_fail(const zoe_encoder_settings *settings, zoe_encoder_error *error, int code, const char *what);

/* ---- GIF: 256 colours chosen for each frame, with error diffusion ---- */

typedef struct zoe_palette zoe_palette;
int zoe_palette_open(const zoe_encoder_settings *settings, const AVCodecContext *codec, zoe_palette **out,
                     zoe_encoder_error *error);
/* rgb is [height, width, 3]; out becomes a frame of indices. */
int zoe_palette_apply(zoe_palette *palette, const uint8_t *rgb, AVFrame *out);
void zoe_palette_close(zoe_palette *palette);

/* Puts a comment into a finished GIF: its muxer writes none. */
int zoe_gif_add_comment(const char *path, const char *text);

/* ---- numbered PNG files ---- */

/* Writes the encoded picture number `number`, with the metadata as a text chunk if there are any. */
int zoe_numbered_write(const char *pattern, int64_t number, const char *metadata, const uint8_t *data, int size);
/* Removes the first `count` of them. */
void zoe_numbered_remove(const char *pattern, int64_t count);

#endif
