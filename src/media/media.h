/* Pictures and videos in and out of files, through FFmpeg's libraries. */
#ifndef ZOE_MEDIA_MEDIA_H
#define ZOE_MEDIA_MEDIA_H

#include "base/context.h"

/* ---- pictures ---- */

typedef struct zoe_picture {
    int width, height;
    uint8_t *rgb; /* [height, width, 3] */
} zoe_picture;

/*
 * Reads any picture that FFmpeg decodes and knows by its contents, as Pillow's conversion to RGB gives it: upright by its
 * EXIF orientation, alpha dropped, CMYK multiplied with black; of 16 bits the upper eight. Of an animation the first frame,
 * with a warning in the log. Within 3/255 of Pillow for JPEG (0.05/255 on average), exact for lossless formats; what is
 * transparent in a GIF comes out black.
 */
int zoe_picture_load(zoe_context *ctx, const char *path, zoe_picture *out);
void zoe_picture_free(zoe_context *ctx, zoe_picture *picture);

typedef enum zoe_filter {
    ZOE_FILTER_BICUBIC,
    ZOE_FILTER_BICUBIC_16, /* with weights of 16 bits, as PyTorch and torchvision resize bytes */
    ZOE_FILTER_LANCZOS,
} zoe_filter;

/* Resizes to width x height with the antialiasing filters of Pillow (or PyTorch), to the same bytes. */
int zoe_picture_resize(zoe_context *ctx, const zoe_picture *in, int width, int height, zoe_filter filter, zoe_picture *out);

/* ---- clips: videos, animations and pictures, frame by frame ---- */

typedef struct zoe_clip zoe_clip;

int zoe_clip_open(zoe_context *ctx, const char *path, zoe_clip **out);

/* The next frame, as zoe_picture_load() would give it; out->rgb is NULL past the last. A picture is a clip of one. */
int zoe_clip_next(zoe_clip *clip, zoe_picture *out);
void zoe_clip_close(zoe_clip *clip); /* NULL is fine */

/* ---- video out ---- */

typedef struct zoe_video_writer zoe_video_writer;

typedef struct zoe_video_settings {
    int width, height;
    double fps;
    const char *metadata; /* JSON text stored in the file's comment, or NULL */
} zoe_video_settings;

/*
 * Opens a writer by the ending of `path`: .mp4 (H.264, yuv420p, faststart; the best encoder that is there; odd sizes are
 * padded by repeating the last row or column), .webm (VP9), .gif, .y4m (4:4:4), .png with a place for the number such as
 * frame-%05d.png (from 0), "-" for Y4M on standard output. YUV is BT.709 in limited range. Data go to a temporary file
 * beside `path`. An unknown ending or a folder that cannot be written fails here, before anything is computed. Frames are
 * encoded on a thread of the writer's own.
 */
int zoe_video_create(zoe_context *ctx, const char *path, const zoe_video_settings *settings, zoe_video_writer **out);

/* Host memory that zoe_video_create() and so many frames take, an estimate; 0 for a name that cannot be written. */
int64_t zoe_video_memory(const char *path, int width, int height, int frames);

/* One frame, [height, width, 3] bytes; they are copied. Reports the encoder's failures, also of earlier frames. */
int zoe_video_write(zoe_video_writer *writer, const uint8_t *rgb);

/* Flushes, renames the temporary file to its name; frees the writer. With no frames written, leaves no file. */
int zoe_video_finish(zoe_video_writer *writer);

/* Leaves no file; frees the writer. NULL is fine. */
void zoe_video_abort(zoe_video_writer *writer);

/* The metadata that zoe_video_create() stored, freed by zoe_free(); *json is NULL if the file has none. */
int zoe_video_metadata(zoe_context *ctx, const char *path, char **json);

/* Size, frame rate, frame count and codec of a video file, as zoe_inspect() reports them. */
typedef struct zoe_video_info {
    int width, height;
    double fps, seconds;
    int64_t frames;
    char codec[32];
} zoe_video_info;
int zoe_video_probe(zoe_context *ctx, const char *path, zoe_video_info *out);

#endif
